"""Rectangles of images that are painted over, for whole batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from warmstart.data.augment import options


class Cutout:
    """Paint over a square around a random pixel of every image; it may reach over the edge.

    Source: "Improved Regularization of Convolutional Neural Networks with Cutout", DeVries &
    Taylor 2017, section 3.

    Args:
        side: Of the square, as a share of the image's shorter side.
    """

    columns = 2

    def __init__(self, side: float) -> None:
        self.side = side

    def __call__(self, x: Tensor, uniforms: Tensor, colour: Tensor) -> Tensor:
        """Map float32 [n, channels, height, width] to that shape, painting with `colour`."""
        height, width = x.shape[2:]
        side = max(1, round(self.side * min(height, width)))
        centre_y, centre_x = (uniforms[:, i].mul(s).long() for i, s in enumerate((height, width)))
        top, left = centre_y - side // 2, centre_x - side // 2
        return _painted(x, top, left, top + side, left + side, colour)


class Erasing:
    """Paint over a random rectangle of some images.

    A rectangle that would be wider or higher than the image is cut to it instead of drawn again.

    Source: "Random Erasing Data Augmentation", Zhong et al. 2020, algorithm 1; its ratio is drawn
    evenly in its logarithm here, as in torchvision, so that wide and high ones are as frequent.

    Args:
        share: Of the images.
        scale: Least and largest area, as shares of the image's.
        ratio: Least and largest height / width.
    """

    columns = 5

    def __init__(
        self,
        share: float,
        *,
        scale: tuple[float, float] | None,
        ratio: tuple[float, float] | None,
    ) -> None:
        self.share = share
        self.scale = options.pair("erasing_scale", (0.02, 0.4) if scale is None else scale, most=1)
        self.ratio = options.pair("erasing_ratio", (0.3, 1 / 0.3) if ratio is None else ratio)

    def __call__(self, x: Tensor, uniforms: Tensor, colour: Tensor) -> Tensor:
        """Map float32 [n, channels, height, width] to that shape, painting with `colour`."""
        height, width = x.shape[2:]
        # In double precision and rounded, since exp may differ in its last bit.
        chosen, area, ratio, y, x_place = uniforms.double().unbind(1)
        area = (self.scale[0] + area * (self.scale[1] - self.scale[0])) * height * width
        low, high = map(math.log, self.ratio)
        ratio = torch.exp(low + ratio * (high - low))
        rows = torch.sqrt(area * ratio).float().round().clamp(1, height).long()
        columns = torch.sqrt(area / ratio).float().round().clamp(1, width).long()
        top, left = (y * (height - rows + 1)).long(), (x_place * (width - columns + 1)).long()
        # An empty rectangle where the image is spared.
        bottom = torch.where(chosen < self.share, top + rows, top)
        return _painted(x, top, left, bottom, left + columns, colour)


def _painted(
    x: Tensor, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, colour: Tensor
) -> Tensor:
    """Return the images with `colour`, float32 [channels], in rectangles, int64 [n] each."""
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    within_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
    within_columns = (columns >= left[:, None]) & (columns < right[:, None])
    inside = within_rows[:, None, :, None] & within_columns[:, None, None, :]
    return torch.where(inside, colour.to(x.device)[:, None, None], x)
