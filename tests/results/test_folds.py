"""Cross-validation: which runs are repetitions, what intervals rest on, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from records import write_comparison
from rich.console import Console

from warmstart.cells import Sweep
from warmstart.errors import ConfigError
from warmstart.launch.jobs import Resources
from warmstart.launch.work import Planned
from warmstart.results.differences import differences
from warmstart.results.loading import load
from warmstart.results.page import render
from warmstart.results.statistics import crossed_interval
from warmstart.results.terminal import show
from warmstart.results.verdict import outcome_label, p_label, problem, verdict
from warmstart.sweep import Cell

BASE = [0.80, 0.82, 0.78, 0.81, 0.79]
# Mean 0.10, s = 0.00707: t(4) interval 0.10 +- 0.0088 over seeds, +- 0.0132 over five folds.
CLEAR = [0.90, 0.93, 0.87, 0.91, 0.89]


def compared(out, values, **options):
    (comparison,) = load(write_comparison(out, values, **options))
    return comparison


# ---------------------------------------------------------------- one seed


def test_the_folds_of_one_seed_have_the_corrected_interval(tmp_path):
    comparison = compared(tmp_path, {("scratch", 5): [BASE]})
    interval = comparison.interval("scratch", 5)
    assert (interval.mean, interval.n) == (pytest.approx(0.80), 5)
    # s^2 = 0.00025; 0.00025 (1/5 + 1/4) = 0.0001125; t(4) = 2.77645
    assert interval.high == pytest.approx(0.80 + 2.77645 * 0.0001125**0.5, abs=1e-6)


def test_how_many_folds_there_are_is_read_from_the_records(tmp_path):
    """Of ten folds only three were asked for: each still trains on nine tenths."""

    def change(content):
        content["config"]["data"]["folds"] = 10

    comparison = compared(tmp_path, {("scratch", 5): [BASE[:3]]}, change=change)
    # Mean 0.80, s^2 = 0.0004; 0.0004 (1/3 + 1/9); t(2) = 4.30265
    interval = comparison.interval("scratch", 5)
    assert interval.high == pytest.approx(0.80 + 4.30265 * (0.0004 * 4 / 9) ** 0.5, abs=1e-6)


def test_folds_of_one_seed_are_paired_and_not_permuted(tmp_path):
    values = {("scratch", 5): [BASE], ("full", 5): [CLEAR]}
    comparison = compared(tmp_path, values, predictions=True)
    (difference,) = differences(comparison)
    assert difference.paired
    # Differences 0.10, 0.11, 0.09, 0.10, 0.10: s^2 = 0.00005
    half = 2.77645 * (0.00005 * (1 / 5 + 1 / 4)) ** 0.5
    assert difference.interval.high == pytest.approx(0.10 + half, abs=1e-6)
    assert (difference.p, p_label(difference)) == (None, "not over folds")
    assert difference.over_images is None
    assert verdict(comparison) == (
        "full is ahead of scratch by 10.0 points at 5 images per class. This rests on 95 % Student "
        "t intervals over 5 folds, corrected for their shared training images, paired by fold. "
        "All runs have seed 0, whose chance is not counted. "
        "Pretrained runs share one set of weights, whose own chance is not counted."
    )


def test_even_many_folds_have_no_permutation_test(tmp_path):
    values = {("scratch", 5): [BASE * 2], ("full", 5): [CLEAR * 2]}
    (difference,) = differences(compared(tmp_path, values))
    assert difference.interval.n == 10
    assert difference.p is None


def test_one_fold_says_nothing(tmp_path):
    comparison = compared(tmp_path, {("scratch", 5): [[0.5]], ("full", 5): [[0.9]]})
    assert verdict(comparison).startswith("Too few folds to compare full with scratch.")
    assert outcome_label(differences(comparison)[0]) == "too few folds"


def test_folds_that_only_one_arm_finished_are_left_out_of_the_pairs(tmp_path):
    values = {("scratch", 5): [BASE], ("full", 5): [[None, *CLEAR[1:4], "broke"]]}
    comparison = compared(tmp_path, values)
    (difference,) = differences(comparison)
    assert difference.interval.n == 3
    assert difference.interval.mean == pytest.approx((0.11 + 0.09 + 0.10) / 3)
    texts = [problem(cell, comparison.metric) for cell in comparison.unfinished]
    assert texts == [
        "failed: full, 5 per class, seed 0, fold 4: broke",
        "missing: full, 5 per class, seed 0, fold 0",
    ]


def test_other_folds_are_not_paired(tmp_path):
    values = {
        ("scratch", 5): [[*BASE[:3], None, None]],
        ("full", 5): [[None, None, None, *CLEAR[3:]]],
    }
    (difference,) = differences(compared(tmp_path, values))
    assert difference.unpaired_because == "the folds differ"


def test_unpaired_folds_keep_the_correction(tmp_path):
    def change(content):
        content["digests"]["order"] = content["key"]

    values = {("scratch", 5): [BASE], ("full", 5): [CLEAR]}
    (difference,) = differences(compared(tmp_path, values, change=change))
    assert difference.unpaired_because == "the batch order differs"
    # s^2 0.00025 and 0.0005, each x 9/20; Welch's degrees of freedom 4 x 0.75^2 / 0.3125 = 7.2
    variance = (0.00025 + 0.0005) * 9 / 20
    half = difference.interval.high - difference.interval.mean
    assert half == pytest.approx(2.35123 * variance**0.5, abs=1e-5)


# ---------------------------------------------------------------- several seeds


def test_a_seed_is_the_mean_of_its_folds(tmp_path):
    values = {("scratch", 5): [[0.1, 0.3], [0.2, 0.4], [0.3, 0.5]]}
    comparison = compared(tmp_path, values)
    assert comparison.values("scratch", 5) == pytest.approx([0.2, 0.3, 0.4])
    interval = comparison.interval("scratch", 5)
    assert (interval.mean, interval.n) == (pytest.approx(0.3), 3)
    # s = 0.1 over seeds, no correction: t(2) = 4.30265
    assert interval.high == pytest.approx(0.3 + 4.30265 * 0.1 / 3**0.5, abs=1e-6)


def test_seeds_of_folds_are_paired_by_seed_and_fold(tmp_path):
    scratch = [[b, b + 0.02] for b in BASE]
    full = [[b + 0.10, b + 0.12 + d] for b, d in zip(BASE, (0, 0.02, -0.02, 0, 0), strict=True)]
    comparison = compared(tmp_path, {("scratch", 5): scratch, ("full", 5): full})
    (difference,) = differences(comparison)
    # Differences of seeds: 0.10, 0.11, 0.09, 0.10, 0.10; s^2 = 0.00005; t(4) = 2.77645
    half = 2.77645 * (0.00005 / 5) ** 0.5
    assert difference.interval.high == pytest.approx(0.10 + half, abs=1e-6)
    assert (
        "over 5 seeds, each the mean of 2 folds, paired by seed and fold, with fixed folds."
    ) in verdict(comparison)


def test_seeds_of_folds_can_be_permuted(tmp_path):
    values = {("scratch", 5): [[0.5, 0.6]] * 6, ("full", 5): [[0.6, 0.7]] * 6}
    (difference,) = differences(compared(tmp_path, values))
    assert difference.p == 2 / 64


def test_one_fold_of_one_seed_breaks_the_pairing(tmp_path):
    def change(content):
        if (content["choices"]["init"], content["seed"]) == ("pretrained", 1):
            content["digests"]["split"] += "x" if content["config"]["data"]["fold"] == 1 else ""

    values = {("scratch", 5): [BASE[:2]] * 3, ("full", 5): [CLEAR[:2]] * 3}
    (difference,) = differences(compared(tmp_path, values, change=change))
    assert difference.unpaired_because == "the data split differs"


def test_a_seed_without_all_folds_is_left_out_and_named(tmp_path):
    values = {
        ("scratch", 5): [BASE[:2], BASE[1:3], BASE[2:4]],
        ("full", 5): [CLEAR[:2], [None, 0.9], CLEAR[2:4]],
    }
    comparison = compared(tmp_path, values)
    assert list(comparison.repetitions("full", 5)) == [0, 2]
    assert comparison.interval("full", 5).n == 2
    text = verdict(comparison)
    assert "Left out, as they lack folds that others have: full, 5 per class, seed 1." in text
    assert text.endswith("Partial: 1 of 12 runs have no result.")


def test_seeds_on_one_fold_are_said_to_be(tmp_path):
    def change(content):
        content["config"]["data"]["folds"] = 5

    values = {("scratch", 5): [[b] for b in BASE], ("full", 5): [[c] for c in CLEAR]}
    text = verdict(compared(tmp_path, values, change=change))
    assert "over 5 seeds, fold 0, paired by seed and fold, with a fixed test set." in text


# ---------------------------------------------------------------- test images


def write_predictions(comparison, right):
    """Write which images each run has right: by arm, seed and fold, id to 0 or 1."""
    for cell in comparison.cells:
        hits = right[cell.arm, cell.seed, cell.fold]
        labels = np.zeros(len(hits), np.int64)
        logits = np.array([[1.0, 0.0] if hit else [0.0, 1.0] for hit in hits.values()])
        arrays = {"test_ids": np.array(list(hits)), "test_labels": labels, "test_logits": logits}
        np.savez(cell.folder / "predictions.npz", classes=np.array(["a", "b"]), **arrays)


def test_the_test_images_of_all_folds_are_pooled(tmp_path):
    values = {("scratch", 5): [[0.5, 0.5]] * 2, ("full", 5): [[0.5, 0.5]] * 2}
    comparison = compared(tmp_path, values)
    nothing = {(0, 0): "ab", (0, 1): "cd", (1, 0): "ab", (1, 1): "cd"}
    right = {("scratch", s, f): dict.fromkeys(ids, 0) for (s, f), ids in nothing.items()}
    right |= {
        ("full", 0, 0): {"a": 1, "b": 0},
        ("full", 0, 1): {"d": 1, "c": 1},
        ("full", 1, 0): {"b": 0, "a": 1},
        ("full", 1, 1): {"c": 0, "d": 1},
    }
    write_predictions(comparison, right)
    (difference,) = differences(comparison)
    expected = crossed_interval(np.array([[1, 0, 1, 1], [1, 0, 0, 1]]))
    found = difference.over_images
    assert (found.mean, found.low, found.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


def test_a_small_fold_weighs_as_much_as_a_large_one(tmp_path):
    values = {("scratch", 5): [[0.5, 0.5]] * 2, ("full", 5): [[0.5, 0.5]] * 2}
    comparison = compared(tmp_path, values)
    right = {("scratch", s, f): dict.fromkeys(("a", "bcd")[f], 0) for s in (0, 1) for f in (0, 1)}
    right |= {("full", s, 0): {"a": 1 - s} for s in (0, 1)}
    right |= {("full", s, 1): {"b": 1, "c": 0, "d": 0} for s in (0, 1)}
    write_predictions(comparison, right)
    (difference,) = differences(comparison)
    # Four images: a stands for half of them, each of the others for a sixth.
    expected = crossed_interval(np.array([[2, 2 / 3, 0, 0], [0, 2 / 3, 0, 0]]))
    assert expected.mean == pytest.approx((1 + 1 / 3 + 0 + 1 / 3) / 4)
    assert difference.over_images.mean == pytest.approx(expected.mean)
    assert difference.over_images.high == pytest.approx(expected.high)


def test_folds_that_share_a_test_split_give_each_image_its_mean(tmp_path):
    """Where the data gives a test split, folds cut val, and all of them test on the same."""
    values = {("scratch", 5): [[0.5, 0.5]] * 2, ("full", 5): [[0.5, 0.5]] * 2}
    comparison = compared(tmp_path, values)
    right = {("scratch", s, f): {"a": 0, "b": 1} for s in (0, 1) for f in (0, 1)}
    right |= {
        ("full", 0, 0): {"a": 1, "b": 1},
        ("full", 0, 1): {"a": 0, "b": 1},
        ("full", 1, 0): {"a": 1, "b": 0},
        ("full", 1, 1): {"a": 1, "b": 1},
    }
    write_predictions(comparison, right)
    (difference,) = differences(comparison)
    expected = crossed_interval(np.array([[0.5, 0], [1, -0.5]]))
    assert difference.over_images.mean == pytest.approx(expected.mean)
    assert difference.over_images.high == pytest.approx(expected.high)


def test_without_the_predictions_of_every_fold_there_is_no_interval_over_images(tmp_path):
    values = {("scratch", 5): [BASE[:2]] * 3, ("full", 5): [CLEAR[:2]] * 3}
    comparison = compared(tmp_path, values, predictions=True)
    assert differences(comparison)[0].over_images is not None
    comparison.cells[1].folder.joinpath("predictions.npz").unlink()
    assert differences(comparison)[0].over_images is None


# ---------------------------------------------------------------- plans and folders


def test_folds_and_runs_without_are_not_mixed(tmp_path):
    folder = write_comparison(tmp_path, {("scratch", 5): [BASE], ("full", 5): CLEAR})
    with pytest.raises(
        ConfigError, match=r"cells\.json cannot be compared: some runs are folds .*"
    ):
        load(folder)


def test_a_cell_is_planned_once_per_fold(tmp_path):
    folder = write_comparison(tmp_path, {("scratch", 5): [BASE]})
    text = (folder / "cells.json").read_text()
    (folder / "cells.json").write_text(text.replace('"fold": 4', '"fold": 3'))
    with pytest.raises(
        ConfigError, match=r"'scratch' at size 5 with seed 0 and fold 3 twice; give"
    ):
        load(folder)


def test_plans_from_before_folds_are_read(tmp_path):
    folder = write_comparison(tmp_path, {("scratch", 5): BASE})
    text = (folder / "cells.json").read_text()
    (folder / "cells.json").write_text(text.replace('"fold": null, ', ""))
    (comparison,) = load(folder)
    assert (comparison.folds, comparison.interval("scratch", 5).n) == ((), 5)


def test_runs_of_a_folder_that_cannot_be_compared_become_comparisons_of_their_own(tmp_path):
    values = {("scratch", 5): BASE, ("full", 5): [BASE], ("probe", 0.5): BASE}
    folder = write_comparison(tmp_path / "mine", values)
    (folder / "cells.json").unlink()
    found = {comparison.name: comparison for comparison in load(tmp_path / "mine")}
    assert {name: c.arms for name, c in found.items()} == {
        "mine": ("scratch/full",),
        "mine, folds": ("pretrained/full",),
        "mine, shares": ("pretrained/linear_probe",),
    }
    assert found["mine, folds"].repeated == "folds"


class Silent:
    """A display that keeps what it is told."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    note = say

    def plan(self, runs):
        pass


def swept(out, *places, **declared):
    """Return cells as a sweep over (per_class, fraction, fold, seed) composes them."""
    comparison = {"name": "cv", "reference": "scratch", "metric": "test/accuracy"} | declared
    names = ("data.per_class", "data.fraction", "data.fold", "seed")
    cells = []
    for values in places:
        data = dict(zip(("per_class", "fraction", "fold"), values, strict=False))
        config = {"arm": None, "choices": {"init": "scratch", "strategy": "full"}, "data": data}
        config |= {"seed": values[3], "out": str(out), "comparison": comparison}
        config |= {"config_dirs": [], "test": True, "trainer": {}}
        config |= {"resources": {"gpus": None, "cpus": None, "timeout": None}}
        lines = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
        cells.append(Cell(lines, lines, config))
    return cells


class Nowhere:
    """An engine that plans without data (a run's key is the text of its place) and runs nothing."""

    elsewhere, parallel = False, False

    def __init__(self):
        self.jobs = []

    def call(self, function, configs, *_):
        keys = [f"{config['data']} {config['seed']}" for config in configs]
        return [
            Planned(key, "", Path(key), "", False, "cpu", Resources(), 0.0, "", None)
            for key in keys
        ]

    def run(self, jobs):
        self.jobs = jobs
        yield from ()


def test_what_a_sweep_over_folds_plans_is_what_a_report_reads(tmp_path):
    sweep = Sweep(Silent(), command="warmstart compare comparison=cv")
    places = [(None, share, fold, 0) for share in (0.1, 1) for fold in (0, 1, 2)]
    engine = Nowhere()
    sweep.run(swept(tmp_path, *places, reference=None), [], engine)
    assert len(engine.jobs) == 6
    (comparison,) = load(Path(sweep.folder))
    assert comparison.arms == ("scratch/full",), "neither share nor fold names an arm"
    assert [(c.size, c.fold) for c in comparison.cells] == [(s, f) for _, s, f, _ in places]
    assert comparison.sizes == (0.1, 1.0)
    assert all(isinstance(size, float) for size in comparison.sizes)
    assert comparison.repeated == "folds"


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            [(None, None, 0, 0), (None, None, None, 0)],
            r"some runs are folds of a cross-validation \(data\.fold=0\) and others are not",
        ),
        (
            [(5, None, None, 0), (None, 0.1, None, 0)],
            r"images per class \(data\.per_class=5\) and as shares \(data\.fraction=0\.1\), which",
        ),
    ],
)
def test_a_sweep_that_cannot_be_compared_is_refused_before_it_runs(tmp_path, places, message):
    sweep = Sweep(Silent(), command="warmstart compare comparison=cv")
    with pytest.raises(ConfigError, match=f"the comparison cv cannot be compared: .*{message}"):
        sweep.run(swept(tmp_path, *places, reference=None), [], Nowhere())


# ---------------------------------------------------------------- words


def test_the_terminal_says_what_folds_are_good_for(tmp_path, capsys):
    show([compared(tmp_path, {("scratch", 5): [BASE], ("full", 5): [CLEAR]})], Console())
    text = " ".join(capsys.readouterr().out.split())
    assert "test accuracy (%): mean, 95 % interval, folds" in text
    assert "n folds, corrected for their shared training images" in text
    assert "permutation test: not over folds, whose training images overlap" in text


def test_the_page_says_what_folds_are_good_for(tmp_path):
    one = compared(tmp_path / "1", {("scratch", 5): [BASE], ("full", 5): [CLEAR]})
    text = render([one])
    assert "Mean over n folds, corrected for their shared training images, and its 95 %" in text
    assert "s&sup2; (1/n + 1/4) for 5 folds (Nadeau and Bengio 2003)" in text
    assert "Corrected p" not in text
    assert "over seeds" not in text
    many = compared(tmp_path / "2", {("scratch", 5): [BASE] * 2, ("full", 5): [CLEAR] * 2})
    text = render([many])
    assert "Mean over n seeds, each the mean of 5 folds, and its 95 %" in text
    assert "also counts the test images of all folds as a sample" in text
    assert text.count('<th scope="col">Fold</th>') == 1
