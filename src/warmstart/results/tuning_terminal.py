"""A search in a few lines. Imports no torch."""

from __future__ import annotations

from warmstart.results.tuning import Tuning


def show(tuning: Tuning) -> None:
    """Print the best values of every arm."""
    for arm, best in tuning["best"].items():
        print(f"{arm}: {best['values']} {tuning['metric']} {best['value']:.4f}")
