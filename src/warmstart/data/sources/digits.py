"""The 1,797 handwritten digits that scikit-learn ships: 8x8 scans in 17 shades of gray."""

from __future__ import annotations

import gzip
import hashlib
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from warmstart.data.readers import Arrays
from warmstart.data.samples import OPEN, Samples

SIZE = 8
"""Height and width of the scans in pixels."""

_LEVELS = 16


def digits() -> Samples:
    """Return the digits 0-9: gray 8x8 images, white on black, in no splits.

    Their values 0 ... 16 count the inked pixels of 4x4 blocks of a 32x32 bitmap and become
    0 ... 255. The ids are the row numbers in the source file.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998 (its test part, as scikit-learn ships it).
    """
    table = _table()
    pixels = scale_counts(table[:, :-1].reshape(-1, SIZE, SIZE, 1))
    return Samples(
        name="digits",
        classes=tuple("0123456789"),
        ids=tuple(map(str, range(len(table)))),
        labels=table[:, -1].astype(np.int64),
        splits=(OPEN,) * len(table),
        reader=Arrays(pixels, identity=hashlib.sha256(pixels.tobytes()).hexdigest()),
    )


def scale_counts(counts: np.ndarray) -> np.ndarray:
    """Return the block counts 0 ... 16 of any shape as uint8 shades 0 ... 255."""
    return np.rint(counts * (255 / _LEVELS)).astype(np.uint8)


def _table() -> np.ndarray:
    # Reading the file saves the 0.6 CPU-seconds that importing sklearn.datasets adds to a run.
    path = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data")))
    with gzip.open(path / "digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)
