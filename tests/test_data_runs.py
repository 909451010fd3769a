"""Whole runs on images of many sizes: the way of the pixels changes no result."""

import json
from pathlib import Path

import numpy as np
import pytest

import warmstart
from data.samples import write_image
from warmstart.results.differences import differences
from warmstart.results.loading import load
from warmstart.results.record import Record

STEPS = ["steps=6", "batch_size=8", "val_every_steps=3", "keep=none", "trainer=cpu"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 60 images in three classes of 10, 20 and 30, each of a size of its own."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, count in (("few", 10), ("some", 20), ("many", 30)):
        for index in range(count):
            shape = (int(rng.integers(20, 40)), int(rng.integers(20, 40)), 3)
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            write_image(root / name / f"{index:02d}.png", pixels)
    return root


def train(photos: Path, out: Path, *words: str) -> Record:
    data = ["data=image_folder", f"data.root={photos}", "data.size=16"]
    return warmstart.train([*data, *STEPS, f"out={out}", *words])


@pytest.mark.parametrize("augment", ["none", "strong", "scaled_crop"])
def test_stored_or_streamed_with_any_number_of_workers(
    augment: str, photos: Path, tmp_path: Path
) -> None:
    ways = {
        "stored": [],
        "workers": ["trainer.workers=2"],
        "streamed": ["cache_gib=0", "trainer.workers=0"],
        "streamed by workers": ["cache_gib=0"],
        # Room for the originals or for the pictures, but not for both.
        "in part": ["cache_gib=0.00006"],
    }
    found = {
        name: train(photos, tmp_path / name, f"augment={augment}", "eval.crops=ten", *words)
        for name, words in ways.items()
    }
    first = found["stored"]
    assert first.metrics["val/loss"] > 0
    for name, record in found.items():
        assert record.key == first.key, name
        assert record.digests == first.digests, name
        assert record.metrics == first.metrics, name


def test_what_changes_pixels_changes_the_key(photos: Path, tmp_path: Path) -> None:
    words = ([], ["data.shrink=18"], ["eval.crops=ten"], ["augment=flip"], ["balance=loss"])
    keys = {train(photos, tmp_path, *more).key for more in words}
    assert len(keys) == len(words)


def test_damaged_files_are_counted_in_the_record(photos: Path, tmp_path: Path) -> None:
    for path in photos.rglob("*.png"):
        copy = tmp_path / "photos" / path.relative_to(photos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "photos" / "many" / "03.png").write_bytes(b"")
    record = train(tmp_path / "photos", tmp_path / "out", "data.on_bad=skip")
    assert record.data["skipped"] == {"many/03.png": "the file is empty"}
    assert sum(record.data["counts"].values()) == 59
    assert record.test_opened == 1


def test_the_test_images_of_all_folds_are_all_images(photos: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    for fold in range(3):
        record = train(photos, tmp_path, "data.folds=3", f"data.fold={fold}", "steps=1")
        with np.load(tmp_path / "runs" / record.key / "predictions.npz") as file:
            seen += file["test_ids"].tolist()
    assert len(seen) == len(set(seen)) == 60


def test_balanced_batches_show_every_class_alike(photos: Path, tmp_path: Path) -> None:
    plain, balanced = (
        train(photos, tmp_path, f"balance={balance}") for balance in ("none", "sampling")
    )
    assert plain.digests["split"] == balanced.digests["split"]
    assert plain.digests["order"] != balanced.digests["order"]


def test_arms_that_differ_in_augmentation_are_not_paired(photos: Path, tmp_path: Path) -> None:
    arms = ("none", "flip")
    records = {arm: train(photos, tmp_path, f"augment={arm}", "steps=1") for arm in arms}
    plan = {"name": "arms", "reference": "none", "metric": "val/accuracy", "command": ""}
    cells = [{"key": r.key, "arm": a, "size": None, "seed": 0} for a, r in records.items()]
    folder = tmp_path / "comparisons" / "arms"
    folder.mkdir(parents=True)
    command = {"overrides": [], "command": ""}
    (folder / "cells.json").write_text(json.dumps(plan | {"cells": [c | command for c in cells]}))
    (comparison,) = load(folder)
    (difference,) = differences(comparison)
    assert difference.unpaired_because == "the augmentation differs"
