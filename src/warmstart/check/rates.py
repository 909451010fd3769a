"""What a learning-rate range test says; pure functions of its curve.

Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017 (2015 on arXiv), section
3.3: let the rate grow during a short training, and read from the loss where learning begins and
where it ends.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from warmstart.check.measured import RangeTest

LOW, HIGH, STEPS = 1e-6, 10.0, 85
"""Base rates of the first and the last step; seven decades, 12 steps in each."""

_WIDTH = 5  # steps to each side that the smoothed loss averages over, with falling weights
_DIVERGED, _LAST = 1.5, 3  # times the first loss, in so many steps: it will not come back
_FLAT = 12  # steps of the first decade, at whose rates nothing can move yet: how noisy the loss is
_CLEAR = 3.0  # deviations of that noise by which a fall, or a rise, is one
_LEAST_FALL = 0.05  # of the first loss: a fall below is none, however quiet the loss
_RISE = 0.1  # of the first loss: a rise without a fall before
_BEGUN = 0.2  # of the fall: before so much is done, the steepest step may be noise


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a range test says.

    Attributes:
        smoothed: The smoothed loss of each step.
        learns: Whether the loss falls at any rate.
        steepest: The rate of its steepest fall; None where it does not fall.
        best: The rate of its lowest value before it is back where it started; likewise.
        diverges: The least rate after that at which it is back, or no number; None where no tried
            rate is so high.
        suggested: The lower one of `steepest` and a tenth of `diverges`; None where it learns at
            no rate.
    """

    smoothed: list[float]
    learns: bool
    steepest: float | None
    best: float | None
    diverges: float | None
    suggested: float | None


def growing_rate(step: int) -> float:
    """Return the factor on `LOW` at a step: `LOW` to `HIGH` in equal ratios."""
    return float((HIGH / LOW) ** (step / (STEPS - 1)))


def hopeless(losses: Sequence[float]) -> bool:
    """Return whether a range test can stop: higher rates would only show what is known."""
    return len(losses) > _FLAT and min(losses[-_LAST:]) > _DIVERGED * max(losses[:_FLAT])


def smooth(values: Sequence[float], width: int = _WIDTH) -> list[float]:
    """Return the weighted mean of each value and `width` neighbours on each side.

    The weights fall linearly with the distance. Unlike an average over the past it does not lag:
    a lag of ten steps would move every reading by most of a decade.
    """
    result = []
    for place in range(len(values)):
        near = range(max(0, place - width), min(len(values), place + width + 1))
        weights = [width + 1 - abs(place - other) for other in near]
        total = sum(w * values[other] for w, other in zip(weights, near, strict=True))
        result.append(total / sum(weights))
    return result


def reading(test: RangeTest) -> Reading:
    """Return what a range test says."""
    broken = test.trial.broken
    return read(test.trial.rates, test.trial.losses, None if broken is None else broken.rate)


def read(rates: Sequence[float], losses: Sequence[float], broken_at: float | None) -> Reading:
    """Return what the curve of a range test says.

    Args:
        rates: Base rate of each step, growing.
        losses: Finite, one for each.
        broken_at: The rate at which the loss was no number any more; None if it always was one.
    """
    smoothed = smooth(losses)
    if len(losses) <= _FLAT:
        return Reading(smoothed, False, None, None, broken_at, None)
    first = losses[:_FLAT]
    start = sum(first) / _FLAT
    noise = math.sqrt(sum((loss - start) ** 2 for loss in first) / (_FLAT - 1))
    # Of a triangle of 2 w + 1 losses; its weights' squares add up to about 2 / (3 w).
    clear = _CLEAR * noise * math.sqrt(2 / (3 * _WIDTH))
    least = max(clear, _LEAST_FALL * start)
    lowest, end = _valley(smoothed, start, least)
    learns = start - smoothed[lowest] > least
    diverges = broken_at if end is None else rates[end]
    if not learns:
        return Reading(smoothed, False, None, None, diverges, None)
    begun = start - _BEGUN * (start - smoothed[lowest])
    first_fall = 1 + max(i for i in range(lowest) if smoothed[i] >= begun or i == 0)
    # The rates are equally far apart, so that differences compare.
    falls = range(first_fall, lowest + 1)
    steepest = rates[min(falls, key=lambda i: smoothed[i] - smoothed[i - 1])]
    suggested = steepest if diverges is None else min(steepest, diverges / 10)
    return Reading(smoothed, True, steepest, rates[lowest], diverges, suggested)


def _valley(smoothed: Sequence[float], start: float, least: float) -> tuple[int, int | None]:
    """Return where the first valley of a curve is lowest, and where it ends.

    What comes behind does not count: at rates that have undone everything, a loss may fall again.

    Args:
        smoothed: The curve.
        start: Its height before anything has moved.
        least: A fall or rise below is none.
    """
    lowest = _FLAT
    for place in range(_FLAT, len(smoothed)):
        if smoothed[place] < smoothed[lowest]:
            lowest = place
        fallen = start - smoothed[lowest] > least
        if smoothed[place] > (start if fallen else start + max(least, _RISE * start)):
            return lowest, place
    return lowest, None
