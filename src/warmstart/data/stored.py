"""Images in the store: written once by whoever comes first, memory-mapped by everybody."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from warmstart.data.images import Images, Split
from warmstart.store import once

SPLITS = ("train", "val", "test")


def stored_images(store: Path, name: str, identity: object, make: Callable[[Path], None]) -> Images:
    """Return the images of a store entry, made by `make` when it is not there.

    Args:
        store: The store's folder.
        name: Start of the entry's name, for people.
        identity: Everything that decides the content; only its ``repr`` is used.
        make: Called with an empty folder; writes each split's pixels to `pixels_path` and the
            rest with `write_index`.

    Returns:
        Images whose pixels are read-only memory maps.
    """
    key = f"{name}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}"
    return _open(once(store / "images", key, make))


def pixels_path(folder: Path, split: str) -> Path:
    """Return the file of a split's pixels: uint8 of shape [n, height, width, channels]."""
    return folder / f"{split}.npy"


def write_index(
    folder: Path,
    classes: Sequence[str],
    labels: Mapping[str, Sequence[int]],
    ids: Mapping[str, Sequence[str]],
) -> None:
    """Write class names and each split's labels and ids beside the pixels."""
    splits = {
        name: {"labels": [int(label) for label in labels[name]], "ids": list(ids[name])}
        for name in SPLITS
    }
    text = json.dumps({"classes": list(classes), "splits": splits})
    (folder / "index.json").write_text(text, encoding="utf-8")


def _open(folder: Path) -> Images:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    splits = {}
    for name in SPLITS:
        part = index["splits"][name]
        pixels = np.load(pixels_path(folder, name), mmap_mode="r")
        splits[name] = Split.of(pixels, np.array(part["labels"], np.int64), tuple(part["ids"]))
    return Images(tuple(index["classes"]), **splits)
