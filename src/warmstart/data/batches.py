"""Batches of images: for training as a function of (seed, step), for evaluation in order."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from warmstart.data.augment.pipeline import Augment
from warmstart.data.images import Split
from warmstart.data.views import Crops
from warmstart.randomness import counted_uniforms, derive, torch_generator
from warmstart.ranks import ALONE, Ranks

# uint8 [b, height, width, channels]; int64 [b]; float32 [b, columns of the augmentation].
# In an evaluation over several crops, the pixels are [b * crops, size, size, channels].
Batch = tuple[Tensor, Tensor, Tensor]

_EVAL_PICTURES, _EVAL_PIXELS = 256, 256 * 128 * 128


class TrainBatches(Dataset[Batch]):
    """The training batches of a run: item k is the batch of step k.

    Steps cut an endless stream of passes, each as many images as the split has and in an order of
    its own; every batch is full. In a pass every image comes once, or, balanced, every class
    equally often (see `_balanced`). Order and augmentation depend on the seed, on how often the
    image has come before and on its row alone.

    Args:
        split: The images.
        batch_size: At most the whole split is a batch.
        seed: The run's seed.
        augment: What is done to single images, bound to `split`; None leaves them.
        balanced: Show every class equally often, not every image.
        part: Which images of every batch are given out, where several processes share it.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        augment: Augment | None = None,
        balanced: bool = False,
        part: slice = slice(None),
    ) -> None:
        self.split = split
        self.batch_size = min(batch_size, len(split))
        self.seed = seed
        self.augment = augment
        self.balanced = balanced
        self.part = part
        # Two passes meet in one batch; a cache per data set, so that nothing outlives the run.
        self._pass = functools.lru_cache(maxsize=2)(self._draw_pass)

    def __getitem__(self, step: int) -> Batch:
        indices, before = self.places(step)
        uniforms = self.uniforms(indices, before)
        if self.augment is None:
            pixels = torch.from_numpy(self.split.batch(indices))
        else:
            pixels = self.augment.sample(self.split, indices, uniforms)
        return pixels, torch.from_numpy(self.split.labels[indices]), uniforms

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which images the batch of a step holds, and how often each has come before.

        Returns:
            Places in the split, and numbers from 0 on: both int64 [b].
        """
        start = step * self.batch_size
        pieces = []
        while start < (step + 1) * self.batch_size:
            number, offset = divmod(start, len(self.split))
            count = min((step + 1) * self.batch_size - start, len(self.split) - offset)
            order, before = self._pass(number)
            pieces.append((order[offset : offset + count], before[offset : offset + count]))
            start += count
        indices, before = (np.concatenate(p)[self.part] for p in zip(*pieces, strict=True))
        return indices, before

    def __getstate__(self) -> dict[str, object]:
        # For loader workers that are spawned: the cache cannot be pickled.
        return {key: value for key, value in self.__dict__.items() if key != "_pass"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._pass = functools.lru_cache(maxsize=2)(self._draw_pass)

    def _draw_pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the pass in its order, and how often each has come before."""
        count = len(self.split)
        order, before = _permutation(count, self.seed, "order", number), np.full(count, number)
        if self.balanced:
            indices, before = _balanced(self.split.labels, number, seed=self.seed)
            order, before = indices[order], before[order]
        return order, before

    def uniforms(self, indices: np.ndarray, before: np.ndarray) -> Tensor:
        """Return the uniforms, float32 [n, columns], of images that have come so often before."""
        columns = 0 if self.augment is None else self.augment.columns
        # By row in the whole data set: an image is augmented alike in every subset.
        rows, key = self.split.rows[indices], derive(self.seed, "augment")
        return torch.from_numpy(counted_uniforms(key, rows, before, columns=columns))

    def digests(self, augment_options: str) -> dict[str, str]:
        """Return the digests of the batch order and of the augmentation's numbers.

        They cover the first two passes; the later ones follow from the same seed.

        Args:
            augment_options: What the augmentation makes of its numbers, as text.
        """
        order = hashlib.sha256(f"batch_size={self.batch_size}".encode())
        augment = hashlib.sha256(augment_options.encode())
        for number in (0, 1):
            indices, before = self._pass(number)
            names = "\n".join(self.split.ids[index] for index in indices)
            order.update(names.encode("utf-8", "surrogatepass"))  # names of files may be odd
            sorting = np.argsort(indices, kind="stable")
            augment.update(self.uniforms(indices[sorting], before[sorting]).numpy().tobytes())
        return {"order": order.hexdigest(), "augment": augment.hexdigest()}


class EvalBatches(Dataset[Batch]):
    """A split in its own order, cut into batches; the last one may be short.

    Args:
        split: The images.
        crops: Cut out of the images at their own size; None takes the pictures of the split.
    """

    def __init__(self, split: Split, *, crops: Crops | None = None) -> None:
        self.split = split
        self.crops = crops
        height, width, _ = split.shape
        self.batch_size = eval_batch(height, width, views=1 if crops is None else len(crops))

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        indices = self.places(index)
        cut = self.split.batch(indices) if self.crops is None else self.crops(self.split, indices)
        labels = torch.from_numpy(self.split.labels[indices])
        return torch.from_numpy(cut), labels, torch.empty(len(cut), 0)

    def places(self, index: int) -> np.ndarray:
        """Return which images of the split a batch holds: int64 [b]."""
        start = index * self.batch_size
        return np.arange(start, min(start + self.batch_size, len(self.split)))


def eval_batch(height: int, width: int, *, views: int = 1) -> int:
    """Return how many images an evaluation takes at once: a matter of memory, not of results.

    At most 256 pictures and 4.2 million pixels, and at least one image.

    Args:
        height: Of a picture, in pixels.
        width: Likewise.
        views: Pictures of each image.
    """
    return max(1, min(_EVAL_PICTURES, _EVAL_PIXELS // (height * width)) // views)


def train_loader(
    batches: Dataset[Batch], *, first: int, steps: int, workers: int
) -> DataLoader[Batch]:
    """Return the loader of the batches of steps `first` ... ``steps - 1``."""
    return loader(batches, workers=workers, sampler=range(first, steps))


def eval_loader(
    split: Split, *, workers: int, crops: Crops | None = None, ranks: Ranks = ALONE
) -> DataLoader[Batch]:
    """Return the loader of a split in its own order, or of a rank's turns; see `EvalBatches`."""
    batches = EvalBatches(split, crops=crops)
    return loader(batches, workers=workers, sampler=ranks.turns(len(batches)))


def loader(batches: Dataset[Batch], *, workers: int, sampler: Sequence[int]) -> DataLoader[Batch]:
    """Return the loader of the batches that `sampler` names, made by so many processes."""
    # A forked process shares the memory maps; to another kind all pixels would be sent.
    forks = workers and sys.platform == "linux"
    return DataLoader(
        batches,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="fork" if forks else None,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _balanced(labels: np.ndarray, number: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what is shown in pass `number` when every class comes equally often, class by class.

    The slots of the endless stream go to the classes in turn, so that any two classes differ by
    one slot at most, in a pass and in all passes together. A class fills its slots from an
    endless sequence of orders of its images: none comes twice before all have come once.

    Args:
        labels: int64 [n]; the classes that occur in it take part.
        number: Of the pass, which has n slots.
        seed: The run's seed.

    Returns:
        Indices of the images, and how often each has come before: both int64 [n].
    """
    count = len(labels)
    parts = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    members = [part for part in parts if len(part)]
    start = number * count
    turns = (start + np.arange(count)) // len(members)
    indices, before = np.empty(count, np.int64), np.empty(count, np.int64)
    for place, part in enumerate(members):
        slots = slice((place - start) % len(members), None, len(members))
        before[slots], offsets = np.divmod(turns[slots], len(part))
        first, last = before[slots][[0, -1]].tolist()
        orders = [
            part[_permutation(len(part), seed, "order", int(labels[part[0]]), times)]
            for times in range(first, last + 1)
        ]
        indices[slots] = np.stack(orders)[before[slots] - first, offsets]
    return indices, before


def _permutation(count: int, seed: int, *place: str | int) -> np.ndarray:
    return torch.randperm(count, generator=torch_generator(seed, *place)).numpy()
