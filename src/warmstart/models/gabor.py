"""A first layer designed by hand: oriented edges and colour blobs.

Trained nets of all kinds have such filters in their first layer (Krizhevsky et al., ImageNet
classification with deep convolutional neural networks, NIPS 2012, figure 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from warmstart.errors import ConfigError
from warmstart.models.layers import LayerGroup

# Standard deviation of a Gabor filter's window in wavelengths: a bandwidth of 1.5 octaves.
_WINDOW = 0.4
_SHORTEST = 3.0  # pixels; below it a grid of whole pixels no longer shows the orientation
# Red against green, blue against yellow, and their negatives. Each sums to zero over RGB.
_OPPONENTS = ((1.0, -1.0, 0.0), (-0.5, -0.5, 1.0), (-1.0, 1.0, 0.0), (0.5, 0.5, -1.0))


def gabor_first_layer(model: nn.Module, *, groups: Sequence[LayerGroup]) -> str:
    """Fill the first convolution of `model` with Gabor filters and colour blobs, in place.

    Of n filters on RGB, the last floor(n / 3) are colour blobs and the others Gabor filters, which
    are equal on all channels; on any other number of channels all are Gabor filters. Nothing is
    random. Each filter has the Euclidean norm sqrt(2 * in / out), which is what the variance
    2 / (out * height * width) of Kaiming's fan-out (He et al., ICCV 2015, eq. 14) gives it on
    average. The bias becomes zero.

    Args:
        model: Its first convolution in `groups` [out, in, height, width] sees the image.
        groups: The model's layer groups.

    Returns:
        The path of the convolution.

    Raises:
        ConfigError: Group 0 has no 2-D convolution, or its first one is grouped or smaller than
            3 x 3 pixels.
    """
    convolutions = (
        layer
        for module in groups[0].modules
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
    )
    layer = next(convolutions, None)
    if layer is None:
        raise ConfigError(
            f"init.first_layer=gabor needs a 2-D convolution in the first layer group, but "
            f"{groups[0].name} has none; use init.first_layer=scheme"
        )
    name: str = next(name for name, module in model.named_modules() if module is layer)
    if layer.groups != 1 or min(layer.kernel_size) < 3:
        height, width = layer.kernel_size
        raise ConfigError(
            f"init.first_layer=gabor needs a first convolution of at least 3 x 3 pixels and one "
            f"group, but {name} has {height} x {width} and {layer.groups}; "
            "use init.first_layer=scheme"
        )
    with torch.no_grad():
        filters = _filters(*layer.weight.shape)
        norms = filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        layer.weight.copy_(filters / norms * math.sqrt(2 * layer.in_channels / layer.out_channels))
        if layer.bias is not None:
            layer.bias.zero_()
    return name


def _filters(out: int, channels: int, height: int, width: int) -> Tensor:
    """Return filters [out, channels, height, width] of any scale, in double precision."""
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64)[None, :] - (width - 1) / 2
    blobs = out // 3 if channels == 3 else 0
    # [count, 1, height, width] x [1, channels, 1, 1]
    edges = _gabors(out - blobs, x, y)[:, None].expand(-1, channels, -1, -1)
    return torch.cat((edges, _blobs(blobs, x, y))) if blobs else edges


def _gabors(count: int, x: Tensor, y: Tensor) -> Tensor:
    """Return `count` filters [count, height, width] for the pixels' coordinates.

    Daugman, Uncertainty relation for resolution in space, spatial frequency, and orientation,
    1985: a plane wave under a Gaussian window, here a round one. Wavelengths are the kernel size
    and its half, quarter, ... down to 3 pixels. Each has orientations at equal distances over
    180 degrees, and each orientation an even (cosine) and an odd (sine) filter.
    """
    wavelengths = [float(min(x.numel(), y.numel()))]
    while wavelengths[-1] / 2 >= _SHORTEST:
        wavelengths.append(wavelengths[-1] / 2)
    pairs = math.ceil(count / 2)
    filters = []
    for index, wavelength in enumerate(wavelengths):
        window = torch.exp(-(x**2 + y**2) / (2 * (_WINDOW * wavelength) ** 2))
        orientations = len(range(index, pairs, len(wavelengths)))
        for turn in range(orientations):
            angle = math.pi * turn / orientations
            phase = 2 * math.pi / wavelength * (x * math.cos(angle) + y * math.sin(angle))
            even, odd = window * phase.cos(), window * phase.sin()
            # The cosine has a mean of its own, taken off under the window; the sine has none.
            filters += [even - window * (even.sum() / window.sum()), odd]
    return torch.stack(filters[:count])


def _blobs(count: int, x: Tensor, y: Tensor) -> Tensor:
    """Return `count` filters [count, 3, height, width]: opponent colours under round windows.

    The four colours take turns; the windows' standard deviations grow by equal factors from an
    eighth to a half of the kernel size.
    """
    size = min(x.numel(), y.numel())
    windows = math.ceil(count / len(_OPPONENTS))
    filters = []
    for index in range(count):
        step = index // len(_OPPONENTS) / max(1, windows - 1)
        window = torch.exp(-(x**2 + y**2) / (2 * (size / 8 * 4**step) ** 2))
        colour = torch.tensor(_OPPONENTS[index % len(_OPPONENTS)], dtype=torch.float64)
        filters.append(colour[:, None, None] * window)
    return torch.stack(filters)
