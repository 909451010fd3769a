"""Checkpoints of other projects, on the images that they were made for.

The accuracies are those of an independent implementation on the same JPEG files.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from warmstart.data.batches import Preprocess, eval_loader
from warmstart.data.folder import image_folder
from warmstart.data.images import Split
from warmstart.models import init, weights
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.torchvision import torchvision_model

pytestmark = pytest.mark.slow


def filled(architecture, path, classes):
    """Return the model with the file's weights, head included, every tensor of both used."""
    resolved = weights.resolve(str(path), architecture)
    model = architecture.build(3, classes, None)
    report = init.load(
        model, resolved.read(), head=architecture.heads[0], keep_head=True, origin=resolved.origin
    )
    assert report.fresh == {}
    assert report.unused == ()
    model.to(memory_format=torch.channels_last)
    return model.eval(), Preprocess(resolved.input, augment=None, channels_last=True)


def predictions(model, preprocess, split):
    with torch.inference_mode():
        parts = [
            model(preprocess(pixels, uniforms, train=False)).argmax(dim=1)
            for pixels, _, uniforms in eval_loader(split, workers=0)
        ]
    return torch.cat(parts).numpy()


@pytest.fixture(scope="module")
def cifar_test(unpacked, tmp_path_factory):
    """The 10,000 test images as one split."""
    # The folder of one split is taken for a data set without splits, and cut; undo the cut.
    images = image_folder(root=unpacked("cifar10") / "test", store=tmp_path_factory.mktemp("store"))
    splits = images.splits.values()
    assert images.classes[0] == "airplane"
    return Split.of(
        np.concatenate([split.pixels for split in splits]),
        np.concatenate([split.labels for split in splits]),
        tuple(name for split in splits for name in split.ids),
    )


@pytest.mark.parametrize(
    ("depth", "file", "percent"),
    [(20, "resnet20-12fca82f.th", 81.03), (56, "resnet56-4bfd9763.th", 83.20)],
)
def test_cifar_resnets_have_their_known_accuracy(shared_data, cifar_test, depth, file, percent):
    model, preprocess = filled(cifar_resnet(depth=depth), shared_data / "weights" / file, 10)
    right = predictions(model, preprocess, cifar_test) == cifar_test.labels
    assert len(right) == 10_000
    assert 100 * right.mean() == pytest.approx(percent, abs=0.05)


def test_mobilenet_knows_shoes(shared_data, unpacked, tmp_path_factory):
    folder = shared_data / "weights"
    model, preprocess = filled(
        torchvision_model(name="mobilenet_v2"), folder / "mobilenet_v2_imagenet.safetensors", 1000
    )
    images = image_folder(
        root=unpacked("clothing10") / "val", store=tmp_path_factory.mktemp("store"), size=224
    )
    shoes = np.flatnonzero(images.train.labels == images.classes.index("shoes"))[:16]
    assert len(shoes) == 16
    # The first line is a class that torchvision's order does not have.
    names = (folder / "imagenet_labels.txt").read_text().splitlines()[1:]
    guesses = [names[i].lower() for i in predictions(model, preprocess, images.train.take(shoes))]
    footwear = ("shoe", "loafer", "sandal", "boot", "clog")
    hits = sum(any(word in guess for word in footwear) for guess in guesses)
    # Six of a thousand classes: by chance it would be none of the sixteen.
    assert hits >= 10, guesses
