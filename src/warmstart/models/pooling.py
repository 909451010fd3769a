"""The activations of an image as one vector."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from warmstart.errors import ConfigError, choose

POOLS = ("gap", "flatten", "cls")


@dataclasses.dataclass(frozen=True)
class Pooling:
    """A way from activations [b, ...] to one vector for each image, [b, d].

    Attributes:
        name: ``gap``, the mean over positions; ``flatten``, all values; ``cls``, the first token.
        positions: Which dimensions are positions.
    """

    name: str
    positions: tuple[int, ...] = ()

    def __call__(self, features: Tensor) -> Tensor:
        if self.name == "flatten":
            return features.flatten(1)
        return features[:, 0] if self.name == "cls" else features.mean(self.positions)


def check_pool(name: str | None) -> None:
    """Raise ConfigError unless `name` is ``gap``, ``flatten``, ``cls`` or None."""
    if name is not None and name not in POOLS:
        raise choose("features.pool", name, POOLS)


def positions(shape: Sequence[int]) -> tuple[int, ...]:
    """Return which dimensions of activations [b, ...] are positions, given `shape` without b.

    Maps of square images are [c, h, w], or [h, w, c] in some transformers; tokens are [n, d].
    """
    if len(shape) == 3:
        return (1, 2) if shape[0] == shape[1] != shape[2] else (2, 3)
    return (1,) if len(shape) == 2 else ()


def pooling(name: str | None, shape: Sequence[int], *, group: str = "") -> Pooling | None:
    """Return how activations are pooled; None where they are vectors already.

    Args:
        name: As in `Pooling`; None takes the mean over positions.
        shape: Of the activations of one image.
        group: The name of the layer group that puts them out, for the message.

    Raises:
        ConfigError: There is no such pooling, or it cannot be had of such activations.
    """
    check_pool(name)
    places = positions(shape)
    if not places and name is None:
        return None
    if not places or (name == "cls" and len(shape) != 2):
        what = f"what group {group} puts out of an image" if group else "the activation of an image"
        raise ConfigError(
            f"features.pool is {name!r}, but {what}, of shape {list(shape)}, has no "
            f"{'tokens' if places else 'positions'}; "
            f"give features.pool={'gap' if places else 'null'}"
        )
    return Pooling(name or "gap", places)


def pooled(features: Tensor, pool: str | None) -> Tensor:
    """Return one vector for each image, [b, d], of activations [b, ...]."""
    found = pooling(pool, features.shape[1:])
    return features if found is None else found(features)


def pooled_width(shape: Sequence[int], pool: str | None, *, group: str) -> int:
    """Return how many values pooling leaves of an image; see `pooling`."""
    found = pooling(pool, shape, group=group)
    return shape[0] if found is None else found(torch.empty(1, *shape, device="meta")).shape[1]
