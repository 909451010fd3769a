"""What the processes of a launcher do: check runs before the first one starts, and bring one to
its end. Torch is imported in the functions: a driver may name them without having it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.errors import ConfigError, RunError
from warmstart.launch.jobs import Job, Outcome, Resources
from warmstart.stopping import Stopped

if TYPE_CHECKING:
    from warmstart.plan import Run
    from warmstart.results.record import Record


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
    from warmstart.plan import prepare

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
        source=_planned(run.source, history, known, run.origins[0]) if run.source else None,
    )
    return known[run.folder]


def run_job(job: Job, progress: Callable[[int, int], None] | None = None) -> Outcome:
    """Bring one run to its end, and say how it ended.

    Raises:
        Stopped: It was asked to stop, and has left a checkpoint.
    """
    from warmstart.plan import prepare
    from warmstart.run import execute

    try:
        run = prepare(job.config)
        for _ in range(job.source):
            assert run.source is not None
            run = run.source
        if run.key != job.key:
            raise RunError(
                f"here the run is another one ({run.key[:12]}) than where it was planned "
                f"({job.key[:12]}): its data, weights or libraries differ between the machines"
            )
        record = execute(run, progress=progress)
    except Stopped:
        raise
    except (ConfigError, RunError, OSError) as error:
        return Outcome(job, error=str(error))
    return Outcome(job, text=outcome_line(record))


def outcome_line(record: Record) -> str:
    """Return the line about a finished run."""
    seconds = record.timing["total_seconds"]
    name = "test/accuracy" if record.test_opened else "val/accuracy"
    return f"{name} {record.metrics[name]:.4f} in {seconds:.1f} s"
