"""Labelled images cut into train, validation and a closed test split."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np

from warmstart.data.subsets import nested_share, nested_subset
from warmstart.errors import ConfigError


class Pictures(Protocol):
    """Images of one size by their rows: an array, a memory map, or files that are read each time.

    Attributes:
        shape: (n, height, width, channels).
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return the images at `rows`, int64 [b], as uint8 [b, height, width, channels]."""
        ...


class Originals(Protocol):
    """Images of any size by their row: uint8 [height, width, channels] each."""

    def __getitem__(self, row: int, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, as rows of all its images.

    Attributes:
        pictures: All images of the data set at one size.
        rows: int64 of shape [n]: which of them the split holds. A row is also an image's place in
            the tables of random numbers, so that it is augmented alike in every subset.
        labels: int64 of shape [n], each in [0, number of classes).
        ids: One name per image, unique within the data set, for example ``3/img_007.png``.
        originals: All images of the data set at their own sizes; None where nothing needs them.
    """

    pictures: Pictures
    rows: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    originals: Originals | None = None

    @classmethod
    def of(cls, pixels: np.ndarray, labels: np.ndarray, ids: tuple[str, ...]) -> Split:
        """Return a split of all `pixels`, uint8 [n, height, width, channels]."""
        return cls(pixels, np.arange(len(labels)), labels.astype(np.int64), ids)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height and width in pixels, and channels."""
        height, width, channels = self.pictures.shape[1:]
        return height, width, channels

    @property
    def pixels(self) -> np.ndarray:
        """All pixels at once, uint8 [n, height, width, channels]: a copy, for small splits."""
        return self.pictures[self.rows]

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices` of the split: uint8 [b, height, width, channels]."""
        return self.pictures[self.rows[indices]]

    def take(self, indices: np.ndarray) -> Split:
        """Return the split with the images at `indices`, in that order."""
        ids = tuple(self.ids[i] for i in indices)
        return dataclasses.replace(
            self, rows=self.rows[indices], labels=self.labels[indices], ids=ids
        )


class Vault:
    """The test split, closed: what it holds is known, its pixels only who opens it sees.

    Selection, early stopping and tuning get no test pixel; every opening is written down.
    """

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    @property
    def ids(self) -> tuple[str, ...]:
        return self._split.ids

    @property
    def labels(self) -> np.ndarray:
        """int64 of shape [n]."""
        return self._split.labels

    @property
    def rows(self) -> np.ndarray:
        """int64 of shape [n]: see `Split.rows`."""
        return self._split.rows

    def open(self, log: Path | None) -> Split:
        """Return the split, and add a line to the file `log` before that.

        None is for those who share in an opening that another process has written down.
        """
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as file:
                file.write("opened\n")
        return self._split


def openings(log: Path) -> int:
    """Return how often a vault was opened with this `log`."""
    return len(log.read_text().splitlines()) if log.is_file() else 0


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """A data set: class names and three splits that share no image.

    Raises:
        ConfigError: A split is empty, or train lacks a class.
    """

    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Vault

    def __post_init__(self) -> None:
        for name, split in self.splits.items():
            if len(split) == 0:
                cut = f"; where it is cut from train, give data.{name}_fraction a larger share"
                raise ConfigError(
                    f"the {name} split is empty; give it at least one image per class"
                    f"{cut if name != 'train' else ''}"
                )
        absent = set(range(len(self.classes))) - set(self.train.labels.tolist())
        if absent:
            names = ", ".join(repr(self.classes[i]) for i in sorted(absent))
            raise ConfigError(f"the train split has no image of the class(es) {names}; add some")

    @property
    def splits(self) -> dict[str, Split | Vault]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def channels(self) -> int:
        """1 for gray images, 3 for RGB, any other number for arrays."""
        return self.train.shape[2]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.shape[:2]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over which images are trained on, validated on and tested on, with labels."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for name, split in self.splits.items():
            digest.update(repr((name, split.ids)).encode())
            digest.update(np.ascontiguousarray(split.labels).data)
        return digest.hexdigest()

    def subset(self, *, per_class: int | None, share: float | None, seed: int) -> Images:
        """Return the data with a part of the training images; None for both keeps all.

        The subsets of one seed are nested: that of 5 contains that of 2, and that of 20 % that of
        10 %. Validation and test are not touched.

        Args:
            per_class: Training images of each class.
            share: Of every class's training images, in (0, 1].
            seed: The run's seed.

        Raises:
            ConfigError: Both are given, or the data does not have so many.
        """
        if per_class is not None and share is not None:
            raise ConfigError(
                f"data.per_class is {per_class} and data.fraction {share}, but only one of them "
                "can say how many images train; leave the other at null"
            )
        if per_class is not None:
            rows = nested_subset(self.train.labels, per_class, classes=self.classes, seed=seed)
        elif share is not None:
            rows = nested_share(self.train.labels, share, seed=seed)
        else:
            return self
        return dataclasses.replace(self, train=self.train.take(rows))
