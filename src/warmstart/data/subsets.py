"""Stratified splits and nested subsets, as pure functions of labels and a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.errors import ConfigError
from warmstart.randomness import numpy_generator


def nested_subset(
    labels: np.ndarray, per_class: int, *, classes: Sequence[str], seed: int
) -> np.ndarray:
    """Return the indices of `per_class` images of each class, in ascending order.

    Each class has one seeded order of its images, of which the first `per_class` are taken:
    so the subset of 5 contains that of 2, and one class's choice does not depend on another's.

    Args:
        labels: int array of shape [n].
        per_class: Images to take from each class, at least 1.
        classes: Class names, for messages and for the number of classes.
        seed: The run's seed.

    Raises:
        ConfigError: `per_class` is not a positive integer, or larger than the smallest class.
    """
    if isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1:
        raise ConfigError(
            f"data.per_class is {per_class!r}, but must be a whole number of at least 1"
        )
    counts = np.bincount(labels, minlength=len(classes))
    smallest = int(counts.argmin())
    if per_class > counts[smallest]:
        raise ConfigError(
            f"data.per_class is {per_class}, but class {classes[smallest]!r} has only "
            f"{counts[smallest]} training images; give at most {counts[smallest]}"
        )
    chosen = [
        _class_order(labels, index, seed=seed, name="subset")[:per_class]
        for index in range(len(classes))
    ]
    return np.sort(np.concatenate(chosen))


def stratified_split(
    labels: np.ndarray, fractions: Sequence[float], *, seed: int
) -> list[np.ndarray]:
    """Cut 0 ... n-1 into parts with about the same mix of classes.

    Every class is cut on its own, at the rounded cumulative fractions; the last part takes what
    is left, so that the parts hold every index exactly once.

    Args:
        labels: int array of shape [n].
        fractions: Size of each part but the last, each positive, together below 1.
        seed: Of the split, not of the run: all runs see the same parts.

    Returns:
        ``len(fractions) + 1`` ascending index arrays.

    Raises:
        ConfigError: The fractions are not positive or leave nothing for the last part.
    """
    if any(not 0 < fraction < 1 for fraction in fractions) or sum(fractions) >= 1:
        raise ConfigError(
            f"the split fractions are {list(fractions)}, but each must be in (0, 1) and "
            "together they must leave something for training"
        )
    parts: list[list[np.ndarray]] = [[] for _ in range(len(fractions) + 1)]
    for index in range(int(labels.max()) + 1 if len(labels) else 0):
        order = _class_order(labels, index, seed=seed, name="split")
        cuts = np.rint(np.cumsum(fractions) * len(order)).astype(int)
        for part, piece in zip(parts, np.split(order, cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) if part else np.arange(0) for part in parts]


def _class_order(labels: np.ndarray, index: int, *, seed: int, name: str) -> np.ndarray:
    members = np.flatnonzero(labels == index)
    return members[numpy_generator(seed, name, index).permutation(len(members))]
