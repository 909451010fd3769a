"""What a person sees of long work: a bar on a terminal, a line per run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from warmstart.launch.jobs import Job
from warmstart.status_view import Watch

_REFRESH_SECONDS = 0.1


class Display:
    """Progress over the cells of a comparison (or the one cell of a single run)."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._shown = 0.0
        self._number = self._total = 0
        self._label = ""
        self._steps: TaskID | None = None
        self._cells: TaskID | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, markup=False)
        self.console.file.flush()  # a file or a pipe would get it minutes later

    def note(self, text: str) -> None:
        """Print a line that only a person who waits needs."""
        if self.console.is_terminal:
            self.say(text)

    def plan(self, total: int) -> None:
        """Announce how many runs there will be; again where it turns out to be fewer."""
        self._total = total
        if self._bars is not None and self._cells is not None:
            self._bars.update(self._cells, total=total)
        elif self._bars is not None and total > 1:
            self._cells = self._bars.add_task("runs", total=total, rate="")

    def start(self, label: str) -> None:
        """Begin the next run."""
        self._label = label
        self._began = time.monotonic()
        self._first: int | None = None
        if self._bars is not None:
            self._steps = self._bars.add_task(label, total=None, rate="")

    def step(self, done: int, steps: int) -> None:
        """Show how far the run is; cheap enough to be called at every step."""
        now = time.monotonic()
        if self._first is None or done < self._first:  # images of which features are computed
            self._first, self._began = done, now
        if (
            self._bars is None
            or self._steps is None
            or (now - self._shown < _REFRESH_SECONDS and done < steps)
        ):
            return
        self._shown = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        self._bars.update(self._steps, completed=done, total=steps, rate=f"{rate:.0f} steps/s")

    def watch(self, jobs: Sequence[Job]) -> Watch:
        """Return what shows runs of other processes while it is entered."""
        if self._bars is not None:
            self._bars.stop()  # one live display at a time
            self._bars = None
        return Watch(jobs, self.console)

    def end(self, outcome: str, *, label: str | None = None, shared: bool = False) -> None:
        """End a run with one line about it.

        Args:
            outcome: How it ended.
            label: Of the run; None for the one that was started last.
            shared: It is no cell of its own, but one that others start from.
        """
        if self._bars is not None:
            if self._steps is not None:
                self._bars.remove_task(self._steps)
            self._steps = None
            if self._cells is not None and not shared:
                self._bars.advance(self._cells)
        self._number += not shared
        number = f"[{self._number}/{self._total}] " if self._total > 1 and not shared else ""
        self.say(f"{number}{label or self._label}: {outcome}")
