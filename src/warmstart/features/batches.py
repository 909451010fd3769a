"""Batches of stored features, in place of the batches of images that they come from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from warmstart.data.batches import Batch, EvalBatches, TrainBatches
from warmstart.data.images import Split
from warmstart.features.entries import Features


class TrainFeatures(Dataset[Batch]):
    """The training batches of a run with features for pixels: item k is the batch of step k.

    The image that has come v times before is shown in its view v modulo the number of views.

    Args:
        batches: Of the run.
        features: Of the images of its split, view by view.
    """

    def __init__(self, batches: TrainBatches, features: Features) -> None:
        self.batches = batches
        self.features = features
        self.views = len(features) // len(batches.split)

    def __getitem__(self, step: int) -> Batch:
        indices, before = self.batches.places(step)
        rows = before % self.views * len(self.batches.split) + indices
        return _batch(self.features[rows], self.batches.split.labels[indices])


class EvalFeatures(Dataset[Batch]):
    """A split in its own order with features for pixels, cut as `EvalBatches` cuts it.

    Args:
        split: The images.
        features: Of them.
    """

    def __init__(self, split: Split, features: Features) -> None:
        self.batches = EvalBatches(split)
        self.features = features

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        rows = self.batches.places(index)
        return _batch(self.features[rows], self.batches.split.labels[rows])


def _batch(features: Tensor, labels: np.ndarray) -> Batch:
    return features, torch.from_numpy(labels), torch.empty(len(features), 0)
