"""Random crops: where in an image they lie."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from warmstart.data.augment import options

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels."""


class Part(NamedTuple):
    """A rectangle of each image, float32 [n] each, in the units of `grid_sample`: an image spans
    [-1, 1] in both directions, so that `height` and `width` are shares of the image's.
    """

    y: Tensor
    x: Tensor
    height: Tensor
    width: Tensor

    def boxes(self, heights: Tensor, widths: Tensor) -> list[Box]:
        """Return the rectangles in images of these sizes, in whole pixels, one at least."""
        starts, ends = (
            [
                ((centre + side * half + 1).double() / 2).clamp(0, 1) * size
                for centre, half, size in (
                    (self.x, self.width, widths),
                    (self.y, self.height, heights),
                )
            ]
            for side in (-1, 1)
        )
        sizes = torch.stack([widths, heights], 1).long()
        first = torch.minimum(torch.stack(starts, 1).round().long(), sizes - 1)
        last = torch.maximum(torch.stack(ends, 1).round().long(), first + 1)
        boxes = torch.cat([first, last], 1).tolist()
        return [(left, top, right, bottom) for left, top, right, bottom in boxes]


class Shift:
    """Pad with zeros and cut out the original size at a random place.

    Source: "Deep Residual Learning for Image Recognition", He et al. 2016, section 4.2 (padding 4
    for 32x32).

    Args:
        padding: Zeros added on each side, in pixels.
    """

    columns = 2

    def __init__(self, padding: int | None) -> None:
        padding = 4 if padding is None else padding
        self.padding = options.whole("padding", padding, least=1, unit=" of pixels")

    def corners(self, uniforms: Tensor) -> list[list[int]]:
        """Return each window's first row and column in the padded image."""
        corners: list[list[int]] = (uniforms * (2 * self.padding + 1)).long().tolist()
        return corners


class Resized:
    """Cut out a random part of random shape, to be stretched to the full size.

    Unlike torchvision's RandomResizedCrop, a part that would be wider or higher than the image is
    cut to it instead of drawn again.

    Source: "Going Deeper with Convolutions", Szegedy et al. 2015, section 6.

    Args:
        scale: Least and largest area of the part, as shares of the image's.
        ratio: Least and largest width / height of the part, drawn evenly in its logarithm.
    """

    columns = 4

    def __init__(
        self, scale: tuple[float, float] | None, ratio: tuple[float, float] | None
    ) -> None:
        self.scale = options.pair("scale", (0.25, 1.0) if scale is None else scale, most=1)
        self.ratio = options.pair("ratio", (3 / 4, 4 / 3) if ratio is None else ratio)

    def parts(
        self, uniforms: Tensor, heights: Tensor, widths: Tensor, shape: tuple[int, int]
    ) -> Part:
        """Return the parts of images of these sizes, float64 [n] or [1]."""
        # In double precision and rounded: torch's exp may differ in its last bit with the
        # number's place in the batch.
        area, ratio = uniforms[:, :2].double().unbind(1)
        area = self.scale[0] + area * (self.scale[1] - self.scale[0])
        low, high = map(math.log, self.ratio)
        ratio = torch.exp(low + ratio * (high - low)) * heights / widths
        return _placed(torch.sqrt(area / ratio), torch.sqrt(area * ratio), uniforms[:, 2:])


class Scaled:
    """Scale the image to a random size and cut out the input's size at a random place.

    Source: "Very Deep Convolutional Networks", Simonyan & Zisserman 2015, section 3.1, and He et
    al. 2016, section 3.4: a shorter side drawn evenly from [256, 480], and a patch of 224.

    Args:
        short_side: Least and largest shorter side of the scaled image, in sides of the input:
            [256/224, 480/224] in the paper.
    """

    columns = 3

    def __init__(self, short_side: tuple[float, float] | None) -> None:
        sides = (256 / 224, 480 / 224) if short_side is None else short_side
        self.short_side = options.pair("short_side", sides, least=1)

    def parts(
        self, uniforms: Tensor, heights: Tensor, widths: Tensor, shape: tuple[int, int]
    ) -> Part:
        """Return the parts, of the ratio of `shape`, of images of these sizes, float64 [n] or [1].

        What a shorter side of exactly `shape` would show, divided by the factor that is drawn.
        """
        low, high = self.short_side
        factor = low + uniforms[:, 0].double() * (high - low)
        height, width = heights / shape[0], widths / shape[1]
        fitting = torch.minimum(height, width)
        return _placed(fitting / height / factor, fitting / width / factor, uniforms[:, 1:])


def _placed(height: Tensor, width: Tensor, uniforms: Tensor) -> Part:
    """Return parts of these shares, float64 [n], placed evenly within the images."""
    height, width = height.clamp(max=1).float(), width.clamp(max=1).float()
    y, x = (2 * uniforms - 1).unbind(1)
    return Part((1 - height) * y, (1 - width) * x, height, width)
