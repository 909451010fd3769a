"""The request to stop at the next good moment: a checkpoint is written, then the run ends.

A launcher's signal handler makes it, with time to spare; the run looks at it between steps.
"""

from __future__ import annotations

from warmstart.errors import RunError

# A plain value: a signal may come at any moment, and a lock could be held by whom it interrupts.
_requested = False


class Stopped(RunError):  # noqa: N818 - it has not failed
    """The run has stopped as requested; the same command goes on from its checkpoint."""


class Pruned(Stopped):
    """The run is a trial of a search, and hopeless; without thresholds it goes on."""


def request() -> None:
    """Ask the run of this process to stop. May be called in a signal handler."""
    global _requested
    _requested = True


def requested() -> bool:
    """Return whether a stop was asked for since the last `clear`."""
    return _requested


def clear() -> None:
    """Forget the request: this process starts another run."""
    global _requested
    _requested = False


def check() -> None:
    """Raise Stopped where a stop was asked for and there is nothing to save."""
    if _requested:
        raise Stopped("stopped on a signal; the same command goes on")
