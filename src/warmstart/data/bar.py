"""A progress bar for work whose length nobody knows before it is under way."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_AFTER_SECONDS = 2.0


class Bar:
    """Appears on a terminal when it takes long.

    Args:
        title: Of the work.
        total: Of what `update` counts.
    """

    def __init__(self, title: str, *, total: int) -> None:
        self._title, self._total = title, total
        self._shown: Progress | None = None

    def __enter__(self) -> Bar:
        self._start = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown is not None:
            self._shown.stop()

    def update(self, done: int) -> None:
        """Show how much is done."""
        slow = time.monotonic() - self._start > _AFTER_SECONDS
        if self._shown is None and slow and sys.stderr.isatty():
            self._shown = self._begin()
        if self._shown is not None:
            self._shown.update(self._shown.task_ids[0], completed=done)

    def _begin(self) -> Progress:
        from rich.console import Console
        from rich.progress import Progress

        shown = Progress(console=Console(stderr=True), transient=True)
        shown.add_task(self._title, total=self._total)
        shown.start()
        return shown
