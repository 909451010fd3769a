"""From stored pixels to a model's input: what the data look like, channels, normalization."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.data.images import Images, Split
from warmstart.errors import ConfigError
from warmstart.models.architecture import Input

# ITU-R BT.601 luma, as Pillow's conversion to gray.
_LUMA = (0.299, 0.587, 0.114)
# Values that are read at once: 8 MiB in double precision.
_CHUNK = 2**20


class Augment(Protocol):
    """Augmentation of whole batches, whose randomness is handed to it."""

    def __call__(self, x: Tensor, uniforms: Tensor) -> Tensor:
        """Map float pixels [b, c, h, w] and uniforms [b, columns] to pixels of the same shape."""
        ...


def moments(split: Split, *, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the channels, for pixel values in [0, 1].

    The sums are of whole numbers below 2^53, and so exact in any order.

    Args:
        split: Images with c channels.
        most: Read at most so many of its images, spread evenly; None reads all.

    Returns:
        float64 [c] and [c, c].
    """
    height, width, channels = split.shape
    count = min(len(split), most or len(split))
    indices = np.arange(count) * len(split) // count
    total, products = np.zeros(channels), np.zeros((channels, channels))
    step = max(1, _CHUNK // (height * width * channels))
    for start in range(0, count, step):
        pixels = split.batch(indices[start : start + step]).reshape(-1, channels)
        # A row per channel: so both sums take a third of the time.
        values = pixels.T.astype(np.float64, order="C")
        total += values.sum(axis=1)
        products += values @ values.T
    mean = total / (count * height * width)
    covariance = products / (count * height * width) - np.outer(mean, mean)
    return mean / 255, covariance / 255**2


def input_of(images: Images) -> Input:
    """Return the input that fits the data: their size and channels, mean and deviation of train."""
    mean, covariance = moments(images.train)
    std = np.sqrt(np.maximum(np.diag(covariance), 1e-6))
    height, width = images.size
    size = height if height == width else None
    return Input(size, images.channels, tuple(mean.tolist()), tuple(std.tolist()))


def with_channels(wanted: Input, channels: int | None, *, given: int) -> Input:
    """Return the input with another number of channels; None keeps those of `wanted`.

    Mean and deviation are averaged for one channel, and repeated in turn for more.

    Args:
        wanted: What the weights or the data expect.
        channels: ``model.channels``.
        given: Channels of the images.

    Raises:
        ConfigError: The images cannot be brought to so many channels.
    """
    possible = {1, 3} if given in (1, 3) else {given}
    count = wanted.channels if channels is None else channels
    if isinstance(count, bool) or not isinstance(count, int) or count not in possible:
        what = "the model expects" if channels is None else "model.channels is"
        raise ConfigError(
            f"{what} {count!r}{' channels' if channels is None else ''}, but the images have "
            f"{given}; give model.channels={' or '.join(map(str, sorted(possible)))}"
        )
    if count == wanted.channels:
        return wanted
    pick = _average if count == 1 else functools.partial(_repeat, count)
    return Input(wanted.size, count, pick(wanted.mean), pick(wanted.std))


def _average(values: Sequence[float]) -> tuple[float, ...]:
    return (sum(values) / len(values),)


def _repeat(count: int, values: Sequence[float]) -> tuple[float, ...]:
    return tuple(values[index % len(values)] for index in range(count))


class Preprocess(nn.Module):
    """From stored pixels to a model's input: augmentation, channels, normalization."""

    scale: Tensor
    shift: Tensor

    def __init__(self, wanted: Input, *, augment: Augment | None, channels_last: bool) -> None:
        super().__init__()
        mean, std = torch.tensor(wanted.mean), torch.tensor(wanted.std)
        shape = (1, -1, 1, 1)
        # (x / 255 - mean) / std, as one product and one sum.
        self.register_buffer("scale", (1 / (255 * std)).reshape(shape), persistent=False)
        self.register_buffer("shift", (-mean / std).reshape(shape), persistent=False)
        self.channels = wanted.channels
        self.augment = augment
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, pixels: Tensor, uniforms: Tensor, *, train: bool) -> Tensor:
        """Map uint8 [b, h, w, c] to normalized float [b, channels, h, w]."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.format)
        if train and self.augment is not None:
            x = self.augment(x, uniforms)
        if x.shape[1] > self.channels:
            x = _gray(x)
        # Gray images get their channels here; else this is x itself.
        x = x.expand(-1, self.channels, -1, -1).contiguous(memory_format=self.format)
        scale, shift = self.scale, self.shift
        if self.format is torch.channels_last:
            # Factors for a whole row, in its layout: five times as fast as one per channel.
            row = (1, self.channels, 1, x.shape[3])
            scale, shift = (
                v.expand(row).contiguous(memory_format=self.format) for v in (scale, shift)
            )
        # In place: fresh memory costs more than the products.
        return x.mul_(scale).add_(shift)


def _gray(x: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, device=x.device).reshape(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True)
