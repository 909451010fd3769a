"""A run in several processes: how they are started, followed and ended."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from warmstart import stopping
from warmstart.errors import ConfigError, RunError
from warmstart.ranks import Ranks, joined, meeting_point
from warmstart.run.beat import Report

_LOOK_SECONDS = 0.2  # between two looks whether the run was asked to stop
_GRACE_SECONDS = 1.0  # in which the reason of a failure may come after its consequences
_STEP_SECONDS = 0.05  # between two reports of steps
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ERRORS: dict[str, type[Exception]] = {
    "ConfigError": ConfigError,
    "RunError": RunError,
    "Stopped": stopping.Stopped,
    "Pruned": stopping.Pruned,
}
# What a process of a run leaves to the one that has started it: that one is told as well.
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}

_log = logging.getLogger("warmstart")


def together(
    function: Callable[..., None], *args: Any, world: int, device: str, fork: bool, report: Report
) -> None:
    """Call ``function(*args, ranks, report)`` in `world` processes that have joined.

    When one of them fails or dies, or this process leaves, all are killed; and all die with this
    process. What the first one logs and reports is logged and reported here.

    Args:
        function: Of a module, as `args` can be pickled.
        args: Before the last two.
        world: How many.
        device: ``cpu``, or ``gpu`` for one each.
        fork: They are forks of this process, which has computed with one thread on a CPU alone.
            Otherwise they import everything anew.
        report: Of the run.

    Raises:
        ConfigError, RunError, Stopped: As one of them raised it; RunError also for what else ends
            one of them, with its number and the reason.
    """
    context = multiprocessing.get_context("fork" if fork else "spawn")
    place = meeting_point()
    members: list[_Member] = []
    try:
        with _without_main():
            for rank in range(world):
                ours, theirs = context.Pipe()
                settings = (rank, world, place.port, device, _log.getEffectiveLevel())
                process = context.Process(  # type: ignore[attr-defined]
                    target=_main, args=(theirs, settings, function, args), name=f"rank {rank}"
                )
                process.start()
                theirs.close()
                members.append(_Member(rank, process, ours))
        _follow(members, report)
    finally:
        for member in members:
            member.process.kill()
        for member in members:
            member.process.join()


class _Member:
    """A process of the run, as the process that has started it sees it."""

    def __init__(self, rank: int, process: BaseProcess, pipe: Connection) -> None:
        self.rank = rank
        self.process = process
        self.pipe = pipe
        self.done = False
        self.error: tuple[str, str, str] | None = None

    def hear(self, report: Report) -> None:
        """Take what it has said since the last time."""
        with contextlib.suppress(EOFError, ConnectionError):
            while self.pipe.poll():
                kind, *content = self.pipe.recv()
                if kind == "step":
                    report.step(*content)
                elif kind == "stage":
                    report.stage(content[0], step=content[1])
                elif kind == "log":
                    logging.getLogger(content[0]).log(content[1], "%s", content[2])
                elif kind == "done":
                    self.done = True
                else:
                    self.error = (content[0], content[1], content[2])

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None

    @property
    def failed(self) -> bool:
        return self.error is not None or (self.ended and not self.done)


def _follow(members: Sequence[_Member], report: Report) -> None:
    """Wait until all have done their work; raise for the first that has not."""
    told = False
    while not all(member.ended for member in members):
        connection.wait(_sources(members), timeout=_LOOK_SECONDS)
        for member in members:
            member.hear(report)
        if any(member.failed for member in members):
            break
        if stopping.requested() and not told:
            told = True
            with contextlib.suppress(OSError):
                members[0].pipe.send("stop")
    failed = _failed(members, report)
    if failed is not None:
        _raise(failed, len(members))


def _sources(members: Sequence[_Member]) -> list[Any]:
    going = [member for member in members if not member.ended]
    return [source for member in going for source in (member.pipe, member.process.sentinel)]


def _failed(members: Sequence[_Member], report: Report) -> _Member | None:
    """Return the one whose failure is the reason of the others', or None."""
    until = time.monotonic() + _GRACE_SECONDS
    order: list[_Member] = []
    while True:
        ended = all(member.ended for member in members)  # before the last look
        for member in members:
            member.hear(report)
            if member.failed and member not in order:
                order.append(member)
        if not order or ended or time.monotonic() > until:
            return min(order, key=_rank_of_reason) if order else None
        connection.wait(_sources(members), timeout=_LOOK_SECONDS)


def _rank_of_reason(member: _Member) -> int:
    """Return how near a failure is to the reason: a lost peer makes others fail by any error."""
    if member.error is not None:
        return 0 if member.error[0] in _ERRORS else 2
    return 3 if member.process.exitcode == -signal.SIGABRT else 1


def _raise(member: _Member, world: int) -> None:
    who, again = f"process {member.rank} of the run's {world}", "the same command goes on"
    if member.error is None:
        code = member.process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"gone, exit code {code}"
        raise RunError(f"{who} was {how}; {again} from its last checkpoint")
    kind, text, trace = member.error
    cause = _RankTraceback(f"\n{trace}")
    if kind in _ERRORS:
        raise _ERRORS[kind](text) from cause
    raise RunError(f"{who} failed: {kind}: {text}") from cause


class _RankTraceback(Exception):  # noqa: N818 - shows where in another process an error was raised
    pass


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep new processes from importing the user's script: it would start the run once more."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Line:
    """A process's line to the one that has started it: the `Report` of the run there."""

    def __init__(self, pipe: Connection, *, speaks: bool) -> None:
        self._pipe = pipe
        self._speaks = speaks
        self._lock = threading.Lock()
        self._reported = 0.0

    def send(self, *message: Any) -> None:
        with self._lock:
            self._pipe.send(message)

    def stage(self, name: str, *, step: int = 0) -> None:
        if self._speaks:
            self.send("stage", name, step)

    def step(self, done: int, steps: int) -> None:
        now = time.monotonic()
        if self._speaks and (done == steps or now - self._reported >= _STEP_SECONDS):
            self._reported = now
            self.send("step", done, steps)


def _main(
    pipe: Connection,
    settings: tuple[int, int, int, str, int],
    function: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    """Be one of the processes of a run."""
    rank, world, port, device, level = settings
    asked = threading.Event()
    _obey(pipe, asked)
    stopping.clear()
    line = _Line(pipe, speaks=rank == 0)
    _log_to(line, level, speaks=rank == 0)
    ranks = Ranks(rank, world, asked.is_set)
    try:
        with joined(ranks, port, device=device):
            function(*args, ranks, line)
    except BaseException as error:
        known = [kind for kind in _ERRORS if isinstance(error, _ERRORS[kind])]
        kind = known[-1] if known else type(error).__name__
        line.send("failed", kind, " ".join(str(error).split()), traceback.format_exc())
        raise SystemExit(1) from None
    line.send("done")


def _obey(pipe: Connection, asked: threading.Event) -> None:
    """Do what the process that has started this one says, and nobody else; end with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    # Blocked, not ignored: Lightning puts handlers of its own in place of the latter.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def listen() -> None:
        while pipe in connection.wait([pipe, parent.sentinel]):
            try:
                pipe.recv()
            except (EOFError, OSError):
                break
            asked.set()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=listen, name="listens to its parent", daemon=True).start()


def _log_to(line: _Line, level: int, *, speaks: bool) -> None:
    """Send what the package logs to the process that has started this one; warn only once."""
    handler = logging.Handler()
    handler.emit = lambda record: line.send(  # type: ignore[method-assign]
        "log", record.name, record.levelno, record.getMessage()
    )
    _log.handlers[:] = [handler] if speaks else [logging.NullHandler()]
    _log.propagate = False
    _log.setLevel(level)
    if not speaks:
        warnings.simplefilter("ignore")
