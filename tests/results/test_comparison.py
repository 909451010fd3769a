"""From folders to cells, differences and the verdict."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from records import ARMS, SIZES, digits_values, write_comparison
from rich.console import Console

from warmstart.errors import ConfigError
from warmstart.results.differences import differences
from warmstart.results.loading import load
from warmstart.results.metric import Metric
from warmstart.results.record import read
from warmstart.results.selection import config_differences
from warmstart.results.statistics import Interval
from warmstart.results.terminal import show
from warmstart.results.verdict import verdict

BASE = [0.80, 0.82, 0.78, 0.81, 0.79]
# Mean 0.10, t(4) interval 0.10 +- 0.0088
CLEAR = [0.10, 0.11, 0.09, 0.10, 0.10]
# Mean 0, so never a difference
ZERO = [0.01, -0.01, 0.00, 0.01, -0.01]
# Mean 0.018, standard error 0.00583: excludes 0 alone (t 2.776), not as one of two (t 3.495)
SLIGHT = [0.00, 0.01, 0.02, 0.03, 0.03]


def arm(differences_to_base, sign=1):
    return [b + sign * d for b, d in zip(BASE, differences_to_base, strict=True)]


def compared(out, values, **options):
    return load(write_comparison(out, values, **options))[0]


# ---------------------------------------------------------------- load


def test_output_folder_comparison_and_run_are_all_understood(tmp_path):
    folder = write_comparison(tmp_path, digits_values())
    (whole,) = load(tmp_path)
    (same,) = load(folder)
    assert whole.name == same.name == "digits"
    assert whole.arms == same.arms == tuple(ARMS)
    assert whole.sizes == SIZES
    assert len(whole.cells) == 90
    (alone,) = load(whole.cells[0].folder)
    assert alone.arms == ("scratch/full",)
    assert alone.sizes == (1,)
    assert alone.metric.name == "test/accuracy"
    assert alone.cells[0].record == whole.cells[0].record


def test_every_comparison_of_an_output_folder_is_loaded(tmp_path):
    for name in ("one", "two"):
        write_comparison(tmp_path, {("scratch", 1): BASE}, name=name)
    assert [comparison.name for comparison in load(tmp_path)] == ["one", "two"]


def test_runs_alone_become_a_comparison_of_init_and_strategy(tmp_path):
    folder = write_comparison(tmp_path / "mine", digits_values(2))
    (folder / "cells.json").unlink()
    (comparison,) = load(tmp_path / "mine")
    assert comparison.name == "mine"
    assert comparison.arms == ("scratch/full", "pretrained/full", "pretrained/linear_probe")
    assert comparison.reference == "scratch/full"
    assert comparison.sizes == SIZES


def test_runs_in_one_place_are_told_apart_by_their_settings(tmp_path):
    def change(content):
        content["config"]["optimizer"]["lr"] = 0.1 if content["key"] in fast else 0.01

    fast: set[str] = set()
    folder = write_comparison(tmp_path / "a", {("x", 5): BASE[:2], ("y", 5): BASE[:2]})
    fast.update(c["key"] for c in json.loads((folder / "cells.json").read_text())["cells"][:2])
    folder = write_comparison(
        tmp_path / "b", {("x", 5): BASE[:2], ("y", 5): BASE[:2]}, change=change
    )
    (folder / "cells.json").unlink()
    (comparison,) = load(tmp_path / "b")
    assert set(comparison.arms) == {
        "scratch/full optimizer.lr=0.1",
        "scratch/full optimizer.lr=0.01",
    }


def test_all_images_come_last(tmp_path):
    comparison = compared(tmp_path, {("scratch", None): BASE, ("scratch", 10): BASE})
    assert comparison.sizes == (10, None)


@pytest.mark.parametrize("make", ["missing", "empty", "runs without records"])
def test_a_folder_without_results_is_refused(tmp_path, make):
    folder = tmp_path / "out"
    if make != "missing":
        (folder / "runs" / "k" if make.startswith("runs") else folder).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"(is not a folder|holds no finished run); give an out"):
        load(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": [{"arm": "a"}]}'])
def test_a_damaged_plan_is_named(tmp_path, text):
    (tmp_path / "cells.json").write_text(text)
    with pytest.raises(ConfigError, match=r"cells\.json is not a plan of warmstart .*; delete it"):
        load(tmp_path)


def test_result_versions_are_not_mixed(tmp_path):
    def change(content):
        content["result_version"] = 7 if content["seed"] == 4 else 8

    folder = write_comparison(tmp_path, {("scratch", 5): BASE}, change=change)
    with pytest.raises(ConfigError, match=r"1 of version 7, 4 of version 8.*run them again"):
        load(folder)


# ---------------------------------------------------------------- cells and tables


def test_table_entry_by_hand(tmp_path):
    comparison = compared(tmp_path, {("scratch", 5): [0.1, 0.2, 0.3, 0.4, 0.5, None, "broke"]})
    interval = comparison.interval("scratch", 5)
    assert interval.mean == pytest.approx(0.3)
    assert interval.high == pytest.approx(0.3 + 0.196324, abs=1e-6)
    assert interval.n == 5
    assert comparison.interval("scratch", 6) is None


def test_unfinished_cells_are_ordered_by_how_bad_they_are(tmp_path):
    def change(content):
        if content["seed"] == 0:
            del content["metrics"]["test/accuracy"]

    values = {("scratch", 5): [0.5, None, "the loss became NaN", 0.6]}
    comparison = compared(tmp_path, values, change=change)
    assert [cell.status for cell in comparison.unfinished] == ["failed", "missing", "finished"]
    assert comparison.unfinished[0].record.error == "the loss became NaN"


def test_config_differences_leave_out_seed_size_and_what_is_equal(tmp_path):
    comparison = compared(tmp_path, {(a, s): BASE for a in ("scratch", "probe") for s in (1, 2)})
    assert dict(config_differences(comparison)) == {
        "init._target_": ["warmstart.models.init.scratch", "warmstart.models.init.pretrained"],
        "init.scheme": ["kaiming_normal", "not set"],
        "init.weights": ["not set", "source:glyphs"],
        "optimizer.lr": ["0.05", "0.1"],
        "strategy.phases.0.groups": ["all", "1"],
    }


def test_a_list_of_values_is_one_difference(tmp_path):
    def change(content):
        if content["config"]["optimizer"]["lr"] == 0.1:
            content["config"]["strategy"]["C"] = [0.1, 1.0]

    values = {(arm, 5): BASE for arm in ("scratch", "probe")}
    found = dict(config_differences(compared(tmp_path, values, change=change)))
    assert found["strategy.C"] == ["not set", "[0.1, 1.0]"]


# ---------------------------------------------------------------- differences


def test_difference_is_paired_over_the_seeds_that_both_finished(tmp_path):
    values = {("scratch", 5): [*BASE[:4], None], ("probe", 5): [None, *arm(CLEAR)[1:]]}
    (difference,) = differences(compared(tmp_path, values))
    assert difference.paired
    assert difference.interval.n == 3  # seeds 1, 2, 3: differences 0.11, 0.09, 0.10
    assert difference.interval.mean == pytest.approx(0.10)
    assert difference.interval.high == pytest.approx(0.10 + 4.30265 * 0.01 / 3**0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("digest", "reason"),
    [
        ("split", "the data split differs"),
        ("order", "the batch order differs"),
        ("augment", "the augmentation differs"),
    ],
)
def test_one_seed_with_another_digest_breaks_the_pairing(tmp_path, digest, reason):
    def change(content):
        if content["choices"]["init"] == "pretrained" and content["seed"] == 3:
            content["digests"][digest] = "other"

    values = {("scratch", 5): BASE, ("probe", 5): arm(CLEAR)}
    comparison = compared(tmp_path, values, change=change)
    (difference,) = differences(comparison)
    assert not difference.paired
    assert difference.unpaired_because == reason
    assert difference.p is None
    assert difference.over_images is None
    # Welch: the spread over seeds (0.0158) does not cancel out any more.
    assert difference.interval.high - difference.interval.mean > 0.02
    assert f"NOT PAIRED (1 of 1), because {reason}." in verdict(comparison)


def test_a_record_without_digests_is_not_paired(tmp_path):
    def change(content):
        content["digests"] = {}

    values = {("scratch", 5): BASE, ("probe", 5): arm(CLEAR)}
    (difference,) = differences(compared(tmp_path, values, change=change))
    reason = "the set of images and the data split and the batch order and the augmentation differ"
    assert difference.unpaired_because == reason


def test_other_seeds_are_not_paired(tmp_path):
    values = {("scratch", 5): [*BASE[:3], None, None], ("probe", 5): [None, None, None, *BASE[:2]]}
    (difference,) = differences(compared(tmp_path, values))
    assert difference.unpaired_because == "the seeds differ"
    assert difference.interval.n == 2


def test_p_is_given_only_where_it_could_be_small_after_correction(tmp_path):
    one = {("scratch", 5): [0.5] * 6, ("probe", 5): [0.6] * 6}
    (difference,) = differences(compared(tmp_path / "one", one))
    assert difference.p == 2 / 64  # six seeds, one comparison: 0.03 is possible
    two = one | {("full", 5): [0.6] * 6}
    found = differences(compared(tmp_path / "two", two))
    assert [d.p for d in found] == [None, None]  # 2 x 0.03 is not under 0.05
    eight = {key: value[:1] * 8 for key, value in two.items()}
    found = differences(compared(tmp_path / "eight", eight))
    assert [d.p for d in found] == [2 * 2 / 256] * 2


def test_interval_over_images_reads_the_predictions(tmp_path):
    values = {("scratch", 5): BASE, ("probe", 5): arm(CLEAR)}
    comparison = compared(tmp_path, values, predictions=True)
    (difference,) = differences(comparison)
    over_seeds, over_images = difference.interval, difference.over_images
    assert over_images.mean == pytest.approx(over_seeds.mean, abs=0.003)  # whole images
    assert over_images.high - over_images.low > over_seeds.high - over_seeds.low
    comparison.cells[0].folder.joinpath("predictions.npz").unlink()
    assert differences(comparison)[0].over_images is None


def test_images_are_matched_by_name_not_by_place(tmp_path):
    values = {("scratch", 5): BASE, ("probe", 5): arm(CLEAR)}
    comparison = compared(tmp_path, values, predictions=True)
    before = differences(comparison)[0].over_images
    path = comparison.cells[0].folder / "predictions.npz"
    with np.load(path) as file:
        arrays = dict(file)
    for name in ("test_ids", "test_labels", "test_logits"):
        arrays[name] = arrays[name][::-1]
    np.savez(path, **arrays)
    assert differences(comparison)[0].over_images == before
    arrays["test_ids"] = np.array([f"x{i}" for i in range(len(arrays["test_ids"]))])
    np.savez(path, **arrays)
    assert differences(comparison)[0].over_images is None


def test_damaged_predictions_are_named(tmp_path):
    values = {("scratch", 5): BASE, ("probe", 5): arm(CLEAR)}
    comparison = compared(tmp_path, values, predictions=True)
    (comparison.cells[0].folder / "predictions.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ConfigError, match=r"predictions\.npz is damaged .*run the cell again"):
        differences(comparison)


# ---------------------------------------------------------------- verdict

GROUND_5 = (
    "This rests on 95 % Student t intervals over 5 seeds, paired by seed, with a fixed test set"
)
OF_TWO = ", widened so that all 2 differences hold at once (Bonferroni)."
NOT_EQUAL = "No difference shown does not mean that the arms are equal."
SHARED = "Pretrained runs share one set of weights, whose own chance is not counted."


def test_verdict_scratch_wins(tmp_path):
    values = {("scratch", 5): BASE, ("probe", 5): arm(CLEAR, -1)}
    assert verdict(compared(tmp_path, values)) == (
        f"probe is behind scratch by 10.0 points at 5 images per class. {GROUND_5}. {SHARED}"
    )


def test_verdict_pretrained_wins_at_small_sizes_only(tmp_path):
    values = {
        ("scratch", 1): BASE,
        ("full", 1): arm(CLEAR),
        ("scratch", 80): BASE,
        ("full", 80): arm(ZERO),
    }
    assert verdict(compared(tmp_path, values)) == (
        "full is ahead of scratch by 10.0 points at 1 image per class; "
        f"no difference is shown at 80. {GROUND_5}{OF_TWO} {NOT_EQUAL} {SHARED}"
    )


def test_verdict_pretrained_wins_small_and_loses_large(tmp_path):
    values = {
        ("scratch", 1): BASE,
        ("probe", 1): arm(CLEAR),
        ("scratch", None): BASE,
        ("probe", None): arm(CLEAR, -1),
    }
    assert verdict(compared(tmp_path, values)).startswith(
        "probe is ahead of scratch by 10.0 points at 1 image per class "
        "and behind by 10.0 points at all images. "
    )


def test_verdict_nothing_is_shown(tmp_path):
    values = {(a, s): BASE for a in ("scratch",) for s in (1, 2)}
    values |= {("probe", 1): arm(ZERO), ("probe", 2): arm(ZERO)}
    assert verdict(compared(tmp_path, values)) == (
        "No difference between probe and scratch is shown at 1 and 2 images per class. "
        f"{GROUND_5}{OF_TWO} {NOT_EQUAL} {SHARED}"
    )


def test_verdict_needs_more_for_two_differences_than_for_one(tmp_path):
    one = {("scratch", 1): BASE, ("probe", 1): arm(SLIGHT)}
    assert "probe is ahead of scratch by 1.8 points" in verdict(compared(tmp_path / "1", one))
    two = one | {("full", 1): arm(ZERO)}
    comparison = compared(tmp_path / "2", two)
    assert differences(comparison)[0].interval.above_zero
    text = verdict(comparison)
    assert "probe is ahead of scratch at 1 image per class only if each is taken alone" in text


def test_verdict_one_seed_says_nothing(tmp_path):
    values = {("scratch", 1): [0.1], ("probe", 1): [0.9]}
    assert verdict(compared(tmp_path, values)) == (
        f"Too few seeds to compare probe with scratch. {SHARED}"
    )


def test_verdict_one_arm_only(tmp_path):
    assert verdict(compared(tmp_path, {("scratch", 5): BASE})) == (
        "scratch reaches a test accuracy of 80.0 % at 5 images per class (n = 5); "
        "there is no other arm to compare it with."
    )


def test_verdict_before_anything_is_finished(tmp_path):
    values = {("scratch", 1): [None, "broke"], ("probe", 1): [None, None]}
    comparison = compared(tmp_path, values)
    assert verdict(comparison) == "No run has finished yet, so there is nothing to compare."


def test_verdict_of_a_partial_comparison_says_what_is_missing(tmp_path):
    values = {
        ("scratch", 1): BASE,
        ("probe", 1): [*arm(CLEAR)[:4], None],
        ("scratch", 2): BASE,
        ("probe", 2): [None] * 5,
        ("scratch", 5): BASE,
        ("probe", 5): [0.9, None, None, None, None],
    }
    text = verdict(compared(tmp_path, values))
    assert text.startswith(
        "probe is ahead of scratch by 10.0 points at 1 image per class; "
        "too few seeds to say at 5; no runs to compare yet at 2. "
        "This rests on 95 % Student t intervals over 4 seeds"
    )
    assert text.endswith("Partial: 10 of 30 runs have no result.")


def test_verdict_without_the_reference(tmp_path):
    comparison = compared(tmp_path, {("probe", 1): BASE}, reference="scratch")
    assert verdict(comparison).startswith("The reference arm scratch is not among the arms")


def test_arms_with_swept_values_are_compared_with_the_reference_of_the_same_values(tmp_path):
    values = {
        ("AnB k=1", 5): arm(CLEAR),
        ("BnB k=1", 5): BASE,
        ("AnB k=2", 5): BASE,
        ("BnB k=2", 5): arm(CLEAR),
        ("AnB k=3", 5): BASE,
    }
    comparison = compared(tmp_path, values, reference="BnB")
    assert comparison.arms[:2] == ("BnB k=1", "BnB k=2")
    text = verdict(comparison)
    assert "AnB k=1 is ahead of BnB k=1 by 10.0 points at 5 images per class." in text
    assert "AnB k=2 is behind BnB k=2 by 10.0 points at 5 images per class." in text
    assert "AnB k=3" not in text, "there is no BnB k=3"


def test_verdict_knows_that_less_loss_is_better(tmp_path):
    values = {("scratch", 5): BASE, ("probe", 5): arm(CLEAR)}
    text = verdict(compared(tmp_path, values, metric="test/loss"))
    # The loss of the synthetic records is 2.2 (1 - accuracy) + 0.03.
    assert text.startswith("probe is ahead of scratch by 0.220 at 5 images per class.")


# ---------------------------------------------------------------- numbers and terminal


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("test/accuracy", 0.9314, "+93.1"), ("test/loss", -0.12345, "-0.123")],
)
def test_metrics_are_printed_in_their_unit(name, value, text):
    assert Metric(name).value(value, sign=True) == text
    assert Metric(name).ends(Interval(value, None, None, 1)) == "-"
    assert Metric("test/macro_f1").ends(Interval(0.5, 0.4, 0.6, 3)) == "[40.0, 60.0]"
    assert Metric("test/accuracy").value(-0.0001) == "0.0"


def test_terminal_without_a_window_prints_whole_lines(tmp_path, capsys):
    values = digits_values() | {("[red]x[/red]" * 20, 1): [*BASE[:2], "no [bold]luck"]}
    show(load(write_comparison(tmp_path, values)), Console())
    lines = capsys.readouterr().out.splitlines()
    assert "…" not in "".join(lines)
    assert any("[red]x[/red]" * 20 in line and "+" in line for line in lines)
    assert any(line.startswith("failed: [red]") and "no [bold]luck" in line for line in lines)
    assert lines.index("digits") < 3
    row = next(line for line in lines if line.strip().startswith("80 "))
    assert "98.7 [98.0, 99.4] n=5" in row


def test_terminal_in_a_narrow_window_folds_instead_of_cutting(tmp_path):
    console = Console(width=50, force_terminal=True, no_color=True, record=True, quiet=False)
    with console.capture() as captured:
        show(load(write_comparison(tmp_path, digits_values())), console)
    assert "…" not in captured.get()
    assert "..." not in captured.get()


def test_reading_and_showing_imports_no_torch(tmp_path):
    write_comparison(tmp_path / "out", {("scratch", 1): BASE, ("full", 1): arm(CLEAR)})
    code = (
        "import sys; from pathlib import Path\n"
        "from warmstart.results import loading, page, terminal\n"
        "found = loading.load(Path(sys.argv[1])); terminal.show(found)\n"
        "page.write(found, Path(sys.argv[1]) / 'report.html')\n"
        "heavy = {'torch', 'torchvision', 'lightning', 'pytorch_lightning', 'scipy.stats'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert (tmp_path / "out" / "report.html").stat().st_size > 1_000_000


def test_records_builder_writes_what_it_is_told(tmp_path):
    comparison = compared(tmp_path, {("scratch", 1): [0.5, None, "broke"]})
    finished, missing, failed = comparison.cells
    assert read(finished.folder).metrics["test/accuracy"] == 0.5
    assert not Path(missing.folder).exists()
    assert read(failed.folder).error == "broke"
