"""The form in which features are kept: how they lie in shards, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from warmstart.errors import ConfigError

_SHARD_BYTES = 256 * 2**20
# Of bfloat16, which numpy does not have, the bits are kept.
KEPT = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.int16}


class Features:
    """Features of images, mapped from the store: what is not being read takes no memory.

    Args:
        shards: Of `size` rows each, but for the last one; as they are kept.
        shape: (n, *feature).
        dtype: As they are kept.
        size: Rows of a shard.

    Attributes:
        shape: (n, *feature).
        dtype: As they are kept; float16 is read as float32.
    """

    def __init__(
        self, shards: Sequence[np.ndarray], shape: tuple[int, ...], dtype: torch.dtype, *, size: int
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._shards = tuple(shards)
        self._size = size

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        """Return the features at `rows`, int64 [b] in [0, n), as a new tensor [b, *feature].

        Raises:
            IndexError: There is no such row.
        """
        if len(self._shards) == 1:
            return as_tensor(self._shards[0].take(rows, axis=0), self.dtype)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"rows {rows.min()} ... {rows.max()} of {len(self)} are asked for")
        found = np.empty((len(rows), *self.shape[1:]), KEPT[self.dtype])
        shards = rows // self._size
        for number in np.unique(shards).tolist():
            here = shards == number
            found[here] = self._shards[number][rows[here] - number * self._size]
        return as_tensor(found, self.dtype)

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Yield all features in their order, `size` rows at a time."""
        for start in range(0, len(self), size):
            yield self[np.arange(start, min(start + size, len(self)))]


@dataclass(frozen=True)
class Form:
    """What is kept of each image.

    Attributes:
        key: Changes whenever a number could.
        shape: Of one image's feature.
        dtype: float32, float16 or bfloat16.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's feature."""
        return math.prod(self.shape) * self.dtype.itemsize

    def shard_rows(self, batch: int) -> int:
        """Return the rows of a shard: `batch` times a power of two.

        At most 256 MiB, if that is not less than one batch. The shards of any two forms lie within
        one another.
        """
        batches = max(1, _SHARD_BYTES // max(1, batch * self.row_bytes))
        return batch << (batches.bit_length() - 1)

    def name(self, shard: int) -> str:
        """Return the name of a shard's entry."""
        return f"{self.key}-{shard:05d}"


def as_tensor(kept: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return what is kept as `dtype` as a tensor, float16 as float32."""
    tensor = torch.from_numpy(kept)
    if dtype is torch.bfloat16:
        return tensor.view(dtype)
    return tensor.float()


def as_kept(piece: Tensor, dtype: torch.dtype, title: str) -> np.ndarray:
    """Return a tensor as it is kept.

    Raises:
        ConfigError: A value does not fit into float16.
    """
    piece = piece.detach().cpu()
    kept = piece.to(dtype).contiguous()
    if dtype is torch.float16 and (kept.isinf() & piece.isfinite()).any():
        raise ConfigError(
            f"a value of {title} is {piece.abs().max():.3g}, but features.dtype=float16 ends at "
            "65504; use features.dtype=float32"
        )
    if dtype is torch.bfloat16:
        kept = kept.view(torch.int16)
    array: np.ndarray = kept.numpy()
    return array
