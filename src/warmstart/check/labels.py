"""Whether labels have anything to do with images: what their nearest neighbours say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from warmstart.check.measured import Neighbours
from warmstart.check.trials import Stage
from warmstart.data.images import Split
from warmstart.models.cuts import activations, group_cut
from warmstart.run.caching import first_images

IMAGES = 1000
"""So many of each split at most: a guess that is right five times in a hundred more often than
chance is seen with them."""
_SIDE = 8  # pixels on a side, to which pictures are averaged: neighbours are alike in the whole
_K = 5
_BATCH = 64

Vectors = Callable[[np.ndarray], torch.Tensor]
"""From uint8 images [b, h, w, c] to float [b, d]."""


def of_pixels(stage: Stage) -> Neighbours:
    """Return what neighbours in pixels say."""

    def vectors(pixels: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        return F.adaptive_avg_pool2d(x, _SIDE).flatten(1)

    return _neighbours(stage, "pixels", vectors)


def of_features(stage: Stage) -> Neighbours:
    """Return what neighbours in the input of the head say, before step 0."""
    stage.restore()
    model = stage.model.eval()
    cut = group_cut(model, stage.groups, len(stage.groups) - 2, first_images(stage.run, model))
    preprocess = stage.run.preprocess(None)

    def vectors(pixels: np.ndarray) -> torch.Tensor:
        x = preprocess(torch.from_numpy(pixels), torch.empty(0), train=False)
        with torch.no_grad():
            return activations(model, cut, x).float().flatten(1)

    return _neighbours(stage, "features", vectors)


def _neighbours(stage: Stage, what: str, vectors: Vectors) -> Neighbours:
    images, classes = stage.run.images, len(stage.run.images.classes)
    train, labels = _some(images.train, vectors)
    val, val_labels = _some(images.val, vectors)
    distances = torch.cdist(train, train).fill_diagonal_(float("inf"))
    own = vote(distances, labels, classes)
    others = vote(torch.cdist(val, train), labels, classes)
    return Neighbours(
        what,
        len(labels),
        len(val_labels),
        int((others == val_labels).sum()),
        chance(others, val_labels, classes),
        int((own == labels).sum()),
        chance(own, labels, classes),
    )


def vote(distances: torch.Tensor, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the label of most of the nearest five; of several such labels the lowest one.

    Args:
        distances: To the images that vote, float [n, m].
        labels: Of these, int64 [m].
        classes: Their number.

    Returns:
        int64 [n].
    """
    k = min(_K, len(labels) - 1) or 1
    near = torch.from_numpy(labels)[distances.topk(k, dim=1, largest=False).indices]
    return F.one_hot(near, classes).sum(dim=1).argmax(dim=1).numpy()


def chance(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Return the accuracy to expect of these predictions were the labels drawn independently."""
    counts = (np.bincount(part, minlength=classes) / len(part) for part in (predicted, labels))
    return float(np.prod(list(counts), axis=0).sum())


def _some(split: Split, vectors: Vectors) -> tuple[torch.Tensor, np.ndarray]:
    """Return vectors and labels of at most `IMAGES` images, spread evenly over the split."""
    count = min(IMAGES, len(split))
    rows = np.arange(count) * len(split) // count
    found = [
        vectors(split.batch(rows[start : start + _BATCH])) for start in range(0, count, _BATCH)
    ]
    return torch.cat(found), split.labels[rows]
