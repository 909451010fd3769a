"""The features of a split: one pass of a model over its images, straight into the store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from warmstart.data.augment.pipeline import Augment
from warmstart.data.batches import Batch, TrainBatches, eval_batch, loader
from warmstart.data.images import Split
from warmstart.data.preprocess import Preprocess
from warmstart.features.entries import stored_all
from warmstart.features.forms import Features, Form
from warmstart.models.activations import fixed_noise, same_modes
from warmstart.models.cuts import Cut, activations

Pool = Callable[[Tensor], Tensor]
"""From features [b, *shape] to what is kept of them, [b, ...]."""


@dataclass(frozen=True)
class Views:
    """Fixed augmented views of training images: those of a run's first passes.

    Attributes:
        count: Of each image.
        augment: Bound to the split; that of the preprocessing too.
        seed: The run's seed.
    """

    count: int
    augment: Augment
    seed: int


def extract(
    model: nn.Module,
    cut: Cut,
    split: Split,
    preprocess: Preprocess,
    *,
    key: str,
    pool: Pool | None = None,
    **options: Any,
) -> Features:
    """Return the features of a split at one cut: see `extract_all`, whose options it takes.

    Args:
        model: Any.
        cut: Where.
        split: The images.
        preprocess: From their pixels to the model's input.
        key: See `keys.feature_key`.
        pool: What is kept of the features; None keeps them whole.
        **options: Those of `extract_all`.
    """
    (found,) = extract_all(model, [cut], split, preprocess, keys=[key], pools=[pool], **options)
    return found


def extract_all(
    model: nn.Module,
    cuts: Sequence[Cut],
    split: Split,
    preprocess: Preprocess,
    *,
    keys: Sequence[str],
    folder: Path,
    limit: int,
    title: str,
    pools: Sequence[Pool | None] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    precision: str = "32-true",
    views: Views | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Features]:
    """Return the features of a split at several cuts, from the store or from one pass.

    The model runs in eval mode and gets its modes back; it and the preprocessing are moved to the
    device. torch's random stream is left as it was. The batches are those of an evaluation,
    whatever a process before has finished.

    Args:
        model: Any.
        cuts: Where.
        split: The images; all those that the features depend on, in their order.
        preprocess: From their pixels to the model's input.
        keys: By cut: see `keys.feature_key`.
        folder: That of the kind, ``STORE/features``.
        limit: Bytes that the folder may hold.
        title: Of the progress bar, and for messages.
        pools: By cut: what is kept of the features; None keeps them whole.
        dtype: As which they are kept; None as the model computes them.
        device: Of the model.
        precision: ``32-true`` or ``bf16-mixed``.
        views: Rows are ordered view by view; None takes the images as they are.
        workers: Processes that make batches.
        progress: Called with the images that are done, and all images; None shows a bar.

    Raises:
        ConfigError: See `entries.stored`.
        ValueError: The preprocessing has another augmentation than the views.
    """
    if views is not None and preprocess.augment is not views.augment:
        raise ValueError("the preprocessing has another augmentation than the views")
    images, place = _Shown(split, views), torch.device(device)
    run = _Pass(
        model.to(place),
        preprocess.to(place),
        images,
        cuts,
        pools or [None] * len(cuts),
        device=place,
        mixed=precision == "bf16-mixed",
        workers=workers,
    )
    # Loaders draw a number too.
    with same_modes(model), fixed_noise(place):
        model.eval()
        return stored_all(
            folder,
            run.forms(keys, dtype),
            count=images.count,
            compute=run,
            limit=limit,
            title=title,
            batch=images.batch_size,
            progress=progress,
        )


class _Shown(Dataset[Batch]):
    """The images of a split, or so many views of each, cut into batches.

    Attributes:
        count: Of all rows.
        batch_size: Of an evaluation: the last batch alone may be short.
        augmented: Whether they are views.
    """

    def __init__(self, split: Split, views: Views | None) -> None:
        self._split, self._views = split, views
        self.augmented = views is not None
        height, width, _ = split.shape
        self.batch_size = eval_batch(height, width)
        self.count = len(split) * (1 if views is None else views.count)

    def __getitem__(self, index: int) -> Batch:
        start = index * self.batch_size
        times, indices = np.divmod(
            np.arange(start, min(start + self.batch_size, self.count)), len(self._split)
        )
        labels = torch.from_numpy(self._split.labels[indices])
        if self._views is None:
            pixels = torch.from_numpy(self._split.batch(indices))
            return pixels, labels, torch.empty(len(indices), 0)
        augment, seed = self._views.augment, self._views.seed
        passes = TrainBatches(self._split, batch_size=1, seed=seed, augment=augment)
        uniforms = passes.uniforms(indices, times)
        return augment.sample(self._split, indices, uniforms), labels, uniforms


class _Pass:
    """A model's pass over images, as `entries.stored_all` wants it."""

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        images: _Shown,
        cuts: Sequence[Cut],
        pools: Sequence[Pool | None],
        *,
        device: torch.device,
        mixed: bool,
        workers: int,
    ) -> None:
        self._model, self._preprocess, self._images = model, preprocess, images
        self._cuts, self._pools = cuts, pools
        self._device, self._mixed, self._workers = device, mixed, workers

    def forms(self, keys: Sequence[str], dtype: torch.dtype | None) -> list[Form]:
        """Return what is kept at each cut."""
        types = [dtype or torch.float32] * len(keys)
        if dtype is None and self._mixed:
            # Which layers round is torch's decision, so that an image has to tell.
            types = [seen.dtype for seen in next(self(np.arange(1), range(len(keys))))]
        return [
            Form(key, tuple(_pooled(torch.zeros(1, *cut.shape), pool).shape[1:]), own)
            for key, cut, pool, own in zip(keys, self._cuts, self._pools, types, strict=True)
        ]

    def __call__(self, rows: np.ndarray, wanted: Sequence[int]) -> Iterator[Sequence[Tensor]]:
        """Yield the features of whole batches at the cuts whose numbers are `wanted`."""
        size = self._images.batch_size
        turns = range(int(rows[0]) // size, int(rows[-1]) // size + 1)
        for pixels, _, uniforms in loader(self._images, workers=self._workers, sampler=turns):
            found = self._features(pixels, uniforms, [self._cuts[number] for number in wanted])
            yield [_pooled(f, self._pools[number]) for f, number in zip(found, wanted, strict=True)]

    @torch.no_grad()
    def _features(self, pixels: Tensor, uniforms: Tensor, cuts: Sequence[Cut]) -> list[Tensor]:
        pixels, uniforms = pixels.to(self._device), uniforms.to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._mixed):
            x = self._preprocess(pixels, uniforms, train=self._images.augmented)
            if len(cuts) == 1:
                return [activations(self._model, cuts[0], x)]
            return _activations(self._model, cuts, x)


def _pooled(features: Tensor, pool: Pool | None) -> Tensor:
    return features if pool is None else pool(features)


class _Complete(Exception):  # noqa: N818 - the way out of a pass
    """All cuts are behind."""


def _activations(model: nn.Module, cuts: Sequence[Cut], x: Tensor) -> list[Tensor]:
    """Return the features of a batch at several cuts; the model runs no further than it has to."""
    found: dict[Cut, Tensor] = {}
    calls: dict[str, int] = {}

    def note(path: str, args: Any, kwargs: Any) -> None:
        call = calls[path] = calls.get(path, -1) + 1
        for cut in cuts:
            if (cut.module, cut.call) == (path, call):
                leaves = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
                # A layer behind the cut may work in place.
                found[cut] = next(leaves).clone()
        if len(found) == len(set(cuts)):
            raise _Complete

    with contextlib.ExitStack() as stack:
        for path in {cut.module for cut in cuts}:
            hook = model.get_submodule(path).register_forward_pre_hook(
                lambda _, args, kwargs, path=path: note(path, args, kwargs), with_kwargs=True
            )
            stack.callback(hook.remove)
        stack.enter_context(contextlib.suppress(_Complete))
        model(x)
    return [found[cut] for cut in cuts]
