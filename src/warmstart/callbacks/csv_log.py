"""The rows of a run as ``metrics.csv``."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from warmstart.callbacks.recorder import Row

_SECONDS_BETWEEN_WRITES = 2.0


class CsvLog:
    """Write all rows anew every few seconds and at the end.

    The file is a projection of the rows that the checkpoint holds: after a resume there are
    neither gaps nor duplicates.
    """

    def __init__(self, *, folder: Path, name: str, labels: dict[str, Any]) -> None:
        self._path = Path(self.destination(folder))
        self._written = time.monotonic()

    @staticmethod
    def destination(folder: Path) -> str:
        """Return where the rows of the run in `folder` go, in words."""
        return str(folder / "metrics.csv")

    @staticmethod
    def keep_page(folder: Path, *, page: Path, name: str, created: str) -> None:
        """Leave the page of a tuning where it is: it is a file already."""

    def log(self, rows: dict[str, list[Row]]) -> None:
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_WRITES:
            self._write(rows)

    def finish(self, rows: dict[str, list[Row]], metrics: dict[str, float]) -> None:
        self._write(rows)

    def _write(self, rows: dict[str, list[Row]]) -> None:
        merged: dict[float, dict[str, float]] = {}
        for split, entries in rows.items():
            for entry in entries:
                line = merged.setdefault(entry["step"], {"step": entry["step"]})
                line |= {f"{split}/{key}": value for key, value in entry.items() if key != "step"}
        columns = sorted({key for line in merged.values() for key in line} - {"step"})
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *columns])
            writer.writeheader()
            writer.writerows(merged[step] for step in sorted(merged))
        self._written = time.monotonic()
