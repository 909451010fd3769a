"""Penalties on weights, as the gradients that they add, and the clipping of gradients.

A penalty's own gradient is simple enough to write down, and costs one pass over the weights; in
the loss it would cost a graph as well. Parameters without a gradient take no part: they are frozen,
or the loss of this step does not depend on them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from warmstart.models.layers import LayerGroup
from warmstart.optim.regularization import Regularization


@torch.no_grad()
def add_l2(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Add the gradient of ``factor/2 |w|^2``: factor * w."""
    for parameter, gradient in _open(parameters):
        gradient.add_(parameter, alpha=factor)


@torch.no_grad()
def add_l1(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Add a subgradient of ``factor |w|_1``: factor * sign(w), and 0 where w is 0."""
    for parameter, gradient in _open(parameters):
        gradient.add_(parameter.sign(), alpha=factor)


@torch.no_grad()
def add_l2_sp(parameters: Sequence[nn.Parameter], starts: Sequence[Tensor], factor: float) -> None:
    """Add the gradient of ``factor/2 |w - w0|^2``: factor * (w - w0).

    Args:
        parameters: The weights w.
        starts: For each its w0, on the same device.
        factor: Of the penalty.
    """
    for parameter, start in zip(parameters, starts, strict=True):
        for _, gradient in _open([parameter]):
            gradient.add_(parameter - start, alpha=factor)


def _open(parameters: Iterable[nn.Parameter]) -> Iterator[tuple[nn.Parameter, Tensor]]:
    for parameter in parameters:
        if parameter.requires_grad and parameter.grad is not None:
            yield parameter, parameter.grad


class GradientRegularizer:
    """What a regularization does to the gradients of a step.

    Args:
        options: Which.
        groups: The model's layer groups, before step 0: that is w0.
        fresh: Names of the parameters that did not come from pretrained weights.
        decay_all: Weight decay decays biases and norms too, and so do L1 and L2.
    """

    def __init__(
        self,
        options: Regularization,
        groups: Sequence[LayerGroup],
        *,
        fresh: Collection[str] = (),
        decay_all: bool = False,
    ) -> None:
        self.options = options
        named = {name: p for group in groups for name, p in group.parameters.items()}
        self._all = list(named.values())
        self._decayed = [p for p in self._all if p.ndim > 1 or decay_all]
        self._new = [p for name, p in named.items() if name in fresh and p.ndim > 1]
        self._transferred, self._starts = list[nn.Parameter](), list[Tensor]()
        if options.l2_sp:
            self._transferred = [p for name, p in named.items() if name not in fresh]
            self._starts = [p.detach().clone() for p in self._transferred]

    def penalize(self) -> None:
        """Add the penalties' gradients to those of the loss."""
        options = self.options
        if options.l2:
            add_l2(self._decayed, options.l2)
        if options.l1:
            add_l1(self._decayed, options.l1)
        if options.l2_sp_head:
            add_l2(self._new, options.l2_sp_head)
        if options.l2_sp:
            pairs = zip(self._starts, self._transferred, strict=True)
            # The model goes to its device after this was made; from the second step on they stay.
            self._starts = [start.to(parameter.device) for start, parameter in pairs]
            add_l2_sp(self._transferred, self._starts, options.l2_sp)

    def clip(self) -> None:
        """Shorten the gradient over all that trains, or bound its numbers."""
        if self.options.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._all, self.options.clip_norm)
        if self.options.clip_value is not None:
            nn.utils.clip_grad_value_(self._all, self.options.clip_value)
