"""A loss curve without its noise, and how large that is. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

# A change counts where it is so many deviations of the noise.
SURE = 3.0

Columns = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A loss over steps: as it was seen, without its noise, and the deviation of that noise."""

    step: np.ndarray
    loss: np.ndarray
    level: np.ndarray
    noise: float
    accuracy: np.ndarray
    rate: np.ndarray

    @property
    def part(self) -> np.ndarray:
        """Return the part of the run that is over at each point."""
        done: np.ndarray = self.step / self.step[-1]
        return done

    @property
    def end(self) -> float:
        """Return the loss of the last tenth."""
        return float(self.loss[-tenth(len(self.loss)) :].mean())

    @property
    def end_accuracy(self) -> float:
        return float(self.accuracy[-tenth(len(self.loss)) :].mean())

    @property
    def unsure(self) -> float:
        """Return how large a difference of levels noise alone may well be."""
        return SURE * self.noise * math.sqrt(2 / tenth(len(self.loss)))


def smooth(columns: Columns, fewest: int) -> Curve | None:
    """Return a list of a record's curves; None for less than so many points, or lost numbers."""
    loss = np.asarray(columns.get("loss", ()), dtype=float)
    if len(loss) < fewest or not np.isfinite(loss).all():
        return None
    # Of second differences: what the curve itself does hardly touches them.
    bends = np.abs(np.diff(loss, 2)) / math.sqrt(6)
    step = np.asarray(columns["step"], dtype=float)
    return Curve(
        step=step,
        loss=loss,
        level=_means(medians(loss, 1), tenth(len(loss))),
        noise=float(np.median(bends)) / 0.6745,
        accuracy=np.asarray(columns["accuracy"], dtype=float),
        rate=np.asarray(columns.get("lr", np.ones(len(loss))), dtype=float),
    )


def tenth(count: int) -> int:
    """Return a tenth of the points, two at least."""
    return max(2, count // 10)


def medians(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the median of each value and its neighbours."""
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return np.array([np.median(window) for window in windows])


def _means(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of the values around each; at the ends there are fewer."""
    ones = np.convolve(np.ones_like(values), np.ones(width), mode="same")
    result: np.ndarray = np.convolve(values, np.ones(width), mode="same") / ones
    return result
