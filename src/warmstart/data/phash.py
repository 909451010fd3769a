"""A perceptual hash: images that look alike have hashes that differ in few bits."""

from __future__ import annotations

import functools

import numpy as np

SIDE = 32
"""Pixels to which both sides are brought; a smaller image has no hash."""

_LOW = 8
_FLAT = 5.0  # standard deviation in these frequencies, in gray levels of 255


def perceptual_hash(pixels: np.ndarray) -> int | None:
    """Return the hash of an image, an integer of 63 bits, or None where it would say nothing.

    The image in gray, at 32 x 32 pixels, is cosine-transformed; each of the 8 x 8 lowest
    frequencies but the mean gives one bit: whether it is above the median of all 63. Changes of
    size, brightness, contrast and compression hardly change it; mirroring and cropping do.

    Source: "Implementation and Benchmarking of Perceptual Image Hash Functions", Zauner 2010,
    section 3.2.1 (the block is taken from the corner here, so that stripes are seen too).

    Args:
        pixels: uint8 [height, width, channels].

    Returns:
        None when the shorter side is below 32 pixels, or the image is nearly flat: its
        frequencies are noise then.
    """
    if min(pixels.shape[:2]) < SIDE:
        return None
    cosines = _cosines()
    block = (cosines @ _gray(pixels) @ cosines.T).ravel()[1:]
    if block @ block < (_FLAT * SIDE) ** 2:  # Parseval: SIDE squared times their variance
        return None
    bits = block > np.sort(block)[len(block) // 2]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _gray(pixels: np.ndarray) -> np.ndarray:
    """Return float32 [32, 32]."""
    from PIL import Image

    channels = pixels.shape[2]
    if channels == 3:
        image = Image.fromarray(pixels).convert("L")
    else:
        plane = pixels[:, :, 0] if channels == 1 else pixels.mean(axis=2).astype(np.uint8)
        image = Image.fromarray(plane)
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2)
    return np.asarray(image, np.float32)


@functools.cache
def _cosines() -> np.ndarray:
    """Return the first rows of the orthonormal cosine transform (DCT-II): float32 [8, 32]."""
    places, frequencies = np.arange(SIDE) + 0.5, np.arange(_LOW)
    angles = np.outer(frequencies, places) * (np.pi / SIDE)
    scales = np.sqrt(np.where(frequencies == 0, 1, 2) / SIDE)
    return (np.cos(angles) * scales[:, None]).astype(np.float32)
