"""When a trial of a search is hopeless, and the file that says so. Imports no torch.

A trial ends early where its best validation so far is below the median of what other trials had
reached by then: the median stopping rule of "Google Vizier: A Service for Black-Box Optimization",
Golovin et al., KDD 2017, section 3.2.1, with their best in place of their running mean, as in
Optuna's `MedianPruner`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from warmstart.store import publish

FILE = "pruned.json"
LEAST = 4
"""So many finished trials are needed: the median of fewer is no measure."""
WARM = 0.25
"""Of a trial's steps; before, while the rate is still warmed up, curves say little."""

Thresholds = list[list[float]]
"""Pairs of a step and the accuracy that has to be reached by then, in the order of the steps."""


def thresholds(curves: Sequence[Mapping[str, Sequence[float]]], steps: int) -> Thresholds:
    """Return what a trial has to reach, from the finished trials of the same length.

    Args:
        curves: Of their validations: lists ``step`` and ``accuracy``.
        steps: Of each of them. The last step has no threshold: whoever got there is done.
    """
    if len(curves) < LEAST:
        return []
    return [
        [step, median(_best(curve, step) for curve in curves)]
        for step in sorted({int(step) for curve in curves for step in curve["step"]})
        if WARM * steps <= step < steps
    ]


def _best(curve: Mapping[str, Sequence[float]], by: int) -> float:
    """Return the best accuracy by a step; of a trial that stopped early, what it ended with."""
    rows = zip(curve["step"], curve["accuracy"], strict=True)
    return max((accuracy for step, accuracy in rows if step <= by), default=0.0)


def pruned_at(rows: Sequence[Mapping[str, float]], limits: Sequence[Sequence[float]]) -> int | None:
    """Return the first step at which the validations so far were below what was asked for.

    A function of the rows alone: a run that goes on from its checkpoint ends at the same step.
    """
    asked, best = {int(step): limit for step, limit in limits}, 0.0
    for row in rows:
        best = max(best, row["accuracy"])
        if best < asked.get(int(row["step"]), best):
            return int(row["step"])
    return None


def write(folder: Path, step: int, rows: Sequence[Mapping[str, float]]) -> None:
    """Write into a run's folder where it was ended, and its validations up to there."""
    names = ("step", "accuracy", "loss")
    curve = {name: [row[name] for row in rows] for name in names}
    text = json.dumps({"step": step, "curve": curve})
    publish(folder / FILE, lambda part: part.write_text(text))


def read(folder: Path) -> dict[str, Any] | None:
    """Return ``step`` and ``curve`` of the run in a folder, or None where it was not ended."""
    try:
        content: dict[str, Any] = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return content


def forget(folder: Path) -> None:
    """Delete the file: the run goes on."""
    (folder / FILE).unlink(missing_ok=True)
