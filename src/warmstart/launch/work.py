"""What the processes of a launcher do: check runs before the first one starts, and bring one to
its end. Torch is imported in the functions: a driver may name them without having it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.errors import ConfigError, RunError
from warmstart.launch.jobs import Job, Outcome, Resources
from warmstart.stopping import Pruned, Stopped

if TYPE_CHECKING:
    from warmstart.results.record import Record
    from warmstart.run.plan import Run


@dataclasses.dataclass(frozen=True)
class Planned:
    """What is known of a run before it starts.

    Attributes:
        key: The run's identity.
        name: Of a source, as weights name it; empty for the run of a cell.
        folder: Of the run.
        input: What its model sees, as text.
        finished: Whether nothing is left to do.
        device: ``cpu`` or ``gpu``: what it will compute on.
        resources: What it will be given.
        seconds: Predicted, on these.
        basis: Where the prediction comes from, in words.
        source: The run that its weights come from.
        stack: Runs that have the same here, if it is not empty, can be trained together.
        steps: Of its training.
    """

    key: str
    name: str
    folder: Path
    input: str
    finished: bool
    device: str
    resources: Resources
    seconds: float
    basis: str
    source: Planned | None
    stack: str = ""
    steps: int = 0


def plan_cells(
    configs: Sequence[Mapping[str, Any]], labels: Sequence[str], elsewhere: bool
) -> list[Planned]:
    """Check the config of every cell.

    Args:
        configs: Resolved and plain.
        labels: What errors call them.
        elsewhere: They will run on other machines: that a device is missing here is no error.

    Raises:
        ConfigError: The first that is wrong.
    """
    from warmstart.launch.cost import History
    from warmstart.run.preparing import prepare

    history = History.read(Path(configs[0]["out"])) if configs else None
    known: dict[Path, Planned] = {}
    planned = []
    for config, label in zip(configs, labels, strict=True):
        try:
            planned.append(_planned(prepare(config, elsewhere=elsewhere), history, known))
        except ConfigError as error:
            raise ConfigError(f"{error} (in the cell {label})") from error
    return planned


def _planned(run: Run, history: Any, known: dict[Path, Planned], name: str = "") -> Planned:
    """Return what is known of a run; a source that many cells share is looked at once."""
    if run.folder in known:
        return known[run.folder]
    from warmstart.launch.cost import predict
    from warmstart.launch.resources import resources_of
    from warmstart.run.together import stack_key

    seconds, basis = predict(run, history)
    known[run.folder] = Planned(
        key=run.key,
        name=name,
        folder=run.folder,
        input=str(run.input),
        finished=run.finished() is not None,
        device=run.hardware.device,
        resources=resources_of(run.config, run.hardware),
        seconds=seconds,
        basis=basis,
        stack=stack_key(run),
        steps=run.steps,
        source=_planned(run.source, history, known, run.origins[0]) if run.source else None,
    )
    return known[run.folder]


def run_job(job: Job, progress: Callable[[int, int], None] | None = None) -> Outcome:
    """Bring one run to its end, or several that train together, and say how it ended.

    Raises:
        Stopped: It was asked to stop, and has left a checkpoint.
    """
    from warmstart.run.execution import execute

    if job.members:
        return _run_members(job, progress)
    try:
        record = execute(_run_of(job), progress=progress)
    except Pruned as error:
        return Outcome(job, text=str(error))
    except Stopped:
        raise
    except (ConfigError, RunError, OSError) as error:
        return Outcome(job, error=str(error))
    return Outcome(job, text=outcome_line(record))


def _run_members(job: Job, progress: Callable[[int, int], None] | None) -> Outcome:
    """Bring several runs to their ends together."""
    from warmstart.run.together import execute_together

    runs: dict[Path, Run] = {}
    ends: dict[Path, Outcome] = {}
    for member in job.members:
        try:
            runs[member.folder] = _run_of(member)
        except (ConfigError, RunError, OSError) as error:
            ends[member.folder] = Outcome(member, error=str(error))
    results = execute_together(list(runs.values()), progress=progress)
    for member in job.members:
        if member.folder in runs:
            ends[member.folder] = _end(member, results[runs[member.folder].folder])
    return Outcome(job, members=tuple(ends[member.folder] for member in job.members))


def _end(job: Job, result: Record | Exception) -> Outcome:
    if not isinstance(result, Exception):
        return Outcome(job, text=outcome_line(result))
    if isinstance(result, (ConfigError, RunError, OSError)):
        return Outcome(job, error=str(result))
    return Outcome(job, error=f"{type(result).__name__}: {' '.join(str(result).split())}")


def _run_of(job: Job) -> Run:
    """Return the run of a job.

    Raises:
        ConfigError, RunError: It is none, or another one than where it was planned.
    """
    from warmstart.run.preparing import prepare

    run = prepare(job.config)
    for _ in range(job.source):
        assert run.source is not None
        run = run.source
    if run.key != job.key:
        raise RunError(
            f"here the run is another one ({run.key[:12]}) than where it was planned "
            f"({job.key[:12]}): its data, weights or libraries differ between the machines"
        )
    return run


def outcome_line(record: Record) -> str:
    """Return the line about a finished run."""
    seconds = record.timing["total_seconds"]
    name = "test/accuracy" if record.test_opened else "val/accuracy"
    steps = record.config.get("steps")
    early = f", stopped early at step {record.stopped_at} of {steps}" if record.stopped_at else ""
    return f"{name} {record.metrics[name]:.4f} in {seconds:.1f} s{early}"
