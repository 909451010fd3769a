"""A small convolutional net for small images."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.architecture import Architecture
from warmstart.models.grouping import check_granularity, layout
from warmstart.models.layers import Layout
from warmstart.models.trace import trace


def small_cnn(
    *,
    widths: Sequence[int] = (16, 32, 48, 64),
    granularity: str = "stage",
) -> Architecture:
    """Return a chain of 3x3 convolutions with BatchNorm and ReLU, under a linear head.

    The image is halved by max pooling after the second convolution and averaged to 2x2 before the
    head, which keeps a digit's top from its bottom. With the default widths, gray images and up to
    40 classes it has under 60,000 parameters.

    Args:
        widths: Output channels of each convolution.
        granularity: ``stage`` (at most 8 groups) or ``block`` (one group per convolution).

    Raises:
        ConfigError: `widths` is empty or holds anything but positive whole numbers.
    """
    if not widths or any(not isinstance(w, int) or w < 1 for w in widths):
        raise ConfigError(
            f"model.widths is {list(widths)}, but must be positive whole numbers, one per layer"
        )
    check_granularity(granularity)
    return Architecture(
        name="small_cnn",
        build=functools.partial(_build, tuple(widths)),
        layout=_layout(tuple(widths), granularity),
    )


@functools.lru_cache
def _layout(widths: tuple[int, ...], granularity: str) -> Layout:
    with torch.random.fork_rng(devices=[]):
        model = _build(widths, 3, 2, None)
    return layout(model, ["head"], trace(model, size=32), granularity=granularity)


def _build(widths: tuple[int, ...], channels: int, classes: int, size: int | None) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = channels
    for index, width in enumerate(widths):
        layers[f"conv{index + 1}"] = nn.Sequential(
            nn.Conv2d(before, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        if index == 1:
            layers["pool"] = nn.MaxPool2d(2)
        before = width
    layers["average"] = nn.AdaptiveAvgPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(4 * before, classes)
    return nn.Sequential(layers)
