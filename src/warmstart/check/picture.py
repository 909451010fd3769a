"""The range tests of a check: as a picture, and as a sketch of a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from warmstart.check import rates
from warmstart.check.measured import RangeTest
from warmstart.store import publish

_COLORS = {"raw": "#9aa5b1", "smoothed": "#0072B2", "suggested": "#009E73", "own": "#D55E00"}
_ROWS = 8
_WIDEST = 1e4  # the largest rate that has a place in the picture
_ABOVE = 1.3  # times the first loss: what is higher is drawn at the upper edge


def draw(tests: Sequence[RangeTest], path: Path, *, title: str) -> None:
    """Write the picture of the range tests, one below the other, atomically to `path`."""
    figure = Figure(figsize=(7.5, 1 + 3 * len(tests)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(len(tests), 1, squeeze=False)[:, 0]
    for axis, test in zip(axes, tests, strict=True):
        _draw_one(axis, test)
    axes[-1].set_xlabel("base learning rate (optimizer.lr)")
    publish(path, lambda part: figure.savefig(part, format="png", dpi=110))


def _draw_one(axis: Axes, test: RangeTest) -> None:
    reading, losses = rates.reading(test), test.trial.losses
    axis.set_xscale("log")
    axis.plot(test.trial.rates, losses, color=_COLORS["raw"], linewidth=0.9, label="loss of a step")
    axis.plot(
        test.trial.rates, reading.smoothed, color=_COLORS["smoothed"], linewidth=2, label="smoothed"
    )
    if losses:
        low, high = min(losses), _top(losses)
        axis.set_ylim(low - 0.05 * (high - low), high)
    right = min(max(rates.HIGH, 2 * test.rate), _WIDEST)
    axis.set_xlim(rates.LOW / 2, 2 * right)
    if reading.suggested is not None:
        label = f"suggested: {reading.suggested:.2g}"
        axis.axvline(reading.suggested, color=_COLORS["suggested"], label=label)
    axis.axvline(
        test.rate, color=_COLORS["own"], linestyle="--", label=f"the run's: {test.rate:.2g}"
    )
    if reading.diverges is not None:
        axis.axvspan(
            reading.diverges,
            2 * right,
            color="#d62728",
            alpha=0.1,
            label="diverges",
        )
    axis.set_ylabel("training loss")
    axis.set_title(f"phase {test.phase}: {', '.join(test.trained)}", fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower left")


def sketch(test: RangeTest, *, width: int) -> list[str]:
    """Return the smoothed loss over the rate as lines of text.

    Args:
        test: Of a phase.
        width: Of a line, in characters.
    """
    losses, own = rates.reading(test).smoothed, test.rate
    if not losses:
        return []
    high, low = _top(test.trial.losses), min(losses)
    edge = len(f"{high:.2f} ")
    columns = max(2, min(width - edge - 1, rates.STEPS))
    grid = [[" "] * columns for _ in range(_ROWS)]
    for step, loss in enumerate(losses):
        share = (high - min(loss, high)) / max(high - low, 1e-12)
        grid[round(share * (_ROWS - 1))][_column(test.trial.rates[step], columns)] = "•"
    labels = {0: f"{high:.2f}", _ROWS - 1: f"{low:.2f}"}
    lines = [
        f"{labels.get(row, ''):>{edge - 1}} {''.join(cells)}" for row, cells in enumerate(grid)
    ]
    marks = [" "] * columns
    suggested = rates.reading(test).suggested
    for rate, mark in ((own, "▲"), (suggested, "△")):
        if rate is not None:
            marks[_column(rate, columns)] = mark
    scale = f"{rates.LOW:g}".ljust(columns - len(f"{rates.HIGH:g}")) + f"{rates.HIGH:g}"
    told = "▲ the run's rate" + ("" if suggested is None else ", △ the suggested one")
    gap = " " * edge
    return [
        *(line.rstrip() for line in lines),
        gap + "".join(marks).rstrip(),
        gap + scale,
        gap + told,
    ]


def _column(rate: float, columns: int) -> int:
    share = math.log(max(rate, 1e-300) / rates.LOW) / math.log(rates.HIGH / rates.LOW)
    return round(min(max(share, 0.0), 1.0) * (columns - 1))


def _top(losses: Sequence[float]) -> float:
    return min(max(losses), _ABOVE * max(losses[:3]))
