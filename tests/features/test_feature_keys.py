"""What changes the key of features, and what does not."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from loading import load
from samples import write_folder, write_image
from torch import nn
from torchvision.models import VisionTransformer

from warmstart.data.sources.folder import image_folder
from warmstart.features.keys import feature_key, images_digest, prefix_digest
from warmstart.models.cuts import Cut

BASE = {
    "prefix": "p",
    "cut": Cut("fc", 0, (512,)),
    "model": {"name": "resnet18"},
    "input": {"size": 32, "channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3},
    "images": "i",
    "arithmetic": {"device": "cpu", "precision": "32-true"},
}
VIEWS = {"views": {"count": 2, "augment": {"flip": 0.5}, "seed": 0}, "rows": np.arange(5)}


def test_a_key_is_a_sum_and_the_same_every_time():
    key = feature_key(**BASE)
    assert len(bytes.fromhex(key)) == 32
    assert feature_key(**copy.deepcopy(BASE)) == key


@pytest.mark.parametrize(
    "change",
    [
        {"prefix": "q"},
        {"cut": Cut("layer4", 0, (512,))},
        {"cut": Cut("fc", 1, (512,))},
        {"cut": Cut("fc", 0, (513,))},
        {"model": {"name": "resnet34"}},
        {"input": {**BASE["input"], "size": 33}},
        {"input": {**BASE["input"], "mean": [0.5, 0.5, 0.501]}},
        {"input": {**BASE["input"], "std": [0.2, 0.2, 0.201]}},
        {"images": "j"},
        {"arithmetic": {"device": "gpu", "precision": "32-true"}},
        {"dtype": torch.float16},
        {"pool": "gap"},
        VIEWS,
    ],
    ids=str,
)
def test_each_part_changes_the_key(change):
    assert feature_key(**{**BASE, **change}) != feature_key(**BASE)


@pytest.mark.parametrize("part", [{"count": 3}, {"augment": {"flip": 0.4}}, {"seed": 1}], ids=str)
def test_each_part_of_the_views_changes_the_key(part):
    changed = {**VIEWS, "views": {**VIEWS["views"], **part}}
    assert feature_key(**BASE, **changed) != feature_key(**BASE, **VIEWS)


def test_rows_count_where_they_choose_the_views():
    other = np.arange(5) + 1
    assert feature_key(**BASE, rows=other) == feature_key(**BASE, rows=VIEWS["rows"])
    assert feature_key(**BASE, **{**VIEWS, "rows": other}) != feature_key(**BASE, **VIEWS)
    with pytest.raises(ValueError, match="by the rows of their images"):
        feature_key(**BASE, views=VIEWS["views"])


class TestImages:
    @pytest.fixture
    def root(self, tmp_path):
        root = tmp_path / "photos"
        self.written = write_folder(root, {"cat": 12, "dog": 12}, shape=(9, 9, 3))
        return root

    def digest(self, root, tmp_path, *, size=8, shrink=None):
        samples = image_folder(root=root, store=tmp_path / "store")
        dataset = load(samples, tmp_path / "store", size=size, shrink=shrink)
        return images_digest(dataset.index, dataset.images.train, shrink=shrink)

    def test_a_renamed_folder_or_class_keeps_it(self, root, tmp_path):
        before = self.digest(root, tmp_path)
        moved = root.rename(tmp_path / "elsewhere")
        assert self.digest(moved, tmp_path) == before
        (moved / "dog").rename(moved / "hound")
        assert self.digest(moved, tmp_path) == before

    def test_one_pixel_changes_it(self, root, tmp_path):
        before = self.digest(root, tmp_path)
        for name in ("cat/03.png", "dog/07.png", "dog/08.png", "cat/09.png"):
            pixels = self.written[name].copy()
            pixels[4, 4, 1] ^= 1
            write_image(root / name, pixels)
        assert self.digest(root, tmp_path) != before

    def test_the_size_and_the_order_change_it(self, root, tmp_path):
        before = self.digest(root, tmp_path)
        assert self.digest(root, tmp_path, size=6) != before
        assert self.digest(root, tmp_path, shrink=8) != before
        dataset = load(image_folder(root=root, store=tmp_path / "s"), tmp_path / "s", size=8)
        train = dataset.images.train
        turned = train.take(np.arange(len(train))[::-1])
        assert images_digest(dataset.index, turned) != images_digest(dataset.index, train)

    def test_labels_are_no_part_of_it(self, root, tmp_path):
        dataset = load(image_folder(root=root, store=tmp_path / "s"), tmp_path / "s", size=8)
        train = dataset.images.train
        other = dataclasses.replace(train, labels=1 - train.labels)
        assert images_digest(dataset.index, other) == images_digest(dataset.index, train)


class Gated(nn.Module):
    """Holds a parameter itself, and a layer whose weight it takes without calling the layer."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.ones(1))
        self.silent = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.norm(self.first(x.flatten(1)[:, :4] * self.gate) @ self.silent.weight)
        return self.head(x)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gate", True),
        ("silent.weight", True),
        ("first.weight", True),
        ("norm.running_mean", True),
        ("norm.weight", True),
        ("head.weight", False),
        ("head.bias", False),
    ],
)
def test_one_weight_before_the_cut_changes_its_digest(name, changes):
    model, x = Gated(), torch.zeros(1, 1, 2, 2)
    cut = Cut("head", 0, (4,))
    before = prefix_digest(model, cut, x)
    assert prefix_digest(model, cut, x) == before
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] += 1e-6 if changes else 1
    assert (prefix_digest(model, cut, x) != before) == changes
    assert model.training
    assert int(model.norm.num_batches_tracked) == 0


def test_the_number_of_classes_does_not_matter():
    torch.manual_seed(0)
    model = Gated()
    cut, x = Cut("head", 0, (4,)), torch.zeros(1, 1, 2, 2)
    before = prefix_digest(model, cut, x)
    model.head = nn.Linear(4, 30)
    assert prefix_digest(model, cut, x) == before


def test_tokens_and_positions_of_a_transformer_count():
    model = VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=2)  # of 2 x 2 patches
    cut = Cut("encoder.layers.encoder_layer_1", 0, (5, 8))
    x = torch.zeros(1, 3, 8, 8)
    before = prefix_digest(model, cut, x)
    for name, changes in {
        "class_token": True,
        "encoder.pos_embedding": True,
        "encoder.layers.encoder_layer_0.self_attention.out_proj.weight": True,
        "encoder.layers.encoder_layer_1.self_attention.out_proj.weight": False,
        "encoder.layers.encoder_layer_1.ln_1.weight": False,
        "encoder.ln.weight": False,
    }.items():
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.state_dict()[name].view(-1)[0] += 1
        assert (prefix_digest(other, cut, x) != before) == changes, name
