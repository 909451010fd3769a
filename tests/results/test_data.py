"""What a report says about the data: sizes, the vault, odd images, unequal classes, pairing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from records import write_comparison
from rich.console import Console

from warmstart.errors import ConfigError
from warmstart.results import figures
from warmstart.results.differences import differences
from warmstart.results.loading import load
from warmstart.results.metric import Metric, size_label, size_phrase, sizes_phrase, training_size
from warmstart.results.page import render
from warmstart.results.record import read
from warmstart.results.terminal import show
from warmstart.results.verdict import data_notes, macro, pairing_label, vault, verdict

BASE = [0.80, 0.82, 0.78, 0.81, 0.79]
CLEAR = [0.90, 0.93, 0.87, 0.91, 0.89]
PAIR = {("scratch", 5): BASE, ("full", 5): CLEAR}
NOTES = {
    "counts": {"train": 50, "val": 9, "test": 20},
    "skipped": {"cat/x<b>.png": "truncated"},
    "dropped": {f"dog/{i}.png": "equal to dog/99.png of test" for i in range(60)},
    "near_duplicates": 2,
    "warnings": ["the test split has no image of 1 of the 3 classes ('ox')"],
}


def compared(out, values, **options):
    (comparison,) = load(write_comparison(out, values, **options))
    return comparison


def shown(comparison, capsys):
    """Return what the terminal shows, in one line."""
    show([comparison], Console())
    return " ".join(capsys.readouterr().out.split())


# ---------------------------------------------------------------- shares as sizes


@pytest.mark.parametrize(
    ("size", "label", "phrase"),
    [
        (None, "all", "all images"),
        (20, "20", "20 per class"),
        (0.1, "10 %", "10 % of the images"),
        (0.005, "0.5 %", "0.5 % of the images"),
        (1.0, "100 %", "100 % of the images"),
    ],
)
def test_sizes_are_counts_shares_or_all(size, label, phrase):
    assert (size_label(size), size_phrase(size)) == (label, phrase)


def test_sizes_in_a_sentence():
    assert sizes_phrase([1]) == "1 image per class"
    assert sizes_phrase([1, 2, None]) == "1 and 2 images per class and all images"
    assert sizes_phrase([0.1, 0.25, 0.5]) == "10 %, 25 % and 50 % of the training images"
    assert sizes_phrase([0.1, None], unit=False) == "10 % and all images"


def test_a_whole_share_is_no_count():
    found = [training_size(*pair) for pair in ((1, None), (None, 1), (None, None))]
    assert found == [1, 1.0, None]
    assert [type(size) for size in found[:2]] == [int, float]


def test_shares_ascend_and_all_images_come_last(tmp_path):
    comparison = compared(tmp_path, {("scratch", size): BASE for size in (None, 0.5, 0.1, 1.0)})
    assert comparison.sizes == (0.1, 0.5, 1.0, None)
    alone = load(comparison.cells[5].folder)[0]
    assert alone.sizes == (0.5,)


def test_counts_and_shares_are_not_mixed(tmp_path):
    folder = write_comparison(tmp_path, {("scratch", 5): BASE, ("scratch", 0.1): BASE})
    message = (
        r"data\.per_class=5\) and as shares \(data\.fraction=0\.1\), which have no common axis"
    )
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_shares_are_named_as_such_everywhere(tmp_path, capsys):
    values = {(arm, size): BASE for arm in ("scratch", "full") for size in (0.1, 0.5, None)}
    values |= {("full", 0.1): CLEAR, ("full", 0.5): [*CLEAR[:4], None]}
    comparison = compared(tmp_path, values)
    assert verdict(comparison).startswith(
        "full is ahead of scratch by 10.0 and 10.0 points at 10 % and 50 % of the training images; "
    )
    text = shown(comparison, capsys)
    assert "share of the training images" in text
    assert "missing: full, 50 % of the images, seed 4" in text
    page = render([comparison])
    assert page.count("Share of the training images") == 5  # tables, runs, and two figures
    assert "per class" not in page
    assert "<h3>10 % of the images<span" in page
    differing = [
        key for key in ("data.fraction", "data.per_class") if f"<code>{key}</code>" in page
    ]
    assert differing == []


def test_all_images_stand_at_a_share_of_one(tmp_path):
    comparison = compared(tmp_path, {("scratch", size): BASE for size in (0.1, 0.5, None)})
    axis = figures.sample_efficiency(comparison).layout.xaxis
    assert axis.title.text == "Share of the training images"
    assert axis.tickvals == (0.1, 0.5, 1.0)
    assert axis.ticktext == ("10 %", "50 %", "all")


# ---------------------------------------------------------------- the vault


def test_every_run_opened_test_once(tmp_path, capsys):
    comparison = compared(tmp_path, PAIR)
    assert vault(comparison) == "Test was opened once in each of 10 runs."
    assert "Test was opened once in each of 10 runs." in shown(comparison, capsys)
    assert '<p class="note">Test was opened once in each of 10 runs.</p>' in render([comparison])


def test_one_run_alone(tmp_path):
    assert vault(compared(tmp_path, {("x", 1): [0.5]})) == "Test was opened once in the one run."


def test_a_run_that_opened_test_again_is_named(tmp_path, capsys):
    def change(content):
        if content["choices"]["init"] == "pretrained":
            content["test_opened"] = {1: 3, 2: 0}.get(content["seed"], 1)

    comparison = compared(tmp_path, PAIR, change=change)
    text = vault(comparison)
    assert text == (
        "Of 10 runs, test was opened once in 8, never in 1 and more than once in 1: "
        "full, 5 per class, seed 1 (3 times). A run that is killed while it tests opens test again."
    )
    assert text in shown(comparison, capsys)
    assert f'<p class="note loud">{text}</p>' in render([comparison])


def test_only_the_first_of_many_are_named(tmp_path):
    comparison = compared(tmp_path, PAIR, change=lambda content: content.update(test_opened=2))
    assert "scratch, 5 per class, seed 2 (2 times); 7 more. A run" in vault(comparison)


@pytest.mark.parametrize(
    ("opened", "text"),
    [
        (0, "Compared on validation; test was never opened."),
        (1, "Compared on validation; test was opened once in each of 10 runs."),
    ],
)
def test_a_comparison_on_validation_says_so(tmp_path, opened, text):
    def change(content):
        content["test_opened"] = opened

    comparison = compared(tmp_path, PAIR, metric="val/accuracy", change=change)
    assert vault(comparison) == text


def test_without_a_run_nothing_is_said_of_test(tmp_path):
    assert vault(compared(tmp_path, {("scratch", 5): [None, None]})) == ""


# ---------------------------------------------------------------- skipped and dropped images


def test_what_was_left_out_of_the_data_is_shown(tmp_path, capsys):
    comparison = compared(tmp_path, PAIR, change=lambda content: content.update(data=NOTES))
    assert data_notes(comparison) == [
        "1 damaged image skipped (cat/x<b>.png)",
        "60 duplicates dropped (dog/0.png; dog/1.png; dog/2.png; 57 more)",
        "2 pairs of near duplicates in different splits",
        "1 warning",
    ]
    line = "data: 1 damaged image skipped (cat/x<b>.png), 60 duplicates dropped (dog/0.png; "
    assert line in shown(comparison, capsys)
    page = render([comparison])
    assert "The test split has no image of 1 of the 3 classes (&#39;ox&#39;)." in page
    assert "<td>50</td><td>9</td><td>20</td>" in page
    assert '<code>cat/x&lt;b&gt;.png</code></td><td class="left">truncated</td>' in page
    assert "Duplicates, dropped: 60, the first 50" in page
    assert page.count("equal to dog/99.png of test") == 50


def test_counts_stand_by_size_where_they_differ(tmp_path):
    def change(content):
        train = 3 * content["config"]["data"]["per_class"]
        counts = {"train": train, "val": 9, "test": 2000 + content["seed"]}
        content["data"] = {"counts": counts}

    values = {("scratch", size): BASE for size in (5, 10)}
    page = render([compared(tmp_path, values, change=change)])
    rows = [
        f'<tr><th scope="row">{size}</th><td>{3 * size}</td><td>9</td><td>2,000 to 2,004</td></tr>'
        for size in (5, 10)
    ]
    assert all(row in page for row in rows)


def test_clean_data_is_not_mentioned_in_the_terminal(tmp_path, capsys):
    notes = {"counts": NOTES["counts"], "skipped": {}, "dropped": {}, "near_duplicates": 0}
    change = lambda content: content.update(data=notes | {"warnings": []})  # noqa: E731
    comparison = compared(tmp_path, PAIR, change=change)
    assert data_notes(comparison) == []
    assert "data:" not in shown(comparison, capsys)
    assert '<th scope="row">5</th><td>50</td>' in render([comparison])


def test_records_from_before_the_data_was_noted_are_read(tmp_path):
    comparison = compared(tmp_path, PAIR)
    path = comparison.cells[0].folder / "result.json"
    content = json.loads(path.read_text())
    content.pop("data", None)
    path.write_text(json.dumps(content))
    assert read(path.parent).data == {}
    (again,) = load(tmp_path)
    assert data_notes(again) == []
    assert "<h2>Data</h2>" not in render([again])


# ---------------------------------------------------------------- unequal classes


def write_labels(comparison, counts):
    """Write predictions of the first run for a test split with so many images per class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    arrays = {"test_ids": np.arange(len(labels)).astype(str), "test_labels": labels}
    arrays["test_logits"] = np.eye(len(counts))[labels]
    arrays["classes"] = np.array([f"class{number}" for number in range(len(counts))])
    np.savez(comparison.cells[0].folder / "predictions.npz", **arrays)


@pytest.mark.parametrize(
    ("counts", "beside"),
    [([10, 15, 12], False), ([10, 16, 12], True), ([10, 0, 10], False), ([10, 0, 30], True)],
)
def test_macro_accuracy_stands_beside_where_classes_are_unequal(tmp_path, counts, beside):
    """From 1.5 times on; of a class without any image, macro accuracy knows nothing either."""
    comparison = compared(tmp_path, PAIR)
    assert macro(comparison) is None, "without predictions nothing is known"
    write_labels(comparison, counts)
    assert macro(comparison) == (Metric("test/macro_accuracy") if beside else None)


@pytest.mark.parametrize(("balance", "beside"), [("none", False), ("loss", True)])
def test_balanced_training_wants_macro_accuracy(tmp_path, balance, beside):
    def change(content):
        content["config"]["balance"] = balance

    assert (macro(compared(tmp_path, PAIR, change=change)) is not None) == beside


def test_macro_accuracy_is_shown_with_its_interval(tmp_path, capsys):
    def change(content):
        content["config"]["balance"] = "sampling"

    # The builder's macro accuracy is 2 points below the accuracy.
    comparison = compared(tmp_path, PAIR, change=change)
    text = shown(comparison, capsys)
    assert "80.0 [78.0, 82.0] n=5 macro 78.0" in text
    assert "macro: mean of the classes' accuracies" in text
    assert '<small class="macro">macro 78.0 [76.0, 80.0]</small>' in render([comparison])


def test_macro_accuracy_needs_records_that_have_it(tmp_path):
    def change(content):
        del content["metrics"]["test/macro_accuracy"]

    comparison = compared(tmp_path, PAIR, change=change)
    write_labels(comparison, [10, 90])
    assert macro(comparison) is None


def test_no_macro_accuracy_beside_a_loss(tmp_path, capsys):
    comparison = compared(tmp_path, PAIR, metric="test/loss")
    write_labels(comparison, [10, 90])
    assert macro(comparison) is None
    assert "macro" not in shown(comparison, capsys)


def test_equal_classes_show_macro_accuracy_among_the_other_metrics_only(tmp_path):
    page = render([compared(tmp_path, PAIR, predictions=True)])
    assert '<small class="macro">' not in page
    headings = [f'<th scope="col">{name} (%)</th>' for name in ("Macro accuracy", "Macro F1")]
    assert all(heading in page for heading in headings)


# ---------------------------------------------------------------- what makes a pair


@pytest.mark.parametrize(
    ("digests", "reason"),
    [
        (["data"], "the set of images differs"),
        (["split"], "the data split differs"),
        (["order"], "the batch order differs"),
        (["augment"], "the augmentation differs"),
        (["order", "augment"], "the batch order and the augmentation differ"),
    ],
)
def test_every_sentence_names_what_differs(tmp_path, capsys, digests, reason):
    def change(content):
        if content["choices"]["init"] == "pretrained":
            content["digests"] |= dict.fromkeys(digests, "other")

    comparison = compared(tmp_path, PAIR, change=change)
    (difference,) = differences(comparison)
    assert pairing_label(difference) == f"NOT PAIRED: {reason}"
    assert f"NOT PAIRED (1 of 1), because {reason}." in verdict(comparison)
    assert "paired by seed" not in verdict(comparison)
    assert f"NOT PAIRED: {reason}" in shown(comparison, capsys)
    page = render([comparison])
    assert f'<span class="loud">not paired, because {reason}</span>' in page
    assert "paired, n = 5" not in page


def test_other_preprocessing_is_said_beside_the_pairing(tmp_path, capsys):
    def change(content):
        other = content["choices"]["init"] == "pretrained"
        content["input"] = {"size": 28, "mean": [0.4 if other else 0.5], "std": [0.2]}
        content["input"] |= {"crop": 0.9} if other else {}

    comparison = compared(tmp_path, PAIR, change=change)
    (difference,) = differences(comparison)
    assert difference.paired
    assert difference.preprocessing == "mean, crop"
    assert pairing_label(difference) == "paired; OTHER PREPROCESSING: mean, crop"
    assert (
        "THE PREPROCESSING DIFFERS (1 of 1: mean, crop): these arms see other pixels than the "
        "reference."
    ) in verdict(comparison)
    assert "paired; OTHER PREPROCESSING: mean, crop" in shown(comparison, capsys)
    page = render([comparison])
    assert '<span class="loud">other preprocessing: mean, crop</span>' in page


def test_the_same_preprocessing_is_not_mentioned(tmp_path, capsys):
    change = lambda content: content.update(input={"size": 28, "mean": [0.5]})  # noqa: E731
    comparison = compared(tmp_path, PAIR, change=change)
    assert "PREPROCESSING" not in shown(comparison, capsys)
    assert "preprocessing" not in render([comparison])
