"""One forward pass through a model, noted by hooks: what was called, in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Calls:
    """What a forward pass did.

    Attributes:
        entered: Module path to the place of its first call among all first calls.
        positions: Module path to the number of pixels (or tokens) of its first output.
    """

    entered: dict[str, int]
    positions: dict[str, int]

    def first(self, path: str, module: nn.Module) -> int | None:
        """Return when the module, or the first of its children, was called; None for never."""
        return min(self._under(self.entered, path, module), default=None)

    def last_positions(self, path: str, module: nn.Module) -> int | None:
        """Return the positions of the module's output, or of its last child's."""
        if path in self.positions:
            return self.positions[path]
        return next(iter(reversed([*self._under(self.positions, path, module)])), None)

    def _under(self, values: dict[str, int], path: str, module: nn.Module) -> Iterator[int]:
        names = (name for name, _ in module.named_modules(prefix=path))
        return (values[name] for name in names if name in values)


@torch.no_grad()
def trace(model: nn.Module, *, size: int, channels: int = 3, train: bool = False) -> Calls:
    """Run a batch [2, channels, size, size] through the model and note the calls of its modules.

    The model's mode and torch's generator are as before.

    Args:
        model: Any model, best on ``meta``, where the pass costs next to nothing.
        size: Height and width of the images in pixels.
        channels: Channels of the images.
        train: Run in training mode, as auxiliary heads need it.
    """
    images = torch.zeros(2, channels, size, size, device=next(model.parameters()).device)
    calls = Calls({}, {})

    def enter(path: str) -> Any:
        def note(module: nn.Module, inputs: Any) -> None:
            calls.entered.setdefault(path, len(calls.entered))

        return note

    def leave(path: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if (positions := _positions(output)) is not None:
                calls.positions.setdefault(path, positions)

        return note

    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(enter(path)))
        hooks.append(module.register_forward_hook(leave(path)))
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.random.fork_rng(devices=[]):
            model.train(train)(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return calls


def _positions(output: Any) -> int | None:
    while isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        return None
    shape = output.shape
    if len(shape) == 4:
        # Images are square, and lie as [n, h, w, c] in some transformers, otherwise [n, c, h, w].
        channels_last = shape[1] == shape[2] != shape[3]
        return shape[1] * shape[2] if channels_last else shape[2] * shape[3]
    return shape[1] if len(shape) == 3 else 1
