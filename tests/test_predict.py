"""The evaluation of a run: metrics by hand, batches of any size, a test split opened once."""

from __future__ import annotations

import dataclasses
import math
import signal

import numpy as np
import pytest
import torch
from torch import nn

from warmstart.data import batches
from warmstart.data.images import Split, Vault, openings
from warmstart.data.preprocess import Preprocess
from warmstart.data.views import Crops, View
from warmstart.models.architecture import Input
from warmstart.predict import OPENINGS, evaluate
from warmstart.task import Classification
from warmstart.trainer import Hardware

# Images of one shade each, and what `Shade` makes of them: shade / 51 - 2.5, so -2.5 ... 2.5.
SHADES = [0, 51, 102, 153, 204, 255, 0, 255, 51, 204]
LABELS = [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
LOGITS = [shade / 51 - 2.5 for shade in SHADES]


class Shade(nn.Module):
    """Two logits, 0 and the mean of the image; counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        shade = x.mean(dim=(1, 2, 3)) * self.factor
        return torch.stack([torch.zeros_like(shade), shade], dim=1)


@pytest.fixture
def split():
    pixels = np.broadcast_to(np.array(SHADES, np.uint8)[:, None, None, None], (10, 4, 4, 1))
    return Split.of(pixels, np.array(LABELS), tuple(f"image-{i}" for i in range(10)))


@pytest.fixture
def task():
    return Classification(
        Shade(),
        Preprocess(Input(4, 1, (0.5,), (0.2,)), augment=None, channels_last=False),
        optimizer=lambda: None,
        seed=0,
        classes=2,
    )


def evaluated(task, splits, folder, *, crops=None, workers=0, **options):
    return evaluate(
        task,
        splits,
        trainer=Hardware(accelerator="cpu").trainer(steps=0, val_every=1, callbacks=[]),
        classes=("dark", "light"),
        path=folder / "predictions.npz",
        loader_of=lambda name, split: batches.eval_loader(split, workers=workers, crops=crops),
        crops=crops,
        **{"weights": "w", **options},
    )


def test_metrics_by_hand(task, split, tmp_path):
    metrics = evaluated(task, {"val": split}, tmp_path)
    # Wrong are the black image that is labelled light, the white labelled dark, and the last.
    assert metrics["val/accuracy"] == pytest.approx(0.7)
    signs = [1 if label == 0 else -1 for label in LABELS]
    losses = [math.log1p(math.exp(sign * x)) for sign, x in zip(signs, LOGITS, strict=True)]
    assert metrics["val/loss"] == pytest.approx(sum(losses) / 10, rel=1e-5)
    with np.load(tmp_path / "predictions.npz") as file:
        assert file["classes"].tolist() == ["dark", "light"]
        assert file["val_ids"].tolist() == list(split.ids)
        assert file["val_labels"].tolist() == LABELS
        assert file["val_logits"].dtype == np.float32
        np.testing.assert_allclose(file["val_logits"][:, 1], LOGITS, atol=1e-5)


@pytest.mark.parametrize("crops", [None, Crops((View(4), View(4, mirrored=True)), size=4)])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_a_short_last_batch_changes_nothing(task, split, tmp_path, monkeypatch, size, crops):
    split = dataclasses.replace(split, originals=list(split.pixels))
    whole = evaluated(task, {"val": split}, tmp_path / "whole", crops=crops)
    task.model.sizes.clear()
    views = 1 if crops is None else 2
    monkeypatch.setattr(batches, "_EVAL_PICTURES", size * views)
    cut = evaluated(task, {"val": split}, tmp_path / "cut", crops=crops)
    full, rest = divmod(10, size)
    assert task.model.sizes == [views * n for n in [size] * full + [rest] * (rest > 0)]
    assert cut == whole
    one, other = (np.load(tmp_path / name / "predictions.npz") for name in ("whole", "cut"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def halves(split):
    """Return the split with images whose left half is as before, and the right half white."""
    images = [np.concatenate([image, np.full_like(image, 255)], axis=1) for image in split.pixels]
    return dataclasses.replace(split, originals=images)


LEFT, RIGHT = View(4, right=0.0), View(4, right=1.0)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_several_crops_by_hand(task, split, tmp_path, average):
    crops = Crops((LEFT, RIGHT), size=4, average=average)
    metrics = evaluated(task, {"val": halves(split)}, tmp_path, crops=crops)
    white = 2.5

    def chance(x):
        return 1 / (1 + math.exp(-x))

    if average == "logits":
        light = [chance((x + white) / 2) for x in LOGITS]
    else:
        light = [(chance(x) + chance(white)) / 2 for x in LOGITS]
    with np.load(tmp_path / "predictions.npz") as file:
        found = torch.from_numpy(file["val_logits"]).softmax(dim=1)[:, 1]
    np.testing.assert_allclose(found, light, atol=1e-5)
    right = [p if label else 1 - p for p, label in zip(light, LABELS, strict=True)]
    assert metrics["val/loss"] == pytest.approx(-np.log(right).mean(), rel=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_progress_counts_the_images_of_all_splits(task, split, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(batches, "_EVAL_PICTURES", 4)
    told = []
    evaluated(
        task,
        {"val": split, "test": Vault(split.take(np.arange(5)))},
        tmp_path,
        workers=workers,
        progress=lambda done, of: told.append((done, of)),
    )
    assert told == [(4, 15), (8, 15), (10, 15), (14, 15), (15, 15)]


def test_the_test_split_is_opened_once(task, split, tmp_path):
    splits = {"val": split, "test": Vault(split.take(np.arange(4)))}
    assert openings(tmp_path / OPENINGS) == 0
    first = evaluated(task, splits, tmp_path)
    assert first["test/accuracy"] == 1
    assert openings(tmp_path / OPENINGS) == 1
    asked = len(task.model.sizes)
    assert evaluated(task, splits, tmp_path) == first
    assert len(task.model.sizes) == asked  # from the file
    assert openings(tmp_path / OPENINGS) == 1
    # Other weights need new predictions, and that is seen.
    evaluated(task, splits, tmp_path, weights="others")
    assert openings(tmp_path / OPENINGS) == 2


def test_without_a_test_split_none_is_opened(task, split, tmp_path):
    assert "test/loss" not in evaluated(task, {"val": split}, tmp_path)
    assert openings(tmp_path / OPENINGS) == 0
    # It comes later: what is there already is not predicted again.
    task.model.sizes.clear()
    evaluated(task, {"val": split, "test": Vault(split.take(np.arange(4)))}, tmp_path)
    assert task.model.sizes == [4]


def test_a_damaged_file_is_made_again(task, split, tmp_path):
    first = evaluated(task, {"val": split}, tmp_path)
    (tmp_path / "predictions.npz").write_bytes(b"PK\x03\x04 torn")
    assert evaluated(task, {"val": split}, tmp_path) == first


def test_ctrl_c_stays_ctrl_c(task, split, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    task.model.forward = interrupted
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            evaluated(task, {"val": split}, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "predictions.npz").exists()
