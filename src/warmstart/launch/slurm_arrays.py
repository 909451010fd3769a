"""Runs as job arrays: which go together, what is asked for them, and their way into the queue."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import re
import shlex
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError
from warmstart.launch import slurm_queue
from warmstart.launch.jobs import Job, Resources
from warmstart.launch.order import ordered
from warmstart.launch.slurm_queue import Place
from warmstart.launch.slurm_task import SlurmTask, Work
from warmstart.launch.stacks import merged

PREFIX = "warmstart-"
# What sbatch says when the same words can succeed later.
_LATER = re.compile(
    r"unable to contact|timed out|connection|temporarily|standby|zero bytes|i/o error|"
    r"submit.*limit|limit.*submit|too many|dependency",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user asks of Slurm for every job; the attributes are those of `SlurmEngine`."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_minutes: int | None = None
    mem_gb: float | None = None
    constraint: str | None = None
    max_running: int | None = None
    cells_per_job: int = 1
    signal_seconds: int = 90
    setup: Sequence[str] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Batch:
    """One job array that is to be submitted.

    Attributes:
        tasks: The runs of each of its tasks.
        resources: Of each run.
        needs: Keys of the runs that must have ended before.
    """

    tasks: tuple[tuple[Job, ...], ...]
    resources: Resources
    needs: tuple[str, ...]


class Later(Exception):  # noqa: N818 - nothing is wrong
    """Slurm takes no job now, and may later; the message is its own."""


def batches(jobs: Sequence[Job], *, cells_per_job: int, largest: int) -> list[Batch]:
    """Cut the runs into arrays, those that others need first.

    Args:
        jobs: To be submitted.
        cells_per_job: Runs of one task; those that others need have a task of their own.
        largest: How many tasks an array may have.
    """
    keys = {job.key for job in jobs}
    needed = {key for job in jobs for key in job.needs}
    kinds: dict[tuple[Resources, tuple[str, ...], bool], list[Job]] = {}
    for job in ordered(jobs):
        needs = tuple(key for key in job.needs if key in keys)
        kinds.setdefault((job.resources, needs, job.key in needed), []).append(job)
    found = []
    for (resources, needs, shared), group in kinds.items():
        # Runs that train together are in one task, as one.
        units = _cut(merged(group), 1 if shared else cells_per_job)
        tasks = [tuple(run for job in unit for run in job.runs) for unit in units]
        found += [Batch(tuple(part), resources, needs) for part in _cut(tasks, largest)]
    return found


def _cut(items: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def submit(
    batch: Batch,
    options: Options,
    *,
    folder: Path,
    sources: Mapping[str, Job],
    after: Sequence[str],
    work: Work,
) -> tuple[str, list[Place]]:
    """Submit an array, and return its name and the place of each of its tasks.

    Args:
        batch: The array.
        options: What the user asks for.
        folder: Of its logs, and of a file that says which run is which task.
        sources: Runs that others need, by key.
        after: Arrays and tasks that must have ended before: ``12``, ``12_3``.
        work: What a task does with each run.

    Raises:
        Later: Slurm takes no job now.
        ConfigError: Slurm refuses such jobs.
    """
    import submitit

    folder.mkdir(parents=True, exist_ok=True)
    name = f"{PREFIX}{uuid.uuid4().hex[:12]}"
    # Before there is a job: whoever finds it in the queue knows what it does.
    _write_tasks(folder / f"{name}.json", batch)
    known = {key: (job.label, job.folder) for key, job in sources.items()}
    tasks = [
        SlurmTask(
            jobs, {key: known[key] for job in jobs for key in job.needs if key in known}, work
        )
        for jobs in batch.tasks
    ]
    words = io.StringIO()
    try:
        with _clean_environment(), contextlib.redirect_stderr(words):
            executor = submitit.SlurmExecutor(folder, python=_python())
            executor.update_parameters(**_parameters(name, batch, options, after))
            jobs = executor.submit_array(tasks)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        # It may have been taken although the answer was lost.
        slurm_queue.cancel_named(name)
        reason = " ".join(str(error).replace("sbatch: error:", "").split())
        if _LATER.search(reason):
            raise Later(reason) from error
        raise ConfigError(
            f"Slurm refuses the jobs: {reason}; see hydra.launcher.* and resources.*"
        ) from error
    except BaseException:  # Ctrl-C too: of what is half submitted nobody would know
        slurm_queue.cancel_named(name)
        raise
    places = [str(job.job_id).partition("_") for job in jobs]
    return name, [Place(array, int(index) if index else None) for array, _, index in places]


def keys_of(folder: Path, name: str, place: Place) -> list[str]:
    """Return the keys of a task's runs, if its array was submitted from here; else none."""
    try:
        tasks: list[list[str]] = json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return []
    return tasks[place.task or 0]


def log(folder: Path, place: Place) -> Path:
    """Return the file with what a task has printed as errors."""
    return folder / f"{place.name}_0_log.err"


def minutes(resources: Resources, options: Options, runs: int) -> int | None:
    """Return the time limit of a task with so many runs; None leaves it to the partition.

    Raises:
        ConfigError: A run may take longer than its job.
    """
    timeout, given = resources.timeout, options.time_minutes
    if timeout is None:
        return given
    if given is None:
        # A process ends itself in time; this is for one that cannot any more.
        return math.ceil((timeout * runs + options.signal_seconds) / 60) + 1
    if timeout > given * 60:
        raise ConfigError(
            f"resources.timeout is {timeout:g} s, but hydra.launcher.time_minutes={given} ends a "
            "job before; give more minutes, or a shorter timeout"
        )
    return given


def check_gpus(jobs: Sequence[Job]) -> None:
    """Refuse shares of a GPU.

    Raises:
        ConfigError: A run asks for one.
    """
    for job in jobs:
        if job.resources.gpus != int(job.resources.gpus):
            raise ConfigError(
                f"resources.gpus is {job.resources.gpus:g}, but Slurm gives whole GPUs; give "
                "resources.gpus=1 (and hydra.launcher.cells_per_job=8 for short runs), or use "
                "hydra/launcher=local on the node"
            )


def _parameters(name: str, batch: Batch, options: Options, after: Sequence[str]) -> dict[str, Any]:
    """Return what submitit writes into the batch script."""
    gpus, cpus = int(batch.resources.gpus), batch.resources.cpus
    extra = {"requeue": True, **options.extra}
    if gpus:
        extra = {"gres": f"gpu:{gpus}", **extra}
    mem = None if options.mem_gb is None else f"{math.ceil(options.mem_gb * 1024)}M"
    given = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "mem": mem,
        "constraint": options.constraint,
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        "setup": list(options.setup) or None,
    }
    return {
        "job_name": name,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        # Since 22.05 a step does not take this over from its job.
        "srun_args": [f"--cpus-per-task={cpus}"],
        "signal_delay_s": options.signal_seconds,
        "array_parallelism": options.max_running or len(batch.tasks),
        "additional_parameters": extra,
        **{key: value for key, value in given.items() if value is not None},
        "time": minutes(
            batch.resources, options, max(map(len, batch.tasks))
        ),  # None, or it would be 5
    }


def _python() -> str:
    """Return the shell's words that start Python, deaf to SIGUSR2 until it can act on it."""
    return f"""sh -c 'trap "" USR2; exec "$0" "$@"' {shlex.quote(sys.executable)}"""


def _write_tasks(path: Path, batch: Batch) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps([[job.key for job in jobs] for jobs in batch.tasks]))
    os.replace(part, path)


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Hide the job around this process, or new jobs would inherit its size."""
    clean = slurm_queue.environment(os.environ)
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if key not in clean}
    try:
        yield
    finally:
        os.environ.update(hidden)
