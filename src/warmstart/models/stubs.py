"""Modules that stand in the place of others, so that a pass runs from a cut on alone.

What lies before the cut becomes blanks: NaN for one image. They cost next to nothing, and where
one reached the output it would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def blank(value: Any, images: int) -> Any:
    """Return a value for `images` images as it is for one, its tensors filled with NaN or 0."""

    def empty(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        # Windows of images, for example, are some for each image.
        rows = leaf.shape[0] // images if leaf.ndim and leaf.shape[0] % images == 0 else None
        fill = float("nan") if leaf.is_floating_point() else 0
        return torch.full_like(leaf.detach()[:rows] if leaf.ndim else leaf.detach(), fill)

    return tree_map(empty, value)


def moved(value: Any, device: torch.device) -> Any:
    """Return a value with its tensors on `device`."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


class Flow:
    """The running pass, of which all stand-ins know.

    Attributes:
        features: What goes in at the cut, [b, ...].
        calls: Path to the number of its calls so far.
    """

    def __init__(self) -> None:
        self.features = torch.empty(0)
        self.calls: dict[str, int] = {}

    def start(self, features: Tensor) -> None:
        """Begin a pass."""
        self.features = features
        self.calls.clear()

    def count(self, path: str) -> int:
        """Return how many calls of the module at `path` came before in this pass."""
        before = self.calls.get(path, 0)
        self.calls[path] = before + 1
        return before


class Stub(nn.Module):
    """A module before the cut: returns blanks. Its attributes are the module's own.

    Args:
        flow: The running pass.
        path: Of the module.
        original: The module.
        outputs: Of each of its calls, as `blank` returns them.
    """

    def __init__(
        self, flow: Flow, path: str, original: nn.Module, outputs: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        # Past Module's way to set an attribute, which would make the module a child.
        self.__dict__.update(flow=flow, path=path, original=original, outputs=outputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["original"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.outputs[self.flow.count(self.path)]


class Entry(Stub):
    """The module at the cut: one of its calls gets the features in place of what it is given."""

    def __init__(self, flow: Flow, path: str, original: nn.Module, call: int) -> None:
        super().__init__(flow, path, original)
        self.__dict__["call"] = call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.flow.count(self.path) == self.call:
            args, kwargs = tree_map(
                lambda leaf: self.flow.features if isinstance(leaf, Tensor) else leaf,
                (args, kwargs),
            )
        return self.original(*args, **kwargs)
