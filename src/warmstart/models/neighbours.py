"""A classifier that looks for the nearest training images and lets them vote."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Similarities that are held at once, per image: the bank is searched in parts of this many rows.
_PART = 16384
# The nearest neighbours count so little more that they decide ties and nothing else.
_TIE = 1e-3


class Neighbours(nn.Module):
    """k-nearest-neighbour classification of features; all that it needs is in its buffers.

    Args:
        bank: Features of the training images, float [n, d].
        labels: int64 [n].
        k: How many neighbours vote, at most n.
        classes: Number of classes.
        cosine: By the angle between features; otherwise by their Euclidean distance.
    """

    bank: Tensor
    labels: Tensor
    center: Tensor
    options: Tensor

    def __init__(
        self, bank: Tensor, labels: Tensor, *, k: int, classes: int, cosine: bool = True
    ) -> None:
        super().__init__()
        # Distances are differences of large numbers where all features are far from 0.
        center = torch.zeros_like(bank[0]) if cosine else bank.mean(0)
        self.register_buffer("center", center)
        self.register_buffer("bank", F.normalize(bank) if cosine else bank - center)
        self.register_buffer("labels", labels)
        self.register_buffer("options", torch.tensor([k, classes, int(cosine)]))
        self.k, self.classes, self.cosine = k, classes, cosine

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Neighbours:
        """Return the module that has `state` as its ``state_dict``."""
        k, classes, cosine = state["options"].tolist()
        module = cls(state["bank"], state["labels"], k=k, classes=classes, cosine=bool(cosine))
        module.load_state_dict(dict(state))
        return module

    def nearest(self, x: Tensor, k: int) -> Tensor:
        """Return the labels of the `k` nearest training images, nearest first: int64 [b, k].

        Args:
            x: Features, float [b, d].
            k: At most n.
        """
        x = x.float() - self.center
        x = F.normalize(x) if self.cosine else x
        best = torch.empty(len(x), 0, device=x.device)
        labels = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
        for bank, own in zip(
            torch.split(self.bank, _PART), torch.split(self.labels, _PART), strict=True
        ):
            # Half the squared distance, less that of x to 0: what ranks the bank for each x.
            close = x @ bank.T - bank.square().sum(1) / 2
            best = torch.cat([best, close], 1)
            labels = torch.cat([labels, own.expand(len(x), -1)], 1)
            best, places = best.topk(min(k, best.shape[1]))
            labels = labels.gather(1, places)
        return labels

    def votes(self, nearest: Tensor) -> Tensor:
        """Return logits, the logarithm of the share of votes, for labels int64 [b, k].

        Each neighbour has a vote, and all classes share one more, so that none has probability 0.
        The class with nearer neighbours wins a tie.
        """
        k = nearest.shape[1]
        order = torch.arange(k, 0, -1, device=nearest.device) / k
        weights = (1 + _TIE / k * order).expand(len(nearest), -1)
        counts = torch.zeros(len(nearest), self.classes, device=nearest.device)
        counts = counts.scatter_add(1, nearest, weights) + 1 / self.classes
        return (counts / (k + 1)).log()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b, classes] of features [b, d]."""
        # Half precision would mix up the nearest.
        with torch.autocast(x.device.type, enabled=False):
            return self.votes(self.nearest(x, self.k))

    def extra_repr(self) -> str:
        return f"k={self.k}, images={len(self.bank)}, cosine={self.cosine}"
