"""Ensembles from files of predictions, against sums by hand."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from results.records import write_comparison
from warmstart.cli import main
from warmstart.errors import ConfigError
from warmstart.results.ensemble import ensembles
from warmstart.results.ensemble_table import ensemble_command

# Probabilities of two classes by member and image, and the labels of the four images.
PROBABILITIES = [
    [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]],
    [[0.7, 0.3], [0.1, 0.9], [0.6, 0.4], [0.2, 0.8]],
]
LABELS = [0, 1, 1, 0]
# Right: the images 1, 3 and 4, then 1 and 2; their mean of 0.8, 0.35, 0.4 and 0.45 for class 0:
# the images 1, 2 and 3.
ACCURACIES, ENSEMBLE = (0.75, 0.5), 0.75
LOSSES = [-math.log(0.9 * 0.4 * 0.8 * 0.7) / 4, -math.log(0.7 * 0.9 * 0.4 * 0.2) / 4]
TOGETHER = -math.log(0.8 * 0.65 * 0.6 * 0.45) / 4


def write(folder: Path, probabilities: Sequence[object], split: str = "test", **more: object):
    """Write the predictions of a run; logits may have any constant added to them."""
    logits = np.log(np.array(probabilities)) + 7
    arrays = {
        "classes": np.array(["cat", "dog"]),
        f"{split}_ids": np.array(["b", "a", "d", "c"]),
        f"{split}_labels": np.array(LABELS),
        f"{split}_logits": logits.astype(np.float32),
        **more,
    }
    np.savez(folder / "predictions.npz", **arrays)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an output folder with two arms of two seeds, of which one has known predictions."""
    write_comparison(tmp_path, {("scratch", 5): [0.5, 0.6], ("full", 5): [0.5, 0.6]})
    for number, folder in enumerate(runs(tmp_path)):
        write(folder, PROBABILITIES[number % 2])
    return tmp_path


def runs(out: Path) -> list[Path]:
    """Return the runs' folders, in the order of the plan."""
    plan = json.loads((out / "comparisons" / "digits" / "cells.json").read_text())
    return [out / "runs" / cell["key"] for cell in plan["cells"]]


@pytest.mark.parametrize("place", ["", "comparisons/digits"])
def test_the_seeds_of_each_arm_by_hand(out: Path, place: str):
    first, second = ensembles([out / place])
    assert first.name == "digits: scratch, 5 per class"
    assert second.name == "digits: full, 5 per class"
    assert (first.members, first.images) == (("seed 0", "seed 1"), 4)
    accuracy, loss = first.scores
    assert accuracy.metric.name == "test/accuracy"
    assert accuracy.members == ACCURACIES
    assert accuracy.mean == 0.625
    assert accuracy.ensemble.mean == ENSEMBLE
    assert accuracy.gain.mean == pytest.approx(0.125)
    assert loss.metric.name == "test/loss"
    assert loss.members == pytest.approx(LOSSES, rel=1e-6)
    assert loss.ensemble.mean == pytest.approx(TOGETHER, rel=1e-6)
    assert loss.gain.mean == pytest.approx(TOGETHER - sum(LOSSES) / 2, rel=1e-5)


def test_runs_that_nobody_planned_are_those_of_one_config_but_for_the_seed(tmp_path: Path):
    def changed(content: dict[str, Any]) -> None:
        # What a model sees follows from the training images, and so from the seed.
        content["input"] = {"mean": content["seed"]}

    values = {("scratch", 5): [0.5, 0.6], ("full", 5): [0.5, 0.6], ("probe", 5): [0.5, 0.6]}
    write_comparison(tmp_path, values, change=changed)
    folders = runs(tmp_path)
    for number, folder in enumerate(folders):
        write(folder, PROBABILITIES[number % 2])
    (tmp_path / "comparisons" / "digits" / "cells.json").unlink()
    # Another rate alone tells the last two apart from the two before.
    for path in (folder / "result.json" for folder in folders[4:]):
        content = json.loads(path.read_text())
        content["choices"]["strategy"] = "full"
        content["config"] = json.loads((folders[2] / "result.json").read_text())["config"]
        content["config"] |= {"optimizer": {"lr": 0.3}, "seed": content["seed"]}
        path.write_text(json.dumps(content))
    found = {one.name.partition(": ")[2]: one for one in ensembles([tmp_path])}
    assert {name.split(" optimizer")[0] for name in found} == {
        "scratch/full, 5 per class",
        "pretrained/full",
    }
    assert "pretrained/full optimizer.lr=0.3, 5 per class" in found
    assert len(found) == 3
    for one in found.values():
        assert one.members == ("seed 0", "seed 1")
        assert one.scores[0].members == ACCURACIES


def test_the_folds_of_a_cross_validation_stay_apart(tmp_path: Path):
    values = {("scratch", None): [[0.5, 0.75], [0.5, 0.75]], ("full", None): [[0.5, 0.5]] * 2}
    folder = write_comparison(tmp_path, values, predictions=True)
    found = ensembles([folder])
    arms, folds = ("scratch", "full"), (0, 1)
    names = [f"digits: {arm}, all images, fold {fold}" for arm in arms for fold in folds]
    assert [one.name for one in found] == names
    assert found[1].scores[0].mean == pytest.approx(0.75, abs=0.01)
    assert {one.members for one in found} == {("seed 0", "seed 1")}


def test_runs_that_are_given_make_one_ensemble(out: Path):
    lock = out / "runs" / "of-a-run.lock"
    lock.touch()  # which runs/* names as well
    (found,) = ensembles([*runs(out), lock])
    assert found.name == "4 runs"
    assert found.members == tuple(folder.name[:12] for folder in runs(out))
    assert found.scores[0].members == ACCURACIES * 2
    assert found.scores[0].ensemble.mean == ENSEMBLE


def test_the_order_of_the_images_does_not_matter(out: Path):
    turned = {
        "test_ids": np.array(["c", "d", "a", "b"]),
        "test_labels": np.array(LABELS[::-1]),
        "test_logits": np.log(PROBABILITIES[1][::-1]),
    }
    write(runs(out)[1], PROBABILITIES[1], **turned)
    first, second = ensembles([out])
    assert first.scores[1].ensemble.mean == pytest.approx(second.scores[1].ensemble.mean, rel=1e-6)


def test_a_run_that_is_given_twice_is_one_member(out: Path):
    folder = runs(out)[0]
    with pytest.raises(ConfigError, match="an ensemble needs at least 2 members"):
        list(ensembles([folder, folder.parent / "." / folder.name]))


def test_members_that_agree_gain_nothing(out: Path):
    for folder in runs(out):
        write(folder, PROBABILITIES[0])
    for score in ensembles([out])[0].scores:
        assert (score.gain.mean, score.gain.low, score.gain.high) == pytest.approx((0, 0, 0))


def test_the_intervals_are_over_the_images(out: Path):
    # 900 of 1,000 images right: 0.9 +- 1.96 * sqrt(0.9 * 0.1 / 1000) = 0.9 +- 0.0186.
    right, wrong = [0.8, 0.2], [0.3, 0.7]
    arrays = {
        "test_ids": np.array([f"{number:04d}" for number in range(1000)]),
        "test_labels": np.zeros(1000, dtype=np.int64),
        "test_logits": np.log([right] * 900 + [wrong] * 100),
    }
    for folder in runs(out)[:2]:
        write(folder, PROBABILITIES[0], **arrays)
    accuracy = ensembles([out])[0].scores[0]
    assert accuracy.ensemble.mean == pytest.approx(0.9)
    assert accuracy.ensemble.low == pytest.approx(0.9 - 0.0186, abs=0.003)
    assert accuracy.ensemble.high == pytest.approx(0.9 + 0.0186, abs=0.003)
    assert ensembles([out])[0] == ensembles([out])[0], "the draws are the same"


def test_probabilities_below_what_floats_hold(out: Path):
    for folder in runs(out):
        write(folder, PROBABILITIES[0], test_logits=np.array([[0.0, 2000.0]] * 4))
    # Two images of class 0 lose 2,000 each.
    loss = ensembles([out])[0].scores[1]
    assert loss.ensemble.mean == pytest.approx(1000)


def test_without_test_validation_speaks(out: Path):
    for folder in runs(out):
        write(folder, PROBABILITIES[0], split="val")
    assert [score.metric.name for score in ensembles([out])[0].scores] == [
        "val/accuracy",
        "val/loss",
    ]


def test_the_snapshots_of_a_run(out: Path):
    first = runs(out)[0]
    write(first, PROBABILITIES[0], test_snapshot_logits=np.log(PROBABILITIES))
    (found,) = ensembles([out], snapshots=True)
    assert found.name == f"digits: scratch, 5 per class, seed 0 ({first.name[:12]})"
    assert found.members == ("snapshot 1", "snapshot 2")
    assert found.scores[0].members == ACCURACIES
    assert found.scores[0].ensemble.mean == ENSEMBLE
    assert ensembles([first], snapshots=True)[0].scores == found.scores


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("test images", {"test_ids": np.array(["b", "a", "d", "e"])}),
        ("test labels", {"test_labels": np.array([0, 1, 1, 1])}),
        ("test classes", {"classes": np.array(["cat", "hen"])}),
    ],
)
def test_members_that_predict_something_else(out: Path, words: str, change: dict[str, np.ndarray]):
    first, second = runs(out)[:2]
    write(second, PROBABILITIES[0], **change)
    sentence = (
        f"{first} and {second} do not predict the same {words}, so their predictions cannot be "
        "averaged; give runs of the same data and split"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        ensembles([out])


def test_what_is_no_ensemble(out: Path):
    single, other = runs(out)[:2]
    sentence = f"{single} holds no two finished runs of one arm and size, and an ensemble needs at"
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)} least 2 members; run more"):
        ensembles([single])
    sentence = f"no run in {single}, {other} kept snapshots; train with scheduler=sgdr snapshots"
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        ensembles([single, other], snapshots=True)
    file = other / "predictions.npz"
    with np.load(file) as arrays:
        np.savez(file, **{name: arrays[name] for name in arrays if name != "test_ids"})
    with pytest.raises(ConfigError, match=r"predictions\.npz is damaged \('test_ids"):
        ensembles([out])
    file.write_bytes(b"no zip")
    with pytest.raises(ConfigError, match=r"predictions\.npz is damaged \("):
        ensembles([out])
    write(single, PROBABILITIES[0], split="val")
    np.savez(file, classes=["cat", "dog"])
    sentence = f"{file} is missing, or without predictions of val; delete its folder and run the"
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        ensembles([out])
    file.unlink()
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        ensembles([out])


def test_what_is_printed(out: Path):
    console = Console(file=io.StringIO())
    ensemble_command([out], console=console)
    assert isinstance(console.file, io.StringIO)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "digits: scratch, 5 per class: 2 members" in lines
    (row,) = {line for line in lines if line.startswith("test accuracy")}
    assert row.startswith("test accuracy (%) 62.5 (50.0 to 75.0) 75.0 [25.0, 100.0] +12.5 [")
    assert "intervals over the 4 test images, members fixed; of the loss, less is better" in lines


def test_the_command_for_programs(out: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["ensemble", "--json", str(out)]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert first["members"] == ["seed 0", "seed 1"]
    assert first["scores"]["test/accuracy"]["members"] == list(ACCURACIES)
    assert first["scores"]["test/accuracy"]["ensemble"]["mean"] == ENSEMBLE
    assert first["scores"]["test/loss"]["gain"].keys() == {"mean", "low", "high"}
