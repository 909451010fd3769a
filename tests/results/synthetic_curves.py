"""Curves of runs as formulas: a healthy one, and one for each thing that can be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

CLASSES, STEPS = 10, 400
GUESS = math.log(CLASSES)
# The points of a run with the default intervals.
TRAIN, VAL = np.arange(8, 401, 8), np.arange(20, 401, 20)

Shape = Callable[[np.ndarray], np.ndarray]


def curves(
    train: Shape,
    val: Shape | None = None,
    *,
    accuracies: tuple[float, float] | None = None,
    rate: Shape = lambda t: 0.1 * (1 + np.cos(math.pi * t)) / 2,
    noise: float = 0.0,
    seed: int = 0,
) -> dict[str, dict[str, list[float]]]:
    """Return curves as a record has them.

    Args:
        train: Loss over the part of the run, in (0, 1].
        val: Likewise; None for that of training and a little more.
        accuracies: At the end of training and validation; they follow the losses on the way there.
        rate: Of the head.
        noise: Deviation of each loss, as a part of it; validation has half of it.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    val = val or (lambda t: train(t) + 0.05 * (GUESS - train(t)))
    result = {}
    for index, (name, steps, shape) in enumerate((("train", TRAIN, train), ("val", VAL, val))):
        part = steps / STEPS
        loss = shape(part) * (1 + noise / (1 + index) * rng.standard_normal(len(part)))
        right = (
            np.exp(-shape(part)) if accuracies is None else np.full(len(part), accuracies[index])
        )
        result[name] = {"step": steps.tolist(), "loss": loss.tolist(), "accuracy": right.tolist()}
    result["train"]["lr"] = rate(TRAIN / STEPS).tolist()
    return result


def falling(to: float, speed: float, start: float = GUESS) -> Shape:
    """Return a loss that falls exponentially."""
    return lambda t: to + (start - to) * np.exp(-speed * t)


def healthy(
    to: float = 0.1, speed: float = 8.0, **more: object
) -> dict[str, dict[str, list[float]]]:
    """Return curves in which nothing is wrong."""
    return curves(falling(to, speed), **more)  # type: ignore[arg-type]


def constant_rate(t: np.ndarray) -> np.ndarray:
    return np.full(len(t), 0.1)


def _way(t: np.ndarray) -> np.ndarray:
    """Return the sum of the cosine's rates up to each point, of all: (t + sin(pi t) / pi)."""
    return t + np.sin(math.pi * t) / math.pi


def jumping(t: np.ndarray) -> np.ndarray:
    """Return a loss that jumps between 0.5 and 2.5 in no regular way."""
    return 1.5 + np.random.default_rng(5).uniform(-1, 1, len(t))


def late(t: np.ndarray) -> np.ndarray:
    """Return a loss that stays for 40 % of the run, and falls as a healthy one then."""
    return np.where(t < 0.4, GUESS, 0.1 + (GUESS - 0.1) * np.exp(-12 * (t - 0.4)))


def warmed(t: np.ndarray) -> np.ndarray:
    return np.where(t < 0.5, 0.1 * t / 0.5, 0.1)


def turning(t: np.ndarray) -> np.ndarray:
    """Return a loss that is lowest, at 1, at 30 % of the run and ends at 1.7."""
    return np.where(t < 0.3, GUESS + (1 - GUESS) * t / 0.3, 1 + (t - 0.3))


FITTED = falling(0.02, 10)
# What is planted, and the words that name it.
PLANTED: dict[str, tuple[str, dict[str, object]]] = {
    "rising": (
        "rate too high: the training loss rises from",
        {"train": lambda t: np.where(t < 0.3, GUESS - 4 * t, 1.1 + 2 * (t - 0.3))},
    ),
    "blown up": (
        "rate too high: the training loss went up to",
        {"train": lambda t: np.where(t < 0.03, 40.0, GUESS)},
    ),
    "jumping": ("rate too high: the training loss jumps", {"train": jumping}),
    "jumping validation": (
        "rate too high: the validation loss jumps",
        {"train": falling(0.1, 8), "val": jumping},
    ),
    "too low": ("rate too low", {"train": lambda t: GUESS - 0.7 * t, "rate": constant_rate}),
    "too low, cosine": ("rate too low", {"train": lambda t: GUESS - 0.7 * _way(t)}),
    "nothing": ("nothing is learned", {"train": lambda t: np.full(len(t), GUESS)}),
    "slow start": ("slow start", {"train": late}),
    "slow warm-up": ("slow start", {"train": late, "rate": warmed}),
    "plateau": ("plateau: from step", {"train": falling(1.2, 20), "val": falling(1.3, 20)}),
    "overfitting": (
        "overfitting: the validation loss rises from",
        {"train": FITTED, "val": turning, "accuracies": (0.99, 0.9)},
    ),
    "gap": (
        "overfitting: at the end 99% of the training images",
        {"train": FITTED, "val": falling(0.9, 10), "accuracies": (0.99, 0.7)},
    ),
    "underfitting": (
        "underfitting: at the end 45% of the training images",
        {"train": falling(1.5, 5), "val": falling(1.55, 5), "accuracies": (0.45, 0.43)},
    ),
    "improving": (
        "still improving: the loss falls by",
        {"train": falling(0.1, 2.5), "accuracies": (0.8, 0.78)},
    ),
}
