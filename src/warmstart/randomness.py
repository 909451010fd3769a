"""Counted randomness: every random choice is a function of a seed and the place where it is used.

Nothing is drawn from a shared stream, so that no choice depends on how many numbers another part
of the program has drawn: resumed runs, other numbers of workers and other models see the same
order, subsets and augmentation.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *place: str | int) -> int:
    """Return a 63-bit seed for a named place, for example ``derive(seed, "order", epoch)``."""
    text = "\0".join([str(seed), *map(str, place)]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def torch_generator(seed: int, *place: str | int) -> torch.Generator:
    """Return a CPU generator for a named place."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *place))


def numpy_generator(seed: int, *place: str | int) -> np.random.Generator:
    """Return a numpy generator for a named place."""
    import numpy as np

    return np.random.default_rng(derive(seed, *place))


def counted_uniforms(key: int, rows: np.ndarray, times: np.ndarray, *, columns: int) -> np.ndarray:
    """Return numbers in [0, 1) that depend on their place alone, not on what is asked beside it.

    Each is a hash of (key, times, row, column), by the mixing function of SplitMix64, applied once
    per coordinate.

    Source: "Fast splittable pseudorandom number generators", Steele, Lea and Flood, OOPSLA 2014,
    figure 13.

    Args:
        key: From `derive`.
        rows: int64 of shape [n], of images for example.
        times: int64 of shape [n], how often each of them has come before.
        columns: Numbers per row.

    Returns:
        float32 [n, columns], multiples of 2^-24.
    """
    import numpy as np

    x = np.full(len(rows), key, np.uint64)
    for coordinate in (times, rows):
        x = _mixed(x ^ _mixed(coordinate.astype(np.uint64)))
    bits = _mixed(x[:, None] ^ _mixed(np.arange(columns, dtype=np.uint64)))
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Return SplitMix64's output for each state: uint64 of the same shape."""
    import numpy as np

    # Products and sums are modulo 2^64, as they should be.
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = z ^ (z >> np.uint64(31))
    return result
