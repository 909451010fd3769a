"""The report of finished work: tables in the terminal and one HTML page. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def summarize(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Print the tables of what lies in `folders`, write one page about it, and return its path.

    Args:
        folders: Each an output folder, a comparison in it, or a run.
        out: The page; by default ``report.html`` in the first folder.

    Raises:
        ConfigError: A folder holds no records.
    """
    from warmstart.results import differences, loading, page, terminal

    comparisons = [found for folder in folders for found in loading.load(folder)]
    path = out or folders[0] / "report.html"
    # For thousands of runs they take seconds, and both tell them.
    found = [differences.differences(comparison) for comparison in comparisons]
    terminal.show(comparisons, found=found)
    page.write(comparisons, path, found)
    print(f"report: {path}")
    return path
