"""Which job is next: the queue that the slots of a machine share. Imports no torch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

from warmstart.launch.jobs import Job, Outcome, unmet
from warmstart.launch.order import ordered


class Board:
    """The jobs of one sweep, taken by several threads and ended by them.

    A job becomes ready when all that it needs has ended; when one of those failed, it fails too.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._pending = ordered(jobs)
        self._under_way = {job.key for job in jobs}
        self._failed: dict[str, str] = {}
        self._changed = threading.Condition()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._count = len(jobs)
        self._closed = False

    def take(self, *, wait: bool) -> Job | None:
        """Return the next job, or None when there is none left (or, without `wait`, none now)."""
        with self._changed:
            while not self._closed:
                ready = next((job for job in self._pending if self._ready(job)), None)
                if ready is not None:
                    self._pending.remove(ready)
                    return ready
                if not self._pending or not wait:
                    return None
                self._changed.wait()
        return None

    @property
    def empty(self) -> bool:
        """Whether no job is left to take, now or later."""
        with self._changed:
            return self._closed or not self._pending

    def end(self, outcome: Outcome) -> None:
        """Note how a job has ended, and fail those that cannot start any more."""
        with self._changed:
            self._note(outcome)
            self._changed.notify_all()

    def close(self) -> None:
        """Give out no more jobs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcome of every job as it comes."""
        for _ in range(self._count):
            yield self._outcomes.get()

    def _ready(self, job: Job) -> bool:
        return not any(key in self._under_way for key in job.needs)

    def _note(self, outcome: Outcome) -> None:
        job = outcome.job
        self._under_way.discard(job.key)
        self._outcomes.put(outcome)
        if outcome.error is None:
            return
        self._failed[job.key] = job.label
        for other in [other for other in self._pending if job.key in other.needs]:
            self._pending.remove(other)
            failure = unmet(other, self._failed)
            assert failure is not None
            self._note(failure)
