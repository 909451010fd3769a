"""The page about a search. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from warmstart.results.tuning import Tuning


def write(tuning: Tuning, path: Path) -> None:
    """Write the page."""
    path.write_text(f"<title>{tuning['name']}</title>")
