"""What a source lists: named, labelled images, whose pixels are read when they are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from warmstart.errors import ConfigError

SPLITS = ("train", "val", "test")
OPEN = ""
"""The split of a sample that its source puts into none: it is cut later."""


@dataclass(frozen=True)
class Header:
    """What an image says about itself before its pixels are read.

    Attributes:
        height: In pixels, upright.
        width: In pixels, upright.
        channels: 1 for gray, 3 for colours, any other number for arrays.
        mode: In the words of its format, for people: ``RGB``, ``CMYK``, ``I;16``, ``uint8``.
    """

    height: int
    width: int
    channels: int
    mode: str


class Reader(Protocol):
    """Gives the images of a source one at a time; used from several threads at once.

    Attributes:
        identity: Its ``repr`` changes whenever a pixel could: names, sizes and times of change of
            files, versions of decoders.
    """

    identity: object

    def header(self, row: int) -> Header:
        """Return the header of image `row`; raises whatever a decoder does on a damaged one."""
        ...

    def image(self, row: int) -> np.ndarray:
        """Return image `row` upright: uint8 [height, width, channels]; raises when damaged."""
        ...


@dataclass(frozen=True, eq=False)
class Samples:
    """The images of a source.

    Attributes:
        name: For people: the first part of the store's entry.
        classes: Names, at least two, no two alike but for case and spaces.
        ids: One name per image, unique, for example ``cat/img_007.png``.
        labels: int64 of shape [n], each in [0, number of classes).
        splits: ``train``, ``val``, ``test`` or `OPEN` for each image.
        reader: Of the pixels.
        groups: What must stay together, for example a patient, per image; None where the source
            knows of no groups.

    Raises:
        ConfigError: The labels or names contradict each other.
    """

    name: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    splits: tuple[str, ...]
    reader: Reader
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_classes(self.classes)
        if len(set(self.ids)) < len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise ConfigError(f"the image {twice!r} is listed twice; list every image once")

    def __len__(self) -> int:
        return len(self.ids)


def check_classes(classes: Sequence[str]) -> None:
    """Raise a ConfigError unless there are two classes or more, each with a name of its own."""
    seen: dict[str, str] = {}
    for name in classes:
        plain = " ".join(name.split())
        # Of letters, both cases may be classes.
        plain = plain.casefold() if len(plain) > 1 else plain
        if not plain:
            raise ConfigError("a class has an empty name; give every class a name")
        if plain in seen:
            raise ConfigError(
                f"{seen[plain]!r} and {name!r} are two spellings of one class; give both one name"
            )
        seen[plain] = name
    if len(classes) < 2:
        raise ConfigError(
            f"the data has one class only ({', '.join(classes)}); a comparison needs at least two"
        )
