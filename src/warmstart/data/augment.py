"""Augmentation of a whole batch at once, with the random numbers handed in.

An augmentation has the attribute `columns` and maps pixels, float32 [n, channels, height, width],
and uniforms in [0, 1), float32 [n, columns], to pixels of the same shape. An image's result
depends on its own row of numbers alone, so that it is the same in any batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from warmstart.errors import ConfigError


class NoAugment:
    """Leave the images as they are."""

    columns = 0

    def __call__(self, pixels: Tensor, uniforms: Tensor) -> Tensor:
        return pixels


class CropFlip:
    """Pad with zeros, cut out the original size at a random place, mirror some.

    Source: "Deep Residual Learning for Image Recognition", He et al. 2016, section 4.2 (padding 4
    and half of the images mirrored, for 32x32).

    Args:
        padding: Zeros added on each side, in pixels.
        flip: Share of the images to mirror left to right, in [0, 1].

    Raises:
        ConfigError: `padding` is negative or `flip` is no share.
    """

    columns = 3

    def __init__(self, *, padding: int, flip: float) -> None:
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise ConfigError(
                f"augment.padding is {padding!r}, but must be a whole number of pixels, 0 or more"
            )
        self.padding = padding
        self.flip = _share("augment.flip", flip)

    def __call__(self, pixels: Tensor, uniforms: Tensor) -> Tensor:
        n, channels, height, width = pixels.shape
        top, left = (uniforms[:, :2] * (2 * self.padding + 1)).long().unbind(1)
        rows = top[:, None] + torch.arange(height, device=pixels.device)
        columns = torch.arange(width, device=pixels.device).expand(n, width)
        columns = torch.where(_mirrored(uniforms, self.flip)[:, None], columns.flip(1), columns)
        columns = left[:, None] + columns
        padded = functional.pad(pixels, (self.padding,) * 4)
        places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        index = places.reshape(n, 1, -1).expand(n, channels, height * width)
        return padded.flatten(2).gather(2, index).view_as(pixels)


class ResizedCrop:
    """Cut out a random part of random shape, stretch it to the full size, mirror some.

    One bilinear sampling does it for the whole batch. Unlike torchvision's RandomResizedCrop, a
    part that would be wider or higher than the image is cut to it instead of drawn again.

    Source: "Going Deeper with Convolutions", Szegedy et al. 2015, section 6.

    Args:
        scale: Least and largest area of the part, as shares of the image's.
        ratio: Least and largest width / height of the part, drawn evenly in its logarithm.
        flip: Share of the images to mirror left to right, in [0, 1].

    Raises:
        ConfigError: A range is empty or not positive, a scale is above 1, or `flip` is no share.
    """

    columns = 5

    def __init__(
        self,
        *,
        scale: tuple[float, float] = (0.25, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
    ) -> None:
        self.scale = _range("augment.scale", scale, top=1.0)
        self.ratio = _range("augment.ratio", ratio, top=math.inf)
        self.flip = _share("augment.flip", flip)

    def __call__(self, pixels: Tensor, uniforms: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        part_height, part_width = self._part(uniforms[:, :2], height, width)
        # All of it in [-1, 1]: centre and half extent of the part, as grid_sample counts.
        centre_y = (1 - part_height) * (2 * uniforms[:, 2] - 1)
        centre_x = (1 - part_width) * (2 * uniforms[:, 3] - 1)
        part_width = torch.where(_mirrored(uniforms, self.flip), -part_width, part_width)
        y = centre_y[:, None] + part_height[:, None] * _pixel_centres(height, pixels)
        x = centre_x[:, None] + part_width[:, None] * _pixel_centres(width, pixels)
        shape = (len(pixels), height, width)
        grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
        return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)

    def _part(self, uniforms: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return height and width of each image's part, as shares of the image's, each [n]."""
        # In double precision and rounded: torch's exp may differ in its last bit with the
        # number's place in the batch.
        area, ratio = uniforms.double().unbind(1)
        area = self.scale[0] + area * (self.scale[1] - self.scale[0])
        low, high = map(math.log, self.ratio)
        ratio = torch.exp(low + ratio * (high - low)) * height / width
        sides = torch.stack([torch.sqrt(area / ratio), torch.sqrt(area * ratio)])
        part_height, part_width = sides.clamp(max=1).float()
        return part_height, part_width


def _mirrored(uniforms: Tensor, flip: float) -> Tensor:
    """Return which images to mirror, by the last column: bool of shape [n]."""
    return uniforms[:, -1] < flip


def _pixel_centres(count: int, like: Tensor) -> Tensor:
    """Return the centres of `count` pixels that fill [-1, 1]: float32 of shape [count]."""
    return (2 * torch.arange(count, dtype=torch.float32, device=like.device) + 1) / count - 1


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}, but must be a share of the images in [0, 1]")
    return float(value)


def _range(name: str, values: tuple[float, float], *, top: float) -> tuple[float, float]:
    if len(values) != 2 or not 0 < values[0] <= values[1] <= top:
        limit = f", at most {top:g}" if top < math.inf else ""
        raise ConfigError(
            f"{name} is {list(values)}, but must be two numbers, the lower first, above 0{limit}"
        )
    return float(values[0]), float(values[1])
