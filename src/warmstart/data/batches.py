"""Batches as a function of (seed, step), and what turns stored pixels into a model's input."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from warmstart.data.images import Images, Split
from warmstart.errors import ConfigError
from warmstart.models.architecture import Input
from warmstart.randomness import torch_generator

# uint8 [b, height, width, channels]; int64 [b]; float32 [b, columns of the augmentation]
Batch = tuple[Tensor, Tensor, Tensor]

EVAL_BATCH = 256
# ITU-R BT.601 luma, as Pillow's conversion to gray.
_LUMA = (0.299, 0.587, 0.114)


class Augment(Protocol):
    """Whole-batch augmentation, whose randomness is handed to it."""

    columns: int

    def __call__(self, pixels: Tensor, uniforms: Tensor) -> Tensor:
        """Map float pixels [b, c, h, w] and uniforms [b, columns] to pixels of the same shape."""
        ...


class TrainBatches(Dataset[Batch]):
    """The training batches of a run: item k is the batch of step k.

    Steps cut an endless stream of passes over the data, each in an order of its own: every image
    comes once per pass, and every batch is full. Order and augmentation depend on the seed, the
    pass and the image's position alone.
    """

    def __init__(self, split: Split, *, batch_size: int, columns: int, seed: int) -> None:
        self.split = split
        self.batch_size = min(batch_size, len(split))
        self.columns = columns
        self.seed = seed
        # Two passes meet in one batch; a cache per data set, so that nothing outlives the run.
        self._pass = functools.lru_cache(maxsize=2)(self._draw_pass)

    def __getitem__(self, step: int) -> Batch:
        start = step * self.batch_size
        pieces = []
        while start < (step + 1) * self.batch_size:
            number, offset = divmod(start, len(self.split))
            count = min((step + 1) * self.batch_size - start, len(self.split) - offset)
            order, uniforms = self._pass(number)
            pieces.append((order[offset : offset + count], uniforms[offset : offset + count]))
            start += count
        rows, uniforms = pieces[0]
        if len(pieces) > 1:
            rows = np.concatenate([rows for rows, _ in pieces])
            uniforms = torch.cat([uniforms for _, uniforms in pieces])
        return (
            torch.from_numpy(self.split.pixels[rows]),
            torch.from_numpy(self.split.labels[rows]),
            uniforms,
        )

    def __getstate__(self) -> dict[str, object]:
        # For loader workers that are spawned: the cache cannot be pickled.
        return {key: value for key, value in self.__dict__.items() if key != "_pass"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._pass = functools.lru_cache(maxsize=2)(self._draw_pass)

    def _draw_pass(self, number: int) -> tuple[np.ndarray, Tensor]:
        """Return the rows of the split in the order of the pass, and each one's uniforms."""
        count = len(self.split)
        order = torch.randperm(count, generator=torch_generator(self.seed, "order", number)).numpy()
        if not self.columns:
            return order, torch.empty(count, 0)
        # By position in the whole split: an image is augmented alike in every subset.
        generator = torch_generator(self.seed, "augment", number)
        places = int(self.split.positions.max()) + 1
        uniforms = torch.rand(places, self.columns, generator=generator)
        return order, uniforms[self.split.positions[order]]

    def digests(self, augment_options: str) -> dict[str, str]:
        """Return the digests of the batch order and of the augmentation's numbers.

        They cover the first two passes; the later ones follow from the same seed.

        Args:
            augment_options: What the augmentation makes of its numbers, as text.
        """
        order = hashlib.sha256(f"batch_size={self.batch_size}".encode())
        augment = hashlib.sha256(augment_options.encode())
        for number in (0, 1):
            rows, uniforms = self._pass(number)
            order.update("\n".join(self.split.ids[row] for row in rows).encode())
            augment.update(uniforms[np.argsort(rows)].numpy().tobytes())
        return {"order": order.hexdigest(), "augment": augment.hexdigest()}


class EvalBatches(Dataset[Batch]):
    """A split in its own order, cut into batches; the last one may be short."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return -(-len(self.split) // EVAL_BATCH)

    def __getitem__(self, index: int) -> Batch:
        rows = slice(index * EVAL_BATCH, (index + 1) * EVAL_BATCH)
        labels = torch.from_numpy(self.split.labels[rows])
        # A copy, since a mapped file is read-only and torch wants to own what it reads.
        pixels = torch.from_numpy(np.array(self.split.pixels[rows]))
        return pixels, labels, torch.empty(len(labels), 0)


def train_loader(
    batches: TrainBatches, *, first: int, steps: int, workers: int
) -> DataLoader[Batch]:
    """Return the loader of the batches of steps `first` ... ``steps - 1``."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, steps),
        num_workers=workers,
        collate_fn=_as_it_is,
    )


def eval_loader(split: Split, *, workers: int) -> DataLoader[Batch]:
    """Return the loader of a whole split, in its own order."""
    return DataLoader(
        EvalBatches(split), batch_size=None, num_workers=workers, collate_fn=_as_it_is
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def split_digest(images: Images) -> str:
    """Return the SHA-256 over which images are trained on, validated on and tested on."""
    digest = hashlib.sha256()
    for name, split in images.splits.items():
        digest.update("\n".join([name, *split.ids]).encode())
    return digest.hexdigest()


def input_of(images: Images) -> Input:
    """Return the input that fits the data: their size and channels, mean and deviation of train."""
    axes = (0, 1, 2)
    pixels = images.train.pixels
    total, squares = np.zeros(images.channels), np.zeros(images.channels)
    for start in range(0, len(pixels), 1024):
        chunk = pixels[start : start + 1024].astype(np.float64) / 255
        total += chunk.sum(axis=axes)
        squares += (chunk**2).sum(axis=axes)
    count = pixels[..., 0].size
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
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
    count = wanted.channels if channels is None else channels
    if isinstance(count, bool) or not isinstance(count, int) or count not in {1, 3, given}:
        raise ConfigError(
            f"model.channels is {count!r}, but the images have {given}; give "
            f"{' or '.join(map(str, sorted({1, 3, given})))}"
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
    """From stored pixels to a model's input: channels, augmentation, normalization."""

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
        self.augment = augment if augment is not None and augment.columns else None
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, pixels: Tensor, uniforms: Tensor, *, train: bool) -> Tensor:
        """Map uint8 [b, h, w, c] to normalized float [b, channels, h, w]."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.format)
        if x.shape[1] != self.channels:
            x = x.expand(-1, 3, -1, -1) if self.channels == 3 else _gray(x)
        if train and self.augment is not None:
            x = self.augment(x, uniforms)
        return (x * self.scale).add_(self.shift)


def _gray(x: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, device=x.device).reshape(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True)
