"""Labelled images in memory (or mapped into it), cut into train, validation and test."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from warmstart.data.subsets import nested_subset
from warmstart.errors import ConfigError


def check_size(size: int | None) -> None:
    """Raise a ConfigError unless `size` is None or a whole number of pixels, at least 1."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(f"data.size is {size!r}, but must be a whole number of pixels or null")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
        pixels: uint8 of shape [n, height, width, channels]; channels is 1 (gray) or 3 (RGB).
        labels: int64 of shape [n], each in [0, number of classes).
        ids: One name per image, unique within the data set, for example ``3/img_007.png``.
        positions: int64 of shape [n]: each image's place in the whole split, which a subset keeps,
            so that an image is augmented alike in every subset.
    """

    pixels: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    positions: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray, labels: np.ndarray, ids: tuple[str, ...]) -> Split:
        """Return a whole split, whose positions are 0 ... n-1."""
        return cls(pixels, labels.astype(np.int64), ids, np.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """Return the split with the images at `indices`, in that order."""
        ids = tuple(self.ids[i] for i in indices)
        return Split(self.pixels[indices], self.labels[indices], ids, self.positions[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """A data set: class names and three splits that share no image."""

    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ConfigError(
                f"the data has one class only ({', '.join(self.classes)}); "
                "a comparison needs at least two"
            )
        for name, split in self.splits.items():
            if len(split) == 0:
                raise ConfigError(
                    f"the {name} split is empty; give it at least one image per class"
                )
        absent = set(range(len(self.classes))) - set(self.train.labels.tolist())
        if absent:
            names = ", ".join(self.classes[i] for i in sorted(absent))
            raise ConfigError(f"the train split has no image of the class(es) {names}; add some")

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def channels(self) -> int:
        """1 for gray images, 3 for RGB."""
        return int(self.train.pixels.shape[3])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.train.pixels.shape[1]), int(self.train.pixels.shape[2])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over class names, pixels, labels and ids of the three splits."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for name, split in self.splits.items():
            digest.update(repr((name, split.pixels.shape, split.ids)).encode())
            digest.update(np.ascontiguousarray(split.labels).data)
            for start in range(0, len(split), 4096):
                digest.update(np.ascontiguousarray(split.pixels[start : start + 4096]).data)
        return digest.hexdigest()

    def per_class(self, count: int | None, *, seed: int) -> Images:
        """Return the data with `count` training images of each class; None keeps all.

        The subsets of one seed are nested: that of 5 contains that of 2. Validation and test
        are not touched.

        Raises:
            ConfigError: `count` is not a positive integer, or the smallest class has fewer.
        """
        if count is None:
            return self
        indices = nested_subset(self.train.labels, count, classes=self.classes, seed=seed)
        return dataclasses.replace(self, train=self.train.take(indices))
