"""What a task of a job array does on its node: its runs, one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from warmstart import stopping
from warmstart.launch import slurm_queue
from warmstart.launch.jobs import Job, Outcome, unmet
from warmstart.launch.stacks import one_job, outcomes
from warmstart.results import state as states
from warmstart.results.state import State

_IDLE_STARTS = 5
"""A task that was started again so often, and this time has done no step, is given up."""
_REQUEUE_SECONDS = 60.0

Work = Callable[[Job], Outcome]


class SlurmTask:
    """The function that submitit calls in a job.

    What becomes of a run stands in its folder. SIGUSR2 (the time limit is near, or somebody more
    important needs the device) and SIGTERM let the run write a checkpoint and end; then the task
    puts itself back into the queue, unless it was cancelled.

    Args:
        jobs: To bring to their ends.
        sources: Label and folder of those runs that they need, by key.
        work: `warmstart.launch.work.run_job`.
    """

    def __init__(
        self, jobs: Sequence[Job], sources: Mapping[str, tuple[str, Path]], work: Work
    ) -> None:
        self.jobs = list(jobs)
        self.sources = dict(sources)
        self.work = work
        self._signals: list[int] = []

    def __call__(self) -> None:
        """Bring the runs to their ends; the exit code is 1 when one of them fails."""
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("warmstart").setLevel(logging.INFO)
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._note_signal)
        # After a requeue: what has failed in this task stays so, what is done returns at once.
        left = [job for job in self.jobs if not _failed(job)]
        failed = len(left) < len(self.jobs)
        for _, group in itertools.groupby(left, key=lambda job: job.stack or job.key):
            job = one_job(list(group))
            before = states.read(job.folder)
            try:
                stopping.check()  # between two runs
                outcome = self._bring(job)
            except stopping.Stopped:
                self._stop(job, before)
            for end in outcomes(outcome):
                if end.error is not None:
                    failed = True
                    note_failure(end.job, end.error)
        if failed:
            sys.exit(1)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        stopping.request()

    def _bring(self, job: Job) -> Outcome:
        failed = {
            key: label
            for key, (label, folder) in self.sources.items()
            if (source := states.read(folder)) is not None and source.state == "failed"
        }
        outcome = unmet(job, failed)
        if outcome is not None:
            return outcome
        with _at_most(job):
            return self.work(job)

    def _stop(self, job: Job, before: State | None) -> NoReturn:
        """Go back into the queue, or end here; does not return."""
        name = os.environ["SLURM_JOB_ID"]
        if signal.SIGUSR2 not in self._signals and not slurm_queue.preempted(name):
            print("cancelled; the checkpoint is written", file=sys.stderr, flush=True)
            sys.exit(1)
        after = states.read(job.folder)
        starts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        moved = after is None or before is None or after.step > before.step
        if starts >= _IDLE_STARTS and not moved:
            note_failure(
                job,
                f"it was stopped {starts + 1} times before its next step; give it more time with "
                "hydra.launcher.time_minutes",
            )
            sys.exit(1)
        print("stopped on a signal; back into the queue", file=sys.stderr, flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Slurm's, to end what it puts back
        problem, until = slurm_queue.requeue(name), time.monotonic() + _REQUEUE_SECONDS
        while problem is not None and time.monotonic() < until:
            time.sleep(1)
            problem = slurm_queue.requeue(name)
        if problem is not None:
            print(f"could not be put back into the queue: {problem}", file=sys.stderr, flush=True)
            sys.exit(1)
        time.sleep(_REQUEUE_SECONDS)  # an exit of its own could be taken for the job's end
        sys.exit(1)


def _failed(job: Job) -> bool:
    state = states.read(job.folder)
    return state is not None and state.state == "failed"


def note_failure(job: Job, reason: str) -> None:
    """Write into the run's folder that it has failed, unless it says so itself."""
    state = states.read(job.folder) or State("failed")
    if state.state != "failed" or not state.reason:
        dataclasses.replace(state, state="failed", reason=reason, stage="").write(job.folder)


@contextlib.contextmanager
def _at_most(job: Job) -> Iterator[None]:
    """End this process when the run takes longer than ``resources.timeout``."""
    seconds = job.timeout
    if seconds is None:
        yield
        return

    def end() -> None:
        reason = f"it took longer than resources.timeout={seconds:g} seconds, and was ended"
        for end in outcomes(Outcome(job, error=reason)):
            if end.error is not None:
                note_failure(end.job, reason)
        print(reason, file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
