"""SGD whose weight decay is no part of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class DecoupledSgd(torch.optim.SGD):
    """SGDW: every step takes the share ``factor x weight_decay`` off the weights.

    The factor is a parameter group's current rate over the base rate: the schedule, times what the
    phase and the depth make of it. The base rate itself is no part of the share, so that the two
    are tuned apart; momentum never sees the decay.

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 1.
    """

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        base = self.defaults["lr"]
        with torch.no_grad():
            for group in self.param_groups:
                # Frozen parameters have no gradient.
                moving = [each for each in group["params"] if each.grad is not None]
                if moving:
                    factor = group["lr"] / base if base else 0.0
                    direction = self._direction(group, moving)
                    torch._foreach_mul_(moving, 1 - factor * group["weight_decay"])
                    torch._foreach_add_(moving, direction, alpha=-group["lr"])
        return loss

    def _direction(self, group: dict[str, Any], moving: list[Tensor]) -> list[Tensor]:
        """Return what the rate is multiplied by, of parameters with a gradient."""
        gradients = [each.grad for each in moving if each.grad is not None]
        if not group["momentum"]:
            return gradients
        for each in moving:
            self.state[each].setdefault("momentum_buffer", torch.zeros_like(each))
        velocities = [self.state[each]["momentum_buffer"] for each in moving]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, gradients)
        if not group["nesterov"]:
            return velocities
        return list(torch._foreach_add(gradients, velocities, alpha=group["momentum"]))
