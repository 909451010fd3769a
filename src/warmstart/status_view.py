"""The state of runs in a terminal: ``warmstart status``, and the live view of a comparison."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from warmstart.errors import ConfigError
from warmstart.launch.jobs import Job
from warmstart.results.outlook import duration
from warmstart.results.planned import RunStatus, Status, plans
from warmstart.results.status import Follower

_POLL_SECONDS = 0.5
_WATCH_SECONDS = 2.0
_ROWS = 100
"""Of each table of the command; the rest is counted, and in --json."""
_LIVE_ROWS = 12
# As of the results' tables, whose module takes longer to import than a status to read.
_UNLIMITED = 10_000
_BAR = 40  # characters
_STYLES = {"done": "green", "failed": "red", "died": "red", "stopped": "yellow"}


def status_command(
    folder: Path, *, watch: bool = False, as_json: bool = False, console: Console | None = None
) -> None:
    """Print what has become of the runs in `folder`.

    Args:
        folder: An output folder, a comparison in it, or a run.
        watch: Go on until all runs have ended; where nobody looks, print once.
        as_json: For programs.
        console: Where to; by default standard output.

    Raises:
        ConfigError: The folder holds no runs, or `watch` and `as_json` are both given.
    """
    if watch and as_json:
        raise ConfigError("--watch and --json exclude each other; give one of them")
    console = console or Console()
    followers = [Follower(planned) for planned in plans(folder)]
    found = [follower.read() for follower in followers]
    if as_json:
        print(json.dumps([one.as_dict() for one in found], indent=1))
        return
    if watch and console.is_terminal:
        _watch(followers, found, console)
        found = [follower.read() for follower in followers]
    width = console.width
    if not console.is_terminal:
        console.width = _UNLIMITED
    try:
        console.print(_whole(found, rows=_ROWS, bar=console.is_terminal))
    finally:
        console.width = width


def _watch(followers: Sequence[Follower], found: list[Status], console: Console) -> None:
    """Show the runs until all have ended, or until Ctrl-C."""
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=console, transient=True, auto_refresh=False) as live,
    ):
        while not all(one.ended for one in found):
            live.update(_whole(found, rows=_LIVE_ROWS), refresh=True)
            time.sleep(_WATCH_SECONDS)
            found = [follower.read() for follower in followers]


class Watch:
    """The live view of a sweep: one bar, and the runs that are under way, read from disk.

    Runs that had failed before are shown as still to come, until they are started again. Where
    nobody looks there is no view, and `say` prints lines.

    Args:
        jobs: What is to be run.
        console: Where to; by default standard output.
    """

    def __init__(self, jobs: Sequence[Job], console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        cells = _runs(job for job in jobs if not job.source)
        stages = _runs(job for job in jobs if job.source)
        self._follower = Follower(Status("", Path(), cells, stages))
        self._before: dict[str, float] = {}
        self._live: Live | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="status", daemon=True)

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            found = self._follower.read()
            self._before = {run.key: _updated(run) for run in found.runs if run.status == "failed"}
            # Never wrapped: a line more than the last time would move the view up.
            self._live = Live(console=self.console, transient=True, auto_refresh=False)
            self._live.start()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._ended.set()
            self._thread.join()
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the view."""
        self.console.print(text, markup=False)
        self.console.file.flush()  # a file or a pipe would get it minutes later

    def _follow(self) -> None:
        assert self._live is not None
        while True:
            with contextlib.suppress(OSError):
                found = self._follower.read()
                found = dataclasses.replace(
                    found, cells=self._fresh(found.cells), stages=self._fresh(found.stages)
                )
                self._live.update(_live(found), refresh=True)
            if self._ended.wait(_POLL_SECONDS):
                return

    def _fresh(self, runs: Sequence[RunStatus]) -> tuple[RunStatus, ...]:
        """Return the runs without the failures of an earlier start."""
        return tuple(
            dataclasses.replace(run, status="planned", reason="", state=None)
            if run.status == "failed" and self._before.get(run.key) == _updated(run)
            else run
            for run in runs
        )


def _runs(jobs: Iterable[Job]) -> tuple[RunStatus, ...]:
    return tuple(RunStatus(job.key, job.label, job.folder, job.seconds) for job in jobs)


def _updated(run: RunStatus) -> float:
    return run.state.updated if run.state else 0.0


def _whole(found: Sequence[Status], *, rows: int, bar: bool = True) -> RenderableType:
    return Group(*(_comparison(one, rows=rows, bar=bar) for one in found))


def _comparison(found: Status, *, rows: int, bar: bool) -> RenderableType:
    parts: list[RenderableType] = [Text(found.name, style="bold"), *([_bar(found)] if bar else [])]
    parts += [_counts(found), Text(_sums(found))]
    parts += _table("shared stages", found.stages, rows=rows, states=True)
    parts += _table("running", _with(found, "running"), rows=rows)
    for name in ("stopped", "died", "failed"):
        parts += _reasons(name, _with(found, name), rows=rows)
    if found.command and not found.ended and not _with(found, "running", "waiting"):
        parts.append(Text(f"nothing runs; the same command goes on: {found.command}"))
    return Group(*parts, Text(""))


def _live(found: Status) -> RenderableType:
    line = Text.assemble(_counts(found), f"; {_sums(found)}", no_wrap=True, overflow="ellipsis")
    stages = [run for run in found.stages if run.status == "running"]
    running = (*stages, *_with(found, "running"))
    return Group(*_table("", running, rows=_LIVE_ROWS), _bar(found), line)


def _with(found: Status, *names: str) -> tuple[RunStatus, ...]:
    return tuple(cell for cell in found.cells if cell.status in names)


def _bar(found: Status) -> RenderableType:
    done = sum(cell.status == "done" for cell in found.cells)
    part = sum(run.share for run in _with(found, "running", "stopped"))
    line = Table.grid()  # a bar alone would end no line
    line.add_row(ProgressBar(total=max(1, len(found.cells)), completed=done + part, width=_BAR))
    return line


def _counts(found: Status) -> Text:
    parts = [(f"{count} {name}", _STYLES.get(name, "")) for name, count in found.counts.items()]
    joined = [piece for part in parts for piece in (part, (", ", ""))]
    return Text.assemble(*joined, (f"of {_number(len(found.cells))}", ""))


def _sums(found: Status) -> str:
    """Return the cost so far, and when all will be done."""
    cost = f"{duration(found.device_seconds)} of device time so far"
    if found.ended:
        return cost
    left = found.seconds_left
    return f"{cost}, about {duration(left)} left" if left is not None else cost


def _table(
    title: str, runs: Sequence[RunStatus], *, rows: int, states: bool = False
) -> list[RenderableType]:
    """Return a table of runs and how far they are; nothing where there is none."""
    if not runs:
        return []
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False, pad_edge=False)
    table.title, table.title_justify, table.title_style = Text(title) if title else None, "left", ""
    table.add_column(overflow="ellipsis", no_wrap=True)
    for _ in range(3 + states):
        table.add_column(no_wrap=True)
    for run in runs[:rows]:
        name = [Text(run.status, style=_STYLES.get(run.status, ""))] if states else []
        table.add_row(Text(f"  {run.label}"), *name, *map(Text, _progress(run)))
    return [table, *_more(runs, rows)]


def _progress(run: RunStatus) -> tuple[str, str, str]:
    """Return how far a run is, how long it still takes, and where it is."""
    state = run.state
    if state is None or run.status != "running":
        cost = duration(run.device_seconds) if run.device_seconds else ""
        return cost, run.reason, ""
    step = f"step {state.step} of {state.steps}" if state.stage == "training" else state.stage
    left = "" if state.seconds_left is None else f"{duration(state.seconds_left)} left"
    again = f" (attempt {state.attempts})" if state.attempts > 1 else ""
    job = f" (job {state.job})" if state.job else ""
    return step + again, left, f"{state.device} on {state.host}{job}".strip()


def _reasons(title: str, runs: Sequence[RunStatus], *, rows: int) -> list[RenderableType]:
    """Return a line for each run that came to no end."""
    lines: list[RenderableType] = []
    for run in runs[:rows]:
        reason = f": {run.reason}" if run.reason else ""
        name = (f"{title}: ", _STYLES.get(title, ""))
        lines.append(Text.assemble(name, f"{run.label}{reason}"))
    return [*lines, *_more(runs, rows)]


def _more(runs: Sequence[RunStatus], rows: int) -> list[RenderableType]:
    rest = len(runs) - rows
    return [Text(f"  and {rest} more (all of them: --json)")] if rest > 0 else []


def _number(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
