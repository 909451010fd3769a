"""Batches of features are those of the images: the same images, labels and order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from warmstart.data.batches import EvalBatches, TrainBatches
from warmstart.features.batches import EvalFeatures, TrainFeatures
from warmstart.features.forms import Features

COUNT = 10


def numbered(views: int = 1) -> Features:
    """Return features [rows, 2] of which the first number is the row's, the second its negative."""
    rows = np.arange(COUNT * views, dtype=np.float32)
    shard = np.stack([rows, -rows], axis=1)
    return Features([shard], shard.shape, torch.float32, size=len(shard))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("views", [1, 3])
def test_training_batches(make_split, views, balanced):
    batches = TrainBatches(make_split(COUNT), batch_size=4, seed=1, balanced=balanced)
    stored = TrainFeatures(batches, numbered(views))
    shown: dict[int, list[int]] = {}
    for step in range(COUNT * 10 // 4):
        features, labels, uniforms = stored[step]
        assert torch.equal(labels, batches[step][1])
        assert uniforms.shape == (4, 0)
        assert torch.equal(features[:, 0], -features[:, 1])
        indices, before = batches.places(step)
        assert features[:, 0].tolist() == (before % views * COUNT + indices).tolist()
        for index, times in zip(indices.tolist(), before.tolist(), strict=True):
            shown.setdefault(index, []).append(times)
    # Ten passes: no image comes a further time before it has come so often.
    assert sum(map(len, shown.values())) == COUNT * 10
    assert all(sorted(times) == list(range(len(times))) for times in shown.values())


def test_evaluation_batches(make_split, monkeypatch):
    monkeypatch.setattr("warmstart.data.batches._EVAL_PICTURES", 4)
    split = make_split(COUNT)
    stored, batches = EvalFeatures(split, numbered()), EvalBatches(split)
    assert len(stored) == len(batches) == 3
    pieces = [stored[index] for index in range(3)]
    assert torch.cat([features for features, _, _ in pieces])[:, 0].tolist() == list(range(COUNT))
    for (_, labels, _), index in zip(pieces, range(3), strict=True):
        assert torch.equal(labels, batches[index][1])
