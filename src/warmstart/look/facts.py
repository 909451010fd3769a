"""What there is to say about the data of a run: counts, sizes, and what is wrong."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from warmstart.data.dataset import Dataset
    from warmstart.sight import Sight

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Facts:
    """The data of a run in numbers.

    Attributes:
        classes: Their names.
        counts: Images of each class in each split, int64 [classes], as the run sees them: without
            damaged ones and dropped duplicates.
        heights: int64 [n], in pixels, of all images that can be read.
        widths: Likewise.
        modes: How many images have which kind of pixels, the most frequent first.
        damaged: Name and reason of each file that cannot be read.
        shared: Rows of equal images in two splits or more.
        repeated: Rows of equal images within one split.
        conflicting: Rows of equal images with different labels.
        near: Rows of two images of different splits that look alike, and their distance in bits.
        placed: The split of each row before duplicates were dropped.
    """

    classes: tuple[str, ...]
    counts: dict[str, np.ndarray]
    heights: np.ndarray
    widths: np.ndarray
    modes: tuple[tuple[str, int], ...]
    damaged: tuple[tuple[str, str], ...]
    shared: tuple[np.ndarray, ...]
    repeated: tuple[np.ndarray, ...]
    conflicting: tuple[np.ndarray, ...]
    near: tuple[tuple[int, int, int], ...]
    placed: dict[int, str]

    @functools.cached_property
    def totals(self) -> np.ndarray:
        """Images of each class, int64 [classes]."""
        total: np.ndarray = np.stack([self.counts[split] for split in SPLITS]).sum(axis=0)
        return total

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / len(self.classes)

    @property
    def first_loss(self) -> float:
        """The cross-entropy of a network that takes all classes for equally likely, in nats."""
        return math.log(len(self.classes))

    @property
    def largest(self) -> int:
        """The class with most training images."""
        return int(np.argmax(self.counts["train"]))

    @property
    def smallest(self) -> int:
        """The class with fewest training images."""
        return int(np.argmin(self.counts["train"]))

    @property
    def imbalance(self) -> float:
        """Training images of the largest class per one of the smallest."""
        train = self.counts["train"]
        return float(train[self.largest] / train[self.smallest])

    def majority(self, split: str) -> float:
        """Return the accuracy on a split of always saying the largest class of train."""
        counts = self.counts[split]
        return float(counts[self.largest] / counts.sum())

    def by_size(self) -> list[int]:
        """Return the classes, those with most training images first."""
        return [int(index) for index in np.lexsort((-self.totals, -self.counts["train"]))]

    @property
    def one_size(self) -> bool:
        """Whether all images have the same size."""
        return bool(np.ptp(self.heights) == 0 and np.ptp(self.widths) == 0)


def facts(view: Sight) -> Facts:
    """Return what there is to say about the data of a run."""
    from warmstart.data.duplicates import conflicts

    dataset, images = view.dataset, view.images
    samples, index = dataset.samples, dataset.index
    good = np.setdiff1d(np.arange(len(samples)), np.fromiter(index.bad, np.int64))
    placed = {int(row): name for name, rows in dataset.cut.items() for row in rows}
    exact = dataset.exact
    apart = [len({placed.get(int(row)) for row in rows}) > 1 for rows in exact]
    return Facts(
        classes=images.classes,
        counts={
            name: np.bincount(split.labels, minlength=len(images.classes))
            for name, split in images.splits.items()
        },
        heights=index.heights[good].astype(np.int64),
        widths=index.widths[good].astype(np.int64),
        modes=tuple(Counter(index.modes[row] for row in good).most_common()),
        damaged=tuple((samples.ids[row], reason) for row, reason in sorted(index.bad.items())),
        shared=tuple(rows for rows, far in zip(exact, apart, strict=True) if far),
        repeated=tuple(rows for rows, far in zip(exact, apart, strict=True) if not far),
        conflicting=tuple(conflicts(exact, samples.labels)),
        near=tuple(sorted(dataset.near, key=lambda pair: pair[2])),
        placed=placed,
    )


def problems(found: Facts, dataset: Dataset, *, on_bad: str) -> list[str]:
    """Return what a person should know before training, one sentence each, damaged files first.

    Args:
        found: Of this data.
        dataset: Of the run.
        on_bad: What ``data.on_bad`` says.
    """
    sentences = []
    if found.damaged:
        outcome = (
            "left out, as data.on_bad=skip says"
            if on_bad == "skip"
            else "training would refuse; data.on_bad=skip leaves them out"
        )
        sentences.append(f"{counted(len(found.damaged), 'damaged file')}: {outcome}")
    return [*sentences, *dataset.warnings, *_twins(found, set(dataset.dropped))]


def _twins(found: Facts, dropped: set[int]) -> Iterator[str]:
    """Yield what was left out because of another split, and what was not."""
    if dropped:
        yield f"{counted(len(dropped), 'image')} left out because another split has the same"
    kept = sum(
        len({found.placed[row] for row in rows.tolist() if row not in dropped}) > 1
        for rows in found.shared
    )
    if kept:
        yield (
            f"{counted(kept, 'group')} of equal images in several splits: an evaluation counts "
            "what was learned by heart; data.duplicates=drop leaves them out of train"
        )
    alike = sum(dropped.isdisjoint(pair[:2]) for pair in found.near)
    if alike:
        yield (
            f"{counted(alike, 'pair')} of images of different splits look alike: look whether they "
            "show the same; data.near_duplicates=drop leaves these out of train"
        )


def counted(number: int, what: str) -> str:
    """Return a number and its noun."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def extremes(order: Sequence[int], most: int) -> tuple[list[int], list[int]]:
    """Return the first and the last of an order, `most` in all; the second is empty if all fit."""
    if len(order) <= most:
        return list(order), []
    half = most // 2
    return list(order[: most - half]), list(order[-half:])
