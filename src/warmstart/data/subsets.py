"""Stratified parts, equal folds and nested subsets: pure functions of labels and a seed."""

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


def nested_share(labels: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Return the indices of a share of the images of each class, in ascending order.

    Taken from the same seeded orders as `nested_subset`: 20 % contains 10 %, and of two subsets
    of a class the larger contains the smaller, no matter which function made them.

    Args:
        labels: int array of shape [n].
        share: Of each class, rounded to whole images, but at least one.
        seed: The run's seed.

    Raises:
        ConfigError: `share` is not a number in (0, 1].
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(
            f"data.fraction is {share!r}, but must be a share of the training images in (0, 1]"
        )
    orders = [_class_order(labels, index, seed=seed, name="subset") for index in np.unique(labels)]
    chosen = [order[: max(1, round(share * len(order)))] for order in orders]
    return np.sort(np.concatenate(chosen)) if chosen else np.arange(0)


def stratified_split(
    labels: np.ndarray,
    fractions: Sequence[float],
    *,
    seed: int,
    groups: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Cut 0 ... n-1 into parts with about the same mix of classes.

    Every class is cut on its own, at the rounded cumulative fractions; the last part takes what
    is left, so that the parts hold every index exactly once. Classes of which a part would get
    less than one image take turns, and leave one at least to the last part. Groups stay whole, and
    the fractions are met as well as that allows: see `_deal`.

    Args:
        labels: int array of shape [n].
        fractions: Size of each part but the last, each positive, together below 1.
        seed: Of the split, not of the run: all runs see the same parts.
        groups: The group of each image, no group in two parts; None for images on their own.

    Returns:
        ``len(fractions) + 1`` ascending index arrays.

    Raises:
        ConfigError: The fractions are not positive or leave nothing for the last part, or there
            are fewer groups than parts.
    """
    if any(not 0 < fraction < 1 for fraction in fractions) or sum(fractions) >= 1:
        raise ConfigError(
            f"the shares cut for val and test are {list(fractions)}, but each must be in (0, 1) "
            "and together they must leave something for training; change data.val_fraction or "
            "data.test_fraction"
        )
    if groups is not None:
        return _deal(labels, groups, [*fractions, 1 - sum(fractions)], seed=seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(fractions) + 1)]
    owed = np.zeros(len(fractions))  # to each part, by the small classes so far
    for index in range(int(labels.max()) + 1 if len(labels) else 0):
        order = _class_order(labels, index, seed=seed, name="split")
        if len(order) * min(fractions, default=1) < 1:
            owed += np.array(fractions) * len(order)
            cuts = np.cumsum(_paid(owed, len(order) - 1))
        else:
            cuts = np.rint(np.cumsum(fractions) * len(order)).astype(int)
        for part, piece in zip(parts, np.split(order, cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) if part else np.arange(0) for part in parts]


def _paid(owed: np.ndarray, most: int) -> list[int]:
    """Return how many images each part gets of what it is owed, `most` in all; `owed` changes."""
    paid: list[int] = []
    for part, debt in enumerate(owed):
        # Rounded first, so that the last bit of a sum decides nothing.
        count = max(0, min(int(np.floor(np.round(debt, 9) + 0.5)), most - sum(paid)))
        owed[part] -= count
        paid.append(count)
    return paid


def equal_folds(
    labels: np.ndarray, count: int, *, seed: int, groups: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Cut 0 ... n-1 into `count` parts that differ by one image at most, in total and per class.

    The classes are dealt out one after the other, as cards are, each in a seeded order. Groups
    stay whole, and the parts are as equal as that allows: see `_deal`.

    Args:
        labels: int array of shape [n].
        count: Number of parts, at least 2.
        seed: Of the cut, not of the run: all runs see the same parts.
        groups: As in `stratified_split`.

    Returns:
        `count` ascending index arrays.

    Raises:
        ConfigError: There are fewer images or groups than parts.
    """
    if len(labels) < count:
        raise ConfigError(
            f"data.folds is {count}, but there are only {len(labels)} images to cut; give fewer"
        )
    if groups is not None:
        return _deal(labels, groups, [1 / count] * count, seed=seed)
    orders = [_class_order(labels, index, seed=seed, name="fold") for index in np.unique(labels)]
    cards = np.concatenate(orders)
    return [np.sort(cards[part::count]) for part in range(count)]


def _deal(
    labels: np.ndarray, groups: Sequence[str], fractions: Sequence[float], *, seed: int
) -> list[np.ndarray]:
    """Cut 0 ... n-1 into parts of about these fractions of every class, and keep groups whole.

    One group after the other, the largest first, goes to the part that needs its classes most:
    with needs and sizes as shares of a class, the choice that lowers the squared error of all
    shares most. No part stays empty while there are as many groups as parts.

    Source: the greedy order of StratifiedGroupKFold in scikit-learn; the part of the greatest need
    from "On the Stratification of Multi-Label Data", Sechidis et al. 2011.
    """
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < len(fractions):
        raise ConfigError(
            f"the images form {len(names)} group(s) that must stay together, but {len(fractions)} "
            "parts are to be cut; give a finer data.group_pattern, or fewer parts"
        )
    # What each group has of each class, as a share of that class: only the pairs that occur.
    width = int(labels.max()) + 1
    pairs, counts = np.unique(group * width + labels, return_counts=True)
    owner, kind = np.divmod(pairs, width)
    shares = counts / np.bincount(labels)[kind]
    starts = np.searchsorted(owner, np.arange(len(names) + 1))
    # Rounded, so that the last bit of a sum, which machines differ in, decides nothing.
    sizes = np.round(np.bincount(owner, shares), 9)
    order = numpy_generator(seed, "group").permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]

    need = np.repeat(np.array(fractions)[:, None], width, axis=1)
    part = np.full(len(names), -1)
    empty = np.full(len(fractions), True)
    for done, index in enumerate(order):
        here = slice(starts[index], starts[index + 1])
        wanted = np.round(need[:, kind[here]] @ shares[here], 9)
        if len(names) - done <= empty.sum():
            wanted[~empty] = -np.inf
        part[index] = wanted.argmax()
        empty[part[index]] = False
        need[part[index], kind[here]] -= shares[here]
    return [np.flatnonzero(part[group] == index) for index in range(len(fractions))]


def _class_order(labels: np.ndarray, index: int, *, seed: int, name: str) -> np.ndarray:
    members = np.flatnonzero(labels == index)
    return members[numpy_generator(seed, name, index).permutation(len(members))]
