"""The updates of SGD, Adam and AdamW for many classifiers at once, each at its own rate.

They are those of torch's optimizers up to the rounding of sums. All work in place, with as few
passes over memory as they can, on a piece: [streams, p, classes, columns], the parameters of p
classifiers of each of some streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

# Puts factor * tensor + gradient in the place of a tensor; with a factor of 0 the gradient alone.
Gradient = Callable[[Tensor, float], None]

_EPS = 1e-8  # the default of torch's Adam and AdamW, as in warmstart.optim.optimizers


class Update(Protocol):
    """One step of an optimizer.

    Attributes:
        slots: Names of the tensors that it keeps beside the parameters, as torch calls them.
    """

    slots: tuple[str, ...]

    def __call__(
        self,
        weight: Tensor,
        slots: Sequence[Tensor],
        gradient: Gradient,
        spare: Tensor,
        *,
        rate: Tensor,
        decay: Tensor | None,
        step: int,
    ) -> None:
        """Move parameters by one step.

        Args:
            weight: [streams, p, classes, columns].
            slots: Likewise, as `slots` names them; zeros before the first step.
            gradient: Of `weight`.
            spare: Of the same shape and of any content, which is lost.
            rate: [streams, p, 1, 1].
            decay: [streams, p, 1, columns]; None where nothing decays.
            step: From 0 on.
        """
        ...


class Sgd:
    """As `torch.optim.SGD`, without dampening."""

    def __init__(self, *, momentum: float = 0.9, nesterov: bool = False) -> None:
        self.momentum = momentum
        self.nesterov = nesterov
        self.slots: tuple[str, ...] = ("momentum_buffer",) if momentum else ()

    def __call__(
        self,
        weight: Tensor,
        slots: Sequence[Tensor],
        gradient: Gradient,
        spare: Tensor,
        *,
        rate: Tensor,
        decay: Tensor | None,
        step: int,
    ) -> None:
        plain = not self.momentum or self.nesterov
        # The product itself adds to the momentum: a pass over memory less.
        moved = spare if plain else slots[0]
        gradient(moved, 0.0 if plain else self.momentum)
        if decay is not None:
            moved.addcmul_(weight, decay)
        if self.nesterov:
            torch.add(moved, slots[0], alpha=self.momentum, out=slots[0])
            moved.add_(slots[0], alpha=self.momentum)
        weight.addcmul_(moved, rate, value=-1)


class Adam:
    """As `torch.optim.Adam`, or `torch.optim.AdamW` where the decay is decoupled."""

    slots: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    def __init__(self, *, betas: Sequence[float] = (0.9, 0.999), decoupled: bool = False) -> None:
        self.betas = betas
        self.decoupled = decoupled

    def __call__(
        self,
        weight: Tensor,
        slots: Sequence[Tensor],
        gradient: Gradient,
        spare: Tensor,
        *,
        rate: Tensor,
        decay: Tensor | None,
        step: int,
    ) -> None:
        mean, square = slots
        first, second = self.betas
        gradient(spare, 0.0)
        if decay is not None and self.decoupled:
            weight.mul_(1 - rate * decay)
        elif decay is not None:
            spare.addcmul_(weight, decay)
        mean.lerp_(spare, 1 - first)
        square.mul_(second).addcmul_(spare, spare, value=1 - second)
        # rate / c1 * mean / (sqrt(square) / c2 + eps), multiplied out: one pass less.
        c1, c2 = 1 - first ** (step + 1), math.sqrt(1 - second ** (step + 1))
        torch.sqrt(square, out=spare).add_(c2 * _EPS)
        torch.div(mean, spare, out=spare)
        weight.addcmul_(spare, rate, value=-c2 / c1)


def update_of(optimizer: torch.optim.Optimizer) -> Update | None:
    """Return the update of one of torch's optimizers as `warmstart.optim.optimizers` makes them.

    None stands for any other.
    """
    options, kind = optimizer.defaults, type(optimizer)
    if kind is torch.optim.SGD and not options["dampening"] and not options["maximize"]:
        return Sgd(momentum=options["momentum"], nesterov=options["nesterov"])
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        plain = not options["amsgrad"] and not options["maximize"] and options["eps"] == _EPS
        decoupled = kind is torch.optim.AdamW
        return Adam(betas=options["betas"], decoupled=decoupled) if plain else None
    return None
