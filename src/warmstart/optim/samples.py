"""Batches of features as many stacked classifiers take them, and where their logits are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers of a vector register (AVX-512). Rests that fill none are computed in another way, and
# where they lie depends on the other classifiers: so all sides are padded to multiples of it.
LANES = 16

Batch = tuple[Tensor, Tensor]
"""Features, float32 [n, features], and labels, int64 [n]."""

Place = tuple[slice, slice]
"""Of neighbouring classifiers: their streams, and which of each stream."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """What the losses of a step need of each stream's samples; padding has the weight 0.

    Attributes:
        places: Of the own class of each in [classes * samples]; int64 [streams, samples].
        weights: Of each in the loss: [streams, 1, samples].
        shares: The same in the mean over samples.
        masses: Minus the share of each at its own class, else 0: [streams, 1, classes, samples].
        others: 0 at the classes before each sample's own, -1 at the rest; of the same shape.
    """

    places: Tensor
    weights: Tensor
    shares: Tensor
    masses: Tensor
    others: Tensor


class Layout:
    """Lays out batches for losses that are the mean over samples of -w[y] log p[y].

    Labels of several steps are laid out at once, since most of the time goes into calls.

    Args:
        count: Samples of a batch.
        features: Their number.
        classes: Their number.
        bias: Whether the classifiers have biases.
        class_weights: The w of each class for each stream, float32 [classes]; None for ones.
        steps: To lay out at a time, at most.
        device: Of the batches.

    Attributes:
        count: As above.
        rows: Features, then a column of ones where there are biases: [steps, streams, samples,
            columns]. Each call writes them anew.
    """

    def __init__(
        self,
        count: int,
        features: int,
        classes: int,
        *,
        bias: bool,
        class_weights: Sequence[Tensor | None],
        steps: int,
        device: torch.device,
    ) -> None:
        self.count, self._classes = count, classes
        streams, size = len(class_weights), padded(count)
        self.rows = torch.zeros(steps, streams, size, padded(features + bias), device=device)
        if bias:
            self.rows[..., features] = 1
        self._places = [list(step) for step in self.rows[:, :, :count, :features]]
        # A class more, the last, which is that of padding.
        others = -torch.ones(classes, classes + 1).tril()
        tables = []
        for given in class_weights:
            weights = F.pad(torch.ones(classes) if given is None else given.cpu(), (0, 1))
            shares = weights / count
            tables.append(torch.cat([-shares.diag()[:-1], others, shares[None], weights[None]]))
        self._table = torch.cat(tables, dim=1).to(device)
        self._offsets = (torch.arange(streams, device=device) * (classes + 1))[:, None]
        self._numbers = torch.arange(size, device=device)

    def __call__(self, batches: Sequence[Sequence[Batch]]) -> list[Samples]:
        """Lay out the batches of all streams for some steps."""
        labels = []
        for places, given in zip(self._places, batches, strict=False):
            for place, (features, own) in zip(places, given, strict=True):
                place.copy_(features)
                labels.append(own)
        _, streams, size, _ = self.rows.shape
        steps = len(labels) // streams
        known = torch.cat(labels).view(steps, streams, self.count)
        index = F.pad(known, (0, size - self.count), value=self._classes) + self._offsets
        known = F.pad(known, (0, size - self.count))
        found = self._table.index_select(1, index.flatten())
        found = found.view(-1, steps, streams, 1, size).permute(1, 2, 3, 0, 4)
        parts = (
            known * size + self._numbers,
            found[:, :, :, -1],
            found[:, :, :, -2],
            found[:, :, :, : self._classes],
            found[:, :, :, self._classes : -2],
        )
        return [Samples(*own) for own in zip(*(part.unbind() for part in parts), strict=True)]


class Room:
    """Where the logits of batches of a size are computed: views that are made once.

    Args:
        layout: Of the batches.
        weights: [streams, members, classes, columns].
        cut: The pieces whose logits are computed at a time.
        pieces: Those that are updated at a time.

    Attributes:
        layout: As above.
        logits: [streams, members, classes, samples].
        earlier: Likewise.
        own: [streams, members, samples].
        tallies: [2, streams, members, samples].
        lines: For each batch of a step its logits, [p, classes * samples], and `own`, [p, samples].
        products: For each step that is laid out at a time and each piece: the weights, [streams,
            p * classes, columns], the features, transposed, and the logits, [streams, p * classes,
            samples].
        gradients: For each such step and each piece of an update: the logits and the features.
    """

    def __init__(
        self, layout: Layout, weights: Tensor, cut: Sequence[Place], pieces: Sequence[Place]
    ) -> None:
        size = layout.rows.shape[2]
        self.layout = layout
        self.logits, self.earlier = weights.new_empty(2, *weights.shape[:3], size)
        self.own = weights.new_empty(*weights.shape[:2], size)
        self.tallies = weights.new_empty(2, *self.own.shape)
        batches, lines = layout.rows.shape[1], weights.shape[2] * size
        by_batch = self.logits.view(batches, -1, lines), self.own.view(batches, -1, size)
        self.lines = list(zip(*by_batch, strict=True))

        def flat(tensor: Tensor, places: Sequence[Place]) -> list[tuple[slice, Tensor]]:
            return [(place[0], tensor[place].flatten(1, 2)) for place in places]

        pairs = list(zip(flat(weights, cut), flat(self.logits, cut), strict=True))
        own = flat(self.logits, pieces)
        steps = [rows.expand(len(weights), -1, -1) for rows in layout.rows]
        self.products = [
            [(weight, rows[streams].mT, logits) for (streams, weight), (_, logits) in pairs]
            for rows in steps
        ]
        self.gradients = [[(logits, rows[streams]) for streams, logits in own] for rows in steps]


def padded(count: int) -> int:
    """Return the next multiple of a register's numbers."""
    return -(-count // LANES) * LANES
