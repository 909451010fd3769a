"""One run after the other, in this process, where imports and data are there already."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from warmstart.launch.jobs import Job, Outcome, T, unmet
from warmstart.launch.stacks import merged, outcomes
from warmstart.launch.work import run_job


class Shows(Protocol):
    """What shows the steps of the run that is under way."""

    def start(self, label: str) -> None: ...

    def step(self, done: int, steps: int) -> None: ...


class BasicEngine:
    """Runs jobs in the order in which they come, those that others need before them.

    Args:
        display: Shows each run's steps.
    """

    elsewhere = False
    parallel = False

    def __init__(self, display: Shows) -> None:
        self._display = display

    def call(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        failed: dict[str, str] = {}
        # In the order of the grid: on one device no other ends earlier.
        for job in merged(sorted(jobs, key=lambda job: -job.source)):
            outcome = unmet(job, failed)
            if outcome is None:
                self._display.start(job.label)
                outcome = run_job(job, self._display.step)
            if outcome.error is not None:
                failed[job.key] = job.label
            yield from outcomes(outcome)
