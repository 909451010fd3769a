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
