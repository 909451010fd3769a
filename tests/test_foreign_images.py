"""Real images and real foreign weights, through the command."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from warmstart.cli import main
from warmstart.results.record import Record, read

pytestmark = pytest.mark.slow

Unpacked = Callable[[str], Path]


def train(out: Path, *words: str) -> Record:
    """Run ``warmstart train`` and return the one record that it wrote."""
    assert main(["train", "trainer=cpu", "keep=none", f"out={out}", *words]) == 0
    (folder,) = [path for path in (out / "runs").iterdir() if path.is_dir()]
    record = read(folder)
    assert record is not None
    return record


def test_imagenet_weights_transfer_to_photos_of_hands(
    shared_data: Path, unpacked: Unpacked, tmp_path: Path
) -> None:
    weights = shared_data / "weights" / "mobilenet_v2_imagenet.safetensors"
    record = train(
        tmp_path,
        *("data=image_folder", f"data.root={unpacked('signdigits')}"),
        *("data.size=96", "data.per_class=5"),
        *("model=mobilenet_v2", "init=pretrained", f"init.weights={weights}"),
        *("strategy=linear_probe", "optimizer=adam", "optimizer.lr=0.003"),
        *("steps=40", "batch_size=25", "val_every_steps=40"),
    )
    assert record.test_opened == 1
    assert set(record.init["fresh"]) == {"classifier.1.weight", "classifier.1.bias"}
    # Ten hands to choose from; a guess is right once in ten times.
    assert record.metrics["test/accuracy"] > 0.3


def test_a_foreign_resnet_gives_the_accuracy_measured_elsewhere(
    shared_data: Path, unpacked: Unpacked, tmp_path: Path
) -> None:
    weights = shared_data / "weights" / "resnet20-12fca82f.th"
    # All of test, and of train what validation is cut from.
    images, whole = tmp_path / "images", unpacked("cifar10")
    shutil.copytree(whole / "test", images / "test", copy_function=os.link)
    for folder in (whole / "train").iterdir():
        (images / "train" / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:200]:
            os.link(path, images / "train" / folder.name / path.name)
    record = train(
        tmp_path / "out",
        *("data=image_folder", f"data.root={images}", "model=resnet20"),
        *("init=pretrained", f"init.weights={weights}", "init.head=copy", "steps=0"),
    )
    # An independent implementation found 81.03 % on these 10,000 JPEG files.
    assert record.metrics["test/accuracy"] == pytest.approx(0.8103, abs=0.0005)
    assert record.init["fresh"] == {}
    # The weights have seen the images that validation is cut from.
    assert record.metrics["val/accuracy"] > 0.85
