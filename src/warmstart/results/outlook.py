"""How long the rest of a comparison takes, from what its runs have shown so far. Pure."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Pace:
    """What is known of one run's time.

    Attributes:
        status: As of `warmstart.results.status.RunStatus`.
        predicted: Seconds for the whole run, said before it started; 0 where unknown.
        spent: Seconds that all its attempts have taken so far.
        left: A running one's own prediction; None while it cannot say.
        share: How much of it is done already and need not be done again, 0 to 1.
    """

    status: str
    predicted: float = 0.0
    spent: float = 0.0
    left: float | None = None
    share: float = 0.0


def seconds_left(runs: Sequence[Pace], *, coming: Sequence[str]) -> float | None:
    """Return the seconds until all runs have ended, if as many run at once as do now.

    Predictions are stretched by what the finished runs took compared with theirs; runs without a
    prediction are taken to last as long as the others did.

    Args:
        runs: All of them.
        coming: The statuses of runs that are still to be started.

    Returns:
        0 where nothing is left; None while nothing runs, or nothing is known.
    """
    running = [run for run in runs if run.status == "running"]
    rest = [run for run in runs if run.status in coming]
    if not running:
        return None if rest else 0.0
    lasts = _Expected(runs)
    ends = []
    for run in running:
        left = lasts.left(run) if run.left is None else run.left
        if left is None:
            return None
        ends.append(left)
    heapq.heapify(ends)
    lengths = [lasts.left(run) for run in rest]
    known = [length for length in lengths if length is not None]
    if len(known) < len(lengths):
        return None
    for length in sorted(known, reverse=True):
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def duration(seconds: float) -> str:
    """Return a time for a person: ``0.8 s``, ``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    for limit, size, unit, digits in ((100, 60, "min", 0), (48, 3600, "h", 1)):
        if seconds / size < limit - 0.5:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"


class _Expected:
    """What a run takes, learned from those that have ended and those that run."""

    def __init__(self, runs: Sequence[Pace]) -> None:
        done = [run for run in runs if run.status == "done" and run.spent > 0]
        told = [run for run in done if run.predicted > 0]
        took, said = sum(run.spent for run in told), sum(run.predicted for run in told)
        self.stretch = took / said if said else 1.0
        seen = [run.spent for run in done] or [
            run.spent + run.left for run in runs if run.left is not None
        ]
        self.mean = sum(seen) / len(seen) if seen else None

    def left(self, run: Pace) -> float | None:
        """Return the seconds that the run still takes."""
        whole = run.predicted * self.stretch if run.predicted else self.mean
        return None if whole is None else whole * (1 - run.share)
