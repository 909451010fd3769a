"""Features in float64, block by block, so that any number of them fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

# Bytes of one block, and of all blocks together up to which they are kept.
_BLOCK, _KEPT = 2**25, 2**29
# What varies less than this part of its mean is constant but for rounding in float32.
_CONSTANT = 1e-6


Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits [b, classes] and labels, int64 [b], to the sum of a loss over them."""


class Rows(Protocol):
    """Features [n, d] of which rows can be read: a tensor, or entries of the store."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: np.ndarray, /) -> Tensor:
        """Return the features of `rows`, int64 [b], as a tensor [b, d]."""
        ...


class Blocks:
    """Features [n, d], less a center and divided by a scale, in blocks of float64 [b, d].

    Args:
        rows: The features.
        center: float64 [d]; None for 0.
        scale: float64 [d]; None for 1.
    """

    def __init__(
        self, rows: Rows, center: Tensor | None = None, scale: Tensor | None = None
    ) -> None:
        self.rows, self.center, self.scale = rows, center, scale
        self.count, self.width = rows.shape
        self._kept: list[tuple[slice, Tensor]] = []

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield which rows a block has, and the block."""
        if self._kept:
            yield from self._kept
            return
        small = self.count * self.width * 8 <= _KEPT
        read = []
        for block in self._read():
            if small:
                read.append(block)
            yield block
        self._kept = read

    def _read(self) -> Iterator[tuple[slice, Tensor]]:
        size = max(1, _BLOCK // (8 * self.width))
        for start in range(0, self.count, size):
            place = slice(start, min(start + size, self.count))
            x = self.rows[np.arange(place.start, place.stop)].double()
            x = x if self.center is None else x - self.center
            yield place, x if self.scale is None else x / self.scale

    def whole(self) -> Tensor:
        """Return all features, float64 [n, d]."""
        return torch.cat([x for _, x in self])

    def centered(self, *, standardize: bool) -> Blocks:
        """Return features of mean 0 and, with `standardize`, of variance 1.

        Dimensions that are constant but for rounding keep their scale.
        """
        mean = sum((x.sum(0) for _, x in self), torch.zeros(())) / self.count
        if not standardize:
            return Blocks(self.rows, mean)
        squares = sum(((x - mean).square().sum(0) for _, x in self), torch.zeros(()))
        scale = (squares / self.count).sqrt()
        scale[scale <= _CONSTANT * mean.abs()] = 1.0
        return Blocks(self.rows, mean, scale)

    def unfolded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the linear map of the features as they were stored that a map of these equals.

        Args:
            weight: [classes, d].
            bias: [classes].
        """
        if self.scale is not None:
            weight = weight / self.scale
        if self.center is not None:
            bias = bias - weight @ self.center
        return weight, bias


def judged(
    blocks: Blocks, labels: np.ndarray, linear: tuple[Tensor, Tensor], loss: Loss
) -> tuple[float, float]:
    """Return accuracy and mean loss of a linear classifier.

    Args:
        blocks: Rows x, [n, d].
        labels: int64 [n].
        linear: Weight, float64 [classes, d], and bias, [classes].
        loss: Sum over some rows.
    """
    (weight, bias), right, total = linear, 0, 0.0
    for place, x in blocks:
        logits, own = x @ weight.T + bias, torch.from_numpy(labels[place])
        right += int((logits.argmax(1) == own).sum())
        total += float(loss(logits, own))
    return right / blocks.count, total / blocks.count
