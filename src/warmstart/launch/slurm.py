"""Runs on a Slurm cluster: submitted as job arrays, followed by their files and the queue."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError
from warmstart.launch import slurm_arrays, slurm_queue
from warmstart.launch.jobs import Job, Outcome, T
from warmstart.launch.slurm_arrays import Options
from warmstart.launch.slurm_follow import Follower
from warmstart.launch.slurm_task import Work
from warmstart.launch.work import run_job

_OWN = ("array", "dependency", "error", "job-name", "output", "requeue", "signal")
"""Options of `sbatch` that warmstart itself sets."""

_log = logging.getLogger("warmstart")


class SlurmEngine:
    """A launcher's engine for a Slurm cluster.

    The driver only submits and looks. It can be left: the jobs go on, and the same command finds
    them in the queue again.

    Args:
        folder: For logs and scripts; on a file system that all nodes see.
        partition, account, qos, constraint: As `sbatch` takes them; None leaves it to the cluster.
        time_minutes: Limit of one job. A run that reaches it writes a checkpoint, and goes on in
            the next job.
        mem_gb: Memory of one job.
        max_running: At most so many jobs at a time.
        cells_per_job: Runs that one job does one after the other; they share its start.
        signal_seconds: So long before its limit a job is told to write its checkpoint.
        poll_seconds: Between two looks at the queue.
        setup: Lines of shell before Python starts, such as ``module load cuda``.
        extra: More options of `sbatch`: ``{exclude: node7}``.
        say: Takes lines for the user; by default they are logged.
        work: What a job does with each run.

    Raises:
        ConfigError: An option is wrong, or Slurm or submitit is missing.
    """

    elsewhere = True
    parallel = True

    def __init__(
        self,
        folder: Path,
        *,
        poll_seconds: float = 5.0,
        setup: Sequence[str] | None = None,
        extra: Mapping[str, Any] | None = None,
        say: Callable[[str], None] | None = None,
        work: Work = run_job,
        **options: Any,
    ) -> None:
        self.folder = folder.absolute()
        self.options = Options(setup=tuple(setup or ()), extra=dict(extra or {}), **options)
        self.poll_seconds = poll_seconds
        self.say = say or _log.info
        self.work = work
        _check(self.options, poll_seconds)
        if importlib.util.find_spec("submitit") is None:
            raise ConfigError(
                "hydra/launcher=slurm needs the package submitit, which is not installed; "
                "install it with pip install 'warmstart[slurm]'"
            )
        slurm_queue.check_commands()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Return ``function(*args)``, computed in this process."""
        return function(*args)

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Bring all jobs to an end; yield each one's outcome.

        Closing the generator leaves what is submitted running.

        Raises:
            ConfigError: Slurm refuses the jobs.
        """
        slurm_arrays.check_gpus(jobs)
        for job in jobs:
            slurm_arrays.minutes(job.resources, self.options, 1)
        if jobs:
            follower = Follower(
                jobs,
                self.options,
                folder=self.folder,
                poll_seconds=self.poll_seconds,
                say=self.say,
                work=self.work,
            )
            yield from follower.follow()


def _check(options: Options, poll_seconds: float) -> None:
    """Refuse options that cannot be meant.

    Raises:
        ConfigError: Which one.
    """
    for name in ("time_minutes", "max_running", "cells_per_job", "signal_seconds"):
        value = getattr(options, name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise ConfigError(
                f"hydra.launcher.{name} is {value!r}, but must be a whole number from 1"
            )
    memory = options.mem_gb
    if memory is not None and not (isinstance(memory, (int, float)) and memory > 0):
        raise ConfigError(f"hydra.launcher.mem_gb is {memory!r}, but must be a number above 0")
    if not (isinstance(poll_seconds, (int, float)) and 0.1 <= poll_seconds <= 30):
        raise ConfigError(
            f"hydra.launcher.poll_seconds is {poll_seconds!r}, but must be from 0.1 to 30"
        )
    for name in options.extra:
        if name in _OWN:
            raise ConfigError(
                f"hydra.launcher.extra sets {name!r}, which warmstart itself sets; leave it out"
            )
