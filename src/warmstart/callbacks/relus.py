"""Which ReLUs give nothing: the share of dead units in each layer group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from warmstart.models.layers import LayerGroup

# ReLU as a function, a method and in place; what a module or another of these calls inside does
# not show again.
_RELU = {F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


class ReLUs(TorchFunctionMode):
    """Look at what the ReLUs of a training step give, whether they are modules or functions.

    A unit (a channel of [b, c, h, w], the last axis of other shapes) is dead where it is 0 for
    all images of the batch and everywhere in them. A ReLU belongs to the layer group of the module
    that was entered last before it, so that those between two layers count with the first.

    Args:
        groups: Of the model.
    """

    def __init__(self, groups: Sequence[LayerGroup]) -> None:
        super().__init__()
        self._owners = {
            module: group.index
            for group in groups
            for part in group.modules
            for module in part.modules()
        }
        self._group: int | None = None
        self._call = 0
        self._alive: dict[tuple[int, int], Tensor] = {}

    def clear(self) -> None:
        """Forget the step before."""
        self._alive = {}

    def run(self, net: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Return ``net(x)``; the micro-batches of a step count together."""
        self._group, self._call = None, 0
        hook = register_module_forward_pre_hook(self._enter)
        try:
            with self:
                return net(x)
        finally:
            hook.remove()

    def dead(self) -> dict[int, Tensor]:
        """Return for each group with ReLUs, by its index, the share of dead units: float64."""
        units: dict[int, list[Tensor]] = {}
        for (group, _), alive in self._alive.items():
            units.setdefault(group, []).append(alive)
        # Counted, so that 0 and 1 are exact.
        return {
            group: torch.cat(alive).logical_not().double().mean() for group, alive in units.items()
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _RELU or (func is F.hardtanh and _lower(args, kwargs) == 0):  # as ReLU6 does
            self._see(output.detach())
        return output

    def _see(self, output: Tensor) -> None:
        if self._group is None:
            return
        units = 1 if output.ndim == 4 else output.ndim - 1
        alive = output.amax([axis for axis in range(output.ndim) if axis != units]) > 0
        place = (self._group, self._call)
        self._call += 1
        before = self._alive.get(place)
        self._alive[place] = alive if before is None else before | alive

    def _enter(self, module: nn.Module, given: Any) -> None:
        self._group = self._owners.get(module, self._group)


def _lower(args: Sequence[Any], kwargs: dict[str, Any]) -> float:
    found: float = kwargs.get("min_val", args[1] if len(args) > 1 else -1.0)
    return found
