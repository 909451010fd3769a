"""The 1,797 handwritten digits that scikit-learn ships: 8x8 scans in 17 shades of gray."""

from __future__ import annotations

import gzip
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from warmstart.data.images import Images, Split, check_size
from warmstart.data.subsets import stratified_split

SIZE = 8
"""Height and width of the scans in pixels."""

_SPLIT_SEED = 0
_VAL, _TEST = 0.2, 0.3
_LEVELS = 16


def digits(*, size: int | None = None) -> Images:
    """Return the digits 0-9 cut into about 50 % train, 20 % val, 30 % test, the same for all runs.

    The scans are white on black; their values 0 ... 16 count the inked pixels of 4x4 blocks of a
    32x32 bitmap and become 0 ... 255.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998 (its test part, as scikit-learn ships it).

    Args:
        size: Height and width to resize the scans to (bilinear); None leaves the native 8.

    Returns:
        Gray images of shape [n, size, size, 1]; the ids are the row numbers in the source file.
    """
    check_size(size)
    table = _table()
    pixels = scale_counts(table[:, :-1].reshape(-1, SIZE, SIZE, 1))
    if size not in (None, SIZE):
        pixels = _resize(pixels, size)
    labels = table[:, -1].astype(np.int64)
    val, test, train = (
        Split.of(pixels[rows], labels[rows], tuple(map(str, rows)))
        for rows in stratified_split(labels, (_VAL, _TEST), seed=_SPLIT_SEED)
    )
    return Images(tuple("0123456789"), train, val, test)


def scale_counts(counts: np.ndarray) -> np.ndarray:
    """Return the block counts 0 ... 16 of any shape as uint8 shades 0 ... 255."""
    return np.rint(counts * (255 / _LEVELS)).astype(np.uint8)


def _table() -> np.ndarray:
    # Reading the file saves the 0.6 CPU-seconds that importing sklearn.datasets adds to a run.
    path = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data")))
    with gzip.open(path / "digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    scans = [Image.fromarray(scan[:, :, 0]) for scan in pixels]
    shape = (size, size)
    resized = [np.asarray(scan.resize(shape, Image.Resampling.BILINEAR)) for scan in scans]
    return np.stack(resized)[:, :, :, None]
