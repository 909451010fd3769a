"""Models of torchvision, with the preprocessing that their published weights were trained with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise

import torchvision.models
from torch import nn

from warmstart.errors import choose
from warmstart.models.architecture import Architecture, Input
from warmstart.models.layers import Layout, at_granularity


def torchvision_model(*, name: str, granularity: str = "stage") -> Architecture:
    """Return a model of torchvision by its builder's name.

    Args:
        name: ``resnet18`` or ``mobilenet_v2``.
        granularity: ``stage`` (groups of one resolution) or ``block``.

    Raises:
        ConfigError: There is no such model here.
    """
    if name not in _LAYOUTS:
        raise choose("model.name", name, _LAYOUTS)
    published = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return Architecture(
        name=name,
        build=functools.partial(_build, name),
        layout=at_granularity(granularity, _LAYOUTS[name]()),
        input=Input(
            size=published.crop_size[0],
            channels=3,
            mean=tuple(published.mean),
            std=tuple(published.std),
        ),
    )


def _build(name: str, channels: int, classes: int, size: int | None) -> nn.Module:
    if channels != 3:
        raise ValueError(f"{name} takes RGB images, not {channels} channels")
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return model


def _resnet18() -> dict[str, Layout]:
    stem, head = {"stem": ["conv1", "bn1"]}, {"head": ["fc"]}
    stages = {f"layer{i}": [f"layer{i}"] for i in (1, 2, 3, 4)}
    blocks = {f"layer{i}.{j}": [f"layer{i}.{j}"] for i in (1, 2, 3, 4) for j in (0, 1)}
    return {"stage": stem | stages | head, "block": stem | blocks | head}


def _mobilenet_v2() -> dict[str, Layout]:
    # The first block of each resolution halves the image: 112, 56, 28, 14 and 7 pixels from 224.
    starts = (0, 2, 4, 7, 14, 19)
    stages = {
        f"stage{i}": [f"features.{block}" for block in range(start, end)]
        for i, (start, end) in enumerate(pairwise(starts), start=1)
    }
    blocks = {f"features.{block}": [f"features.{block}"] for block in range(19)}
    head = {"head": ["classifier"]}
    return {"stage": stages | head, "block": blocks | head}


_LAYOUTS: dict[str, Callable[[], dict[str, Layout]]] = {
    "resnet18": _resnet18,
    "mobilenet_v2": _mobilenet_v2,
}
