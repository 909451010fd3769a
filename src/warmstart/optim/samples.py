"""Batches of features as many stacked classifiers take them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

# Numbers of a vector register (AVX-512). Rests that fill none are computed in another way, and
# where they lie depends on the other classifiers: so all sides are padded to multiples of it.
LANES = 16


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples laid out for `warmstart.optim.stacked.Stack`; padded ones have the weight 0.

    Attributes:
        count: Of the samples.
        rows: Their features, [samples, features].
        columns: The same, transposed.
        weights: Of each sample in the loss, [samples].
        masses: Minus the weight of each sample at its own class, else 0: [classes, samples].
        places: Of each sample's own class in [classes * samples]: int64 [samples].
        others: 0 at the classes before each sample's own, -1 at the rest: [classes, samples]. Of
            padding all are 0.
    """

    count: int
    rows: Tensor
    columns: Tensor
    weights: Tensor
    masses: Tensor
    places: Tensor
    others: Tensor


class Layout:
    """Lays out batches for a loss that is the mean over samples of -w[y] log p[y].

    Args:
        classes: Their number.
        class_weights: The w of each class, float32 [classes]; None for ones.
        device: Of the batches.
    """

    def __init__(
        self,
        classes: int,
        *,
        class_weights: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        weights = torch.ones(classes) if class_weights is None else class_weights.cpu()
        # A class more, the last, which is that of padding.
        self._weights = torch.cat([weights, torch.zeros(1)]).to(device)
        self._masses = -self._weights.diag()[:classes]
        self._others = -torch.ones(classes, classes + 1).tril().to(device)
        self._classes = classes
        self._device = device
        self._numbers = torch.arange(0, device=device)

    def __call__(self, features: Tensor, labels: Tensor) -> Samples:
        """Return the batch of `features`, float32 [n, features], and `labels`, int64 [n]."""
        count, size = len(features), padded(len(features))
        rows = _padded_rows(features)
        known = labels
        if size > count:
            known = torch.cat([labels, labels.new_zeros(size - count)])
            labels = torch.cat([labels, labels.new_full((size - count,), self._classes)])
        if len(self._numbers) != size:
            self._numbers = torch.arange(size, device=self._device)
        return Samples(
            count=count,
            rows=rows,
            columns=rows.t().contiguous(),
            weights=self._weights.index_select(0, labels).div_(count),
            masses=self._masses.index_select(1, labels).div_(count),
            places=known.mul(size).add_(self._numbers),
            others=self._others.index_select(1, labels),
        )


def padded(count: int) -> int:
    """Return the next multiple of a register's numbers."""
    return -(-count // LANES) * LANES


def _padded_rows(features: Tensor) -> Tensor:
    count, width = features.shape
    if (count, width) == (padded(count), padded(width)):
        return features.contiguous()
    rows = features.new_zeros(padded(count), padded(width))
    rows[:count, :width] = features
    return rows
