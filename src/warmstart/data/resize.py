"""Resizing of uint8 images with any number of channels, by Pillow's antialiased bilinear filter."""

from __future__ import annotations

import numpy as np
from PIL import Image

VERSION = 1
"""Raise when the same image would give other pixels."""


def resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return an image, uint8 [height, width, channels], with another height and width."""
    channels = pixels.shape[2]
    if channels == 3:
        return np.asarray(_resized(Image.fromarray(pixels), shape))
    planes = (Image.fromarray(np.ascontiguousarray(pixels[:, :, c])) for c in range(channels))
    return np.stack([np.asarray(_resized(plane, shape)) for plane in planes], axis=2)


def fit(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return the middle `size` x `size` pixels of the image, scaled with antialiasing.

    The shorter side becomes 256/224 of `size` before the cut, as in torchvision's evaluation
    transforms; exactly `size` below 64 pixels, where no margin can be spared. An image that has
    the right size is returned as it is.

    Raises:
        ValueError: The image is too elongated to be scaled.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    scaled = with_shorter_side(pixels, fit_side(size))
    height, width = scaled.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return scaled[top : top + size, left : left + size]


def fit_side(size: int) -> int:
    """Return the shorter side that `fit` brings an image to before the cut."""
    return round(size * 256 / 224) if size >= 64 else size


def shrink(pixels: np.ndarray, short: int | None) -> np.ndarray:
    """Return the image with a shorter side of `short` pixels; smaller ones stay as they are."""
    if short is None or min(pixels.shape[:2]) <= short:
        return pixels
    return with_shorter_side(pixels, short)


def shrunk_shape(height: int, width: int, short: int | None) -> tuple[int, int]:
    """Return the height and width that `shrink` gives."""
    shortest = min(height, width)
    if short is None or shortest <= short:
        return height, width
    return int(short * height / shortest), int(short * width / shortest)


def with_shorter_side(pixels: np.ndarray, short: int) -> np.ndarray:
    """Return the image scaled so that its shorter side has `short` pixels.

    Raises:
        ValueError: The image is too elongated to be scaled.
    """
    height, width = pixels.shape[:2]
    shortest = min(height, width)
    shape = int(short * height / shortest), int(short * width / shortest)
    if shape[0] * shape[1] > (Image.MAX_IMAGE_PIXELS or shape[0] * shape[1]):
        raise ValueError(f"it is too elongated ({width}x{height}) to be scaled")
    return pixels if shape == (height, width) else resize(pixels, shape)


def _resized(image: Image.Image, shape: tuple[int, int]) -> Image.Image:
    height, width = shape
    return image.resize((width, height), Image.Resampling.BILINEAR)
