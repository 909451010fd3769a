"""Images that are equal or look alike, and splits without those that another split has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from warmstart.data.preparation import Preparation
from warmstart.data.samples import SPLITS
from warmstart.errors import ConfigError

# Looked at by eye, pair by pair (`near` between train, val and test; equal hashes count as 0):
#   bits                                        0-2     4       6        8        10
#   CIFAR-10, pairs shown of one picture        44/44   73/73   88/107   45/108   12/108
#   3,781 photos of clothes                     -       -       0/3      0/38     not looked at
#   2,062 hands before a white wall             0/1     0/8     not looked at
# The hands are of several people in one pose, on one background: alike, but no copies.
NEAR = 4
"""Bits in which the hashes of images that look alike differ at most; see the figures above."""

_BLOCK = 2**18  # pairs that are compared at once, so that they stay in the cache


def exact(digests: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Return the sets of images with equal pixels.

    Args:
        digests: uint8 of shape [n, 16].
        rows: int64: the images to compare.

    Returns:
        Ascending rows, two or more in each set; the sets are in order of their first rows.
    """
    halves = np.ascontiguousarray(digests[rows]).view(np.uint64)
    order = np.lexsort((rows, halves[:, 1], halves[:, 0]))
    other = (halves[order][1:] != halves[order][:-1]).any(axis=1)
    sets = np.split(rows[order], np.flatnonzero(other) + 1)
    return sorted((rows for rows in sets if len(rows) > 1), key=lambda rows: int(rows[0]))


def conflicts(groups: Sequence[np.ndarray], labels: np.ndarray) -> list[np.ndarray]:
    """Return the sets of equal images in which the labels differ."""
    return [rows for rows in groups if len(set(labels[rows].tolist())) > 1]


def near(
    hashes: np.ndarray,
    hashed: np.ndarray,
    parts: Mapping[str, np.ndarray],
    *,
    distance: int = NEAR,
    exact: Sequence[np.ndarray] = (),
) -> list[tuple[int, int, int]]:
    """Return images of different splits that look alike, the most alike first.

    For each image and each other split this is the first of the closest ones, so that a hundred
    pictures of one thing make hundreds of pairs, not thousands; yet no image is missing that looks
    like any one of another split.

    Args:
        hashes: uint64 of shape [n]: see `phash.perceptual_hash`.
        hashed: bool of shape [n]: whether the image has a hash.
        parts: The rows of train, val and test.
        distance: Bits in which two hashes may differ.
        exact: Sets of equal images, which are not listed again.

    Returns:
        Row, row and distance of each pair; the first row is of the split that comes first in
        train, val, test.
    """
    same = np.full(len(hashes), -1)
    for index, rows in enumerate(exact):
        same[rows] = index
    found = []
    for first, second in combinations(SPLITS, 2):
        rows, others = (parts[split][hashed[parts[split]]] for split in (first, second))
        if len(rows) == 0 or len(others) == 0:
            continue
        pairs = _closest(hashes[rows], hashes[others], distance)
        for row, other, bits in zip(rows[pairs[0]], others[pairs[1]], pairs[2], strict=True):
            if same[row] < 0 or same[row] != same[other]:
                found.append((int(bits), int(row), int(other)))
    return [(row, other, bits) for bits, row, other in sorted(found)]


def resolve(
    parts: Mapping[str, np.ndarray],
    exact: Sequence[np.ndarray],
    near: Sequence[tuple[int, int, int]],
    preparation: Preparation,
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Leave out of train what val or test have, and out of val what test has.

    Test is never touched. An image of train goes too when the one of val that it equals goes.

    Args:
        parts: The rows of train, val and test.
        exact: See `exact`; counts where ``preparation.duplicates`` is ``drop``.
        near: See `near`; counts where ``preparation.near_duplicates`` is ``drop``.
        preparation: What to leave out.

    Returns:
        The rows of train, val and test that stay, and the reason for each row that does not.

    Raises:
        ConfigError: Nothing of a split would stay.
    """
    split_of = {int(row): split for split in SPLITS for row in parts[split]}
    dropped: dict[int, str] = {}

    def leave_out(rows: Sequence[int], reason: str) -> None:
        splits = [split for split in SPLITS if any(split_of.get(row) == split for row in rows)]
        for row in rows:
            if row in split_of and split_of[row] != splits[-1]:
                dropped.setdefault(row, f"{reason} an image of {splits[-1]}")

    if preparation.duplicates == "drop":
        for rows in exact:
            leave_out(rows.tolist(), "equal to")
    if preparation.near_duplicates == "drop":
        for row, other, _ in near:
            leave_out((row, other), "looks like")
    gone = np.array(sorted(dropped), np.int64)
    left = {split: np.setdiff1d(rows, gone) for split, rows in parts.items()}
    for split, rows in parts.items():
        if len(rows) > 0 and len(left[split]) == 0:
            raise ConfigError(
                f"every image of {split} is in another split too, or looks like one; give other "
                "images, or keep these with data.duplicates=keep data.near_duplicates=list"
            )
    return left, dropped


def _closest(first: np.ndarray, second: np.ndarray, distance: int) -> np.ndarray:
    """Return each hash's first closest one on the other side: indices and bits, int64 [3, m]."""
    best = np.full(len(second), distance + 1)
    partner = np.zeros(len(second), np.int64)
    pairs = []
    step = max(1, _BLOCK // len(second))
    for start in range(0, len(first), step):
        bits = np.bitwise_count(first[start : start + step, None] ^ second)
        rows = np.flatnonzero(bits.min(axis=1) <= distance)
        columns = bits[rows].argmin(axis=1)
        pairs.append(np.stack([start + rows, columns, bits[rows, columns]]))
        least = bits.min(axis=0)
        closer = np.flatnonzero(least < best)
        best[closer], partner[closer] = least[closer], start + bits[:, closer].argmin(axis=0)
    columns = np.flatnonzero(best <= distance)
    pairs.append(np.stack([partner[columns], columns, best[columns]]))
    return np.unique(np.concatenate(pairs, axis=1), axis=1)
