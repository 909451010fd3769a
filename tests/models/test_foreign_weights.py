"""Checkpoints of other projects, on the images that they were made for.

The numbers of right answers are those of an independent implementation on the same JPEG files.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn

from warmstart.data.batches import eval_loader
from warmstart.data.dataset import assemble
from warmstart.data.images import Split
from warmstart.data.preparation import Preparation
from warmstart.data.preprocess import Preprocess
from warmstart.data.sources.folder import image_folder
from warmstart.models import weights
from warmstart.models.architecture import Architecture
from warmstart.models.checkpoints import read_file
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.torchvision import torchvision_model


@pytest.mark.parametrize(
    ("file", "tensors", "entry", "prefix", "head"),
    [
        # 19 convolutions, 19 norms of four tensors each, and a classifier of two.
        ("resnet20-12fca82f.th", 97, "state_dict", "module.", "linear.bias"),
        ("resnet56-4bfd9763.th", 277, "state_dict", "module.", "linear.bias"),
        ("mobilenet_v2_imagenet.safetensors", 314, "", "", "classifier.1.bias"),
        ("timm_mobilenetv2_100_same_imagenet.safetensors", 314, "", "", "classifier.bias"),
    ],
)
def test_what_is_taken_from_a_real_file(shared_data, file, tensors, entry, prefix, head):
    checkpoint = read_file(shared_data / "weights" / file)
    assert len(checkpoint.tensors) == tensors
    assert (checkpoint.entry, checkpoint.prefix) == (entry, prefix)
    assert head in checkpoint.tensors


def test_a_real_file_of_timm_from_the_offline_folder(shared_data, tmp_path, monkeypatch):
    file = shared_data / "weights" / "timm_mobilenetv2_100_same_imagenet.safetensors"
    (tmp_path / "mobilenetv2_100.ra_in1k.safetensors").symlink_to(file)
    monkeypatch.setenv("WARMSTART_WEIGHTS", str(tmp_path))
    architecture = Architecture("mobilenetv2_100", lambda *sizes: nn.Identity(), {})
    resolved = weights.resolve("ra_in1k", architecture, store=tmp_path)
    taken, held = resolved.read().tensors, read_file(file).tensors
    assert taken.keys() == held.keys()
    assert all(torch.equal(taken[name], held[name]) for name in held)
    assert resolved.input.size == 224


def filled(architecture, path, classes):
    """Return the model with the file's weights, head included, every tensor of both used."""
    resolved = weights.resolve(str(path), architecture, store=path.parent)
    model = architecture.build(3, classes, None)
    model.load_state_dict(resolved.read().tensors, strict=True)
    model.to(memory_format=torch.channels_last)
    return model.eval(), Preprocess(resolved.input, augment=None, channels_last=True)


def predictions(model, preprocess, split):
    with torch.inference_mode():
        parts = [
            model(preprocess(pixels, uniforms, train=False)).argmax(dim=1)
            for pixels, _, uniforms in eval_loader(split, workers=0)
        ]
    return torch.cat(parts).numpy()


def whole(folder, store, *, size=None):
    """Return class names and all images of a folder without splits, in one split."""
    samples = image_folder(root=folder, store=store)
    data = assemble(
        samples,
        Preparation(duplicates="keep"),
        store=store,
        cache_gib=8,
        size=size,
        originals=False,
    )
    pictures = data.images.train.pictures
    rows = np.arange(len(samples))
    return samples.classes, Split(pictures, rows, samples.labels, samples.ids)


@pytest.mark.slow
def test_a_deep_cifar_resnet_is_right_as_often_as_elsewhere(shared_data, unpacked, tmp_path):
    """On a share of the images; a shallow one sees all of them, through the whole program."""
    for folder in (unpacked("cifar10") / "test").iterdir():
        (tmp_path / "images" / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[::20]:
            os.link(path, tmp_path / "images" / folder.name / path.name)
    classes, split = whole(tmp_path / "images", tmp_path)
    assert (classes[0], len(split.labels)) == ("airplane", 500)
    file = shared_data / "weights" / "resnet56-4bfd9763.th"
    model, preprocess = filled(cifar_resnet(depth=56), file, 10)
    # The two largest outputs are at least 0.05 apart: no rounding changes a guess.
    assert (predictions(model, preprocess, split) == split.labels).sum() == 415


@pytest.mark.slow
def test_mobilenet_knows_shoes(shared_data, unpacked, tmp_path_factory):
    folder = shared_data / "weights"
    model, preprocess = filled(
        torchvision_model(name="mobilenet_v2"), folder / "mobilenet_v2_imagenet.safetensors", 1000
    )
    store = tmp_path_factory.mktemp("store")
    classes, split = whole(unpacked("clothing10") / "val", store, size=224)
    shoes = np.flatnonzero(split.labels == classes.index("shoes"))[:16]
    assert len(shoes) == 16
    # The first line is a class that torchvision's order does not have.
    names = (folder / "imagenet_labels.txt").read_text().splitlines()[1:]
    guesses = [names[i].lower() for i in predictions(model, preprocess, split.take(shoes))]
    footwear = ("shoe", "loafer", "sandal", "boot", "clog")
    hits = sum(any(word in guess for word in footwear) for guess in guesses)
    # Six of a thousand classes: by chance it would be none of the sixteen.
    assert hits >= 10, guesses
