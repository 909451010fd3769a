"""Random changes of colour, for whole batches: each image by factors of its own.

Everything is made of single products and sums, or computed in double precision and rounded, since
what else torch computes may differ in its last bit with a number's place in the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# ITU-R BT.601 luma, with the digits of torchvision and Pillow.
_LUMA = (0.2989, 0.587, 0.114)


class Jitter:
    """Brightness, contrast, saturation and hue, each changed by a random factor, in this order.

    The operations are torchvision's, with one factor per image; unlike in its ColorJitter their
    order is not random.

    Args:
        brightness: Largest change of the factor, which is drawn evenly from [1 - brightness,
            1 + brightness], not below 0; 0 leaves the operation out, here and below.
        contrast: Likewise.
        saturation: Likewise.
        hue: Largest turn of the hue, in shares of the circle, drawn evenly from [-hue, hue].
    """

    def __init__(
        self, *, brightness: float, contrast: float, saturation: float, hue: float
    ) -> None:
        strengths = (brightness, contrast, saturation, hue)
        self._strengths = {
            name: strength
            for name, strength in zip(_OPERATIONS, strengths, strict=True)
            if strength
        }
        self.columns = len(self._strengths)

    @property
    def names(self) -> tuple[str, ...]:
        """The operations that are not left out."""
        return tuple(self._strengths)

    def __call__(self, x: Tensor, uniforms: Tensor) -> Tensor:
        """Map pixels 0 ... 255, float32 [n, 1 or 3, height, width], to pixels of that shape."""
        for column, (name, strength) in enumerate(self._strengths.items()):
            low = -strength if name == "hue" else max(0.0, 1 - strength)
            high = strength if name == "hue" else 1 + strength
            x = _OPERATIONS[name](x, (low + uniforms[:, column, None, None, None] * (high - low)))
        return x


def adjust_brightness(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply pixels by factors of shape [n, 1, 1, 1]."""
    return (x * factors).clamp_(0, 255)


def adjust_contrast(x: Tensor, factors: Tensor) -> Tensor:
    """Move pixels away from their image's mean gray, or towards it for factors below 1."""
    return _blend(x, _gray(x).double().mean(dim=(1, 2, 3), keepdim=True).float(), factors)


def adjust_saturation(x: Tensor, factors: Tensor) -> Tensor:
    """Move pixels away from their own gray, or towards it for factors below 1."""
    return _blend(x, _gray(x), factors)


def adjust_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue by shares of the circle, float32 [n, 1, 1, 1]; saturation and value stay.

    A colour of value v, chroma c and hue h (in sixths of the circle) has the channels
    v - c max(0, min(k, 4 - k, 1)), where k is (5 + h) mod 6 for red, (3 + h) mod 6 for green and
    (1 + h) mod 6 for blue.
    """
    red, green, blue = x.unbind(1)
    value, least = x.amax(dim=1), x.amin(dim=1)
    chroma = value - least
    divisor = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    hue = hue + 6 * turns[:, 0]
    channels = []
    for start in (5, 3, 1):
        k = hue + start
        k = k - 6 * torch.floor(k / 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def _gray(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    red, green, blue = (x[:, channel, None] for channel in range(3))
    gray: Tensor = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    return gray


def _blend(x: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    return (x * factors + other * (1 - factors)).clamp_(0, 255)


class Lighting:
    """Add a random multiple of the data's principal colours to all pixels of an image.

    Source: "ImageNet Classification with Deep Convolutional Neural Networks", Krizhevsky et al.
    2012, section 4.1: [p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T is added, where p and l are eigenvectors
    and eigenvalues of the covariance of RGB values in [0, 1], and a is drawn from N(0, std).

    Args:
        std: 0.1 in the paper.
        covariance: float64 [3, 3], of pixel values in [0, 1].
    """

    columns = 3

    def __init__(self, std: float, covariance: np.ndarray) -> None:
        values, vectors = principal_colours(covariance)
        # Column i is what one deviation of number i adds, for pixels in 0 ... 255.
        self.axes = torch.from_numpy(255 * std * vectors * values)

    def __call__(self, x: Tensor, uniforms: Tensor) -> Tensor:
        """Map pixels 0 ... 255, float32 [n, 3, height, width], to pixels of that shape."""
        # The middle of the 2^-24 that a uniform stands for: never 0, whose normal is infinite.
        normals = torch.special.ndtri(uniforms.double() + 2**-25)
        shifts = (normals[:, None, :] * self.axes.to(x.device)).sum(dim=2).float()
        lit: Tensor = x + shifts[:, :, None, None]
        return lit.clamp_(0, 255)


def principal_colours(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues, largest first, and the eigenvectors as columns of a covariance.

    An eigenvector may as well be its negative: of each, the largest entry is made positive.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(len(values))])
