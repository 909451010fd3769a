"""What is read from the files of a tuning, and what is said of it, against hand-made ones."""

import dataclasses
import io
import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tunings import DECAY, RATE, STEPS, digits_tuning, trial, write_record, write_tuning
from warmstart.errors import ConfigError
from warmstart.results.best_of_k import best_of_k, expected_best
from warmstart.results.loading import load as comparisons
from warmstart.results.tuning import load, trial_keys
from warmstart.results.tuning_axis import Axis
from warmstart.results.tuning_terminal import show
from warmstart.results.tuning_verdict import budget, edges, findings, problems

FINAL = {"round": "final", "steps": STEPS}


def rates(*values, arm="full", start=0, **changes):
    """Return finished trials at these rates, the first of which is the best."""
    return [
        trial(arm, start + i, {RATE: rate, DECAY: 1e-4 * (1 + i % 3)}, 0.9 - 0.01 * i, **changes)
        for i, rate in enumerate(values)
    ]


def test_a_tuning_is_read_as_it_was_written(tmp_path):
    chosen = rates(0.1, 0.1, start=2, **FINAL)
    best = {"full": {"values": chosen[0]["values"], "value": 0.895, "trials": [2, 3]}}
    tuning = load(write_tuning(tmp_path, [*rates(0.1, 0.01), *chosen], best=best))
    assert (tuning.name, tuning.sampler, tuning.metric.name) == ("digits", "random", "val/accuracy")
    assert tuning.arms == ["full"]
    assert tuning.axes[0] == Axis(RATE, low=1e-4, high=1.0, log=True)
    assert [one.number for one in tuning.ranked("full")] == [0, 2, 1, 3]
    assert tuning.chosen("full") == {RATE: 0.1, DECAY: 1e-4}
    assert tuning.trials[0].recipe == "optimizer.lr=0.1 optimizer.weight_decay=0.0001"
    assert tuning.finished


def test_records_fill_in_what_the_file_does_not_hold_yet(tmp_path):
    running, failing, done, coming = (
        *rates(0.1, 0.2, state="running"),
        *rates(0.3, start=2),
        *rates(0.4, start=3, state="planned"),
    )
    for one in (running, failing, coming):
        one |= {"value": None, "curve": {}}
    folder = write_tuning(tmp_path, [running, failing, done, coming])
    write_record(tmp_path, running)
    write_record(tmp_path, failing, status="failed", error="the loss became NaN")
    write_record(tmp_path, done)
    first, second, third, fourth = load(folder).trials
    assert (first.state, first.value, first.seconds) == ("finished", 0.88, 12.5)
    assert first.curve == {"step": [50, 100], "accuracy": [0.5, 0.88], "loss": [1.2, 0.4]}
    assert (second.state, second.value, second.error) == ("failed", None, "the loss became NaN")
    # What the tuning itself has judged stays.
    assert (third.state, third.value, third.curve) == ("finished", 0.9, done["curve"])
    assert third.seconds == 12.5
    assert (fourth.state, fourth.value, fourth.seconds) == ("planned", None, None)
    assert not load(folder).finished


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"trials": [{"arm": "a"}]}, "TypeError", id="not whole"),
        pytest.param({"trials": rates(0.1, state="lost")}, "a trial's state is 'lost'", id="state"),
        pytest.param({"trials": rates(0.1, round="last")}, "a trial's round is 'last'", id="round"),
        pytest.param({"trials": rates(0.1, arm="b")}, "of 'b', which is none", id="stranger"),
        pytest.param({"space": {RATE: {"low": 1}}}, "KeyError: 'high'", id="space"),
        pytest.param({"arms": []}, "AttributeError", id="arms"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, change, reason):
    folder = write_tuning(tmp_path, rates(0.1), **change)
    with pytest.raises(ConfigError, match=r"tuning\.json is not a tuning of warmstart") as caught:
        load(folder)
    assert reason in str(caught.value)
    assert "delete it and start warmstart tune again" in str(caught.value)


def test_a_folder_without_a_tuning_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no tuning\.json; give a folder in OUT/tunings"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("axis", "value", "place"),
    [
        (Axis("a", low=0.001, high=1.0, log=True), 0.1, 2 / 3),
        (Axis("a", low=0.0, high=0.5), 0.1, 0.2),
        (Axis("a", low=0.0, high=0.5), 0.6, None),
        (Axis("a", low=0.0, high=0.5), "much", None),
        (Axis("a", (1, 2, 8)), 2, 0.5),
        (Axis("a", (1, 2, 8)), 4, None),
        (Axis("a", ("cosine",)), "cosine", 0.0),
    ],
)
def test_the_place_of_a_value_in_its_range(axis, value, place):
    assert axis.place(value) == (None if place is None else pytest.approx(place))


def test_numbers_are_put_in_order_and_words_are_not(tmp_path):
    space = {RATE: {"values": [0.1, 0.01]}, "scheduler": {"values": ["linear", "cosine"]}}
    first, second = load(write_tuning(tmp_path, [], space=space)).axes
    assert (first.values, first.ordered, first.span) == ((0.01, 0.1), True, "0.01, 0.1")
    assert (second.values, second.ordered) == (("linear", "cosine"), False)


def test_the_expected_best_by_hand():
    # Two draws from 1, 2, 3: the greatest is 1 once, 2 three times and 3 five times in nine.
    assert expected_best([3.0, 1.0, 2.0], 2) == pytest.approx((1 * 1 + 3 * 2 + 5 * 3) / 9)
    assert expected_best([3.0, 1.0, 2.0], 1) == pytest.approx(2.0)
    # Of equal values each has its part: the greatest of two from 1, 2, 2 is 1 once in nine.
    assert expected_best([2.0, 1.0, 2.0], 2) == pytest.approx((1 * 1 + 8 * 2) / 9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.integers(1, 4))
def test_the_expected_best_is_the_mean_over_all_draws(values, k):
    draws = [max(draw) for draw in itertools.product(values, repeat=k)]
    assert expected_best(values, k) == pytest.approx(float(np.mean(draws)))


def test_a_failed_trial_is_a_draw_as_bad_as_the_worst_of_the_tuning(tmp_path):
    lost = trial("full", 2, {RATE: 1.0, DECAY: 1e-4}, None, state="failed", error="NaN")
    cut = trial("full", 3, {RATE: 1e-4, DECAY: 1e-4}, 0.6, state="pruned", pruned_at=40)
    later = rates(0.1, start=4, **FINAL) + rates(0.1, start=5, state="running")
    other = [trial("probe", 0, {RATE: 0.1, DECAY: 1e-4}, 0.3)]
    tuning = load(write_tuning(tmp_path, [*rates(0.1, 0.01), lost, cut, *later, *other]))
    # 0.3 for the failed one, 0.6 for the pruned one, 0.89 and 0.9; no later round, none that runs.
    values = [0.3, 0.6, 0.89, 0.9]
    found = best_of_k(tuning, "full")
    assert len(found) == 4
    assert found[0] == pytest.approx(np.mean(values))
    pairs = [max(pair) for pair in itertools.product(values, repeat=2)]
    assert found[1] == pytest.approx(np.mean(pairs))
    assert best_of_k(tuning, "probe") == [pytest.approx(0.3)]


def test_of_a_loss_the_least_is_the_best(tmp_path):
    trials = [trial("full", i, {RATE: 0.1, DECAY: 1e-4}, v) for i, v in enumerate((0.9, 0.4))]
    tuning = load(write_tuning(tmp_path, trials, metric="val/loss"))
    assert [one.number for one in tuning.ranked("full")] == [1, 0]
    assert best_of_k(tuning, "full") == pytest.approx([0.65, 0.25 * 0.9 + 0.75 * 0.4])


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ((0.1, 0.01, 0.5), ""),
        ((0.1, 0.01), ""),
        (
            (0.9, 0.01, 0.5),
            "full: the best optimizer.lr, 0.9, is the highest of 3 values tried in 0.0001 to 1: "
            "widen the range upwards.",
        ),
        (
            (1.5e-4, 0.01, 0.5),
            "full: the best optimizer.lr, 0.00015, is the lowest of 3 values tried in 0.0001 to 1: "
            "widen the range downwards.",
        ),
        (
            (0.1, 0.01, 0.05),
            "full: the best optimizer.lr, 0.1, is the highest of 3 values tried in 0.0001 to 1: "
            "nothing above it was tried; give it more trials.",
        ),
    ],
)
def test_a_best_value_at_the_edge_is_said(tmp_path, tried, said):
    trials = rates(*tried)
    for one, decay in zip(trials, (1e-4, 1e-5, 1e-3), strict=False):
        one["values"][DECAY] = decay
    assert edges(load(write_tuning(tmp_path, trials)), "full") == ([said] if said else [])


def test_the_edge_of_a_list_and_words_that_have_none(tmp_path):
    space = {RATE: {"values": [0.1, 0.01, 1.0]}, "scheduler": {"values": ["a", "b", "c"]}}
    pairs = ((1.0, "a"), (0.1, "b"), (0.01, "c"))
    trials = [
        trial("full", i, {RATE: rate, "scheduler": word}, 0.9 - i / 10)
        for i, (rate, word) in enumerate(pairs)
    ]
    (said,) = edges(load(write_tuning(tmp_path, trials, space=space)), "full")
    assert said.startswith("full: the best optimizer.lr, 1, is the highest of 3 values tried in ")


def test_trials_are_no_comparison_of_their_recipes(tmp_path):
    trials = rates(0.1, 0.01)
    folder = write_tuning(tmp_path, trials)
    for one in trials:
        write_record(tmp_path, one)
    sentence = f"holds the trials of a tuning and no other run; warmstart report {folder} shows"
    for place in (tmp_path, folder):
        with pytest.raises(ConfigError, match=re.escape(sentence)):
            comparisons(place)
    write_record(tmp_path, {"key": "f" * 64, "seed": 0})
    (found,) = comparisons(tmp_path)
    assert [cell.key for cell in found.cells] == ["f" * 64]
    (folder / "tuning.json").write_text("{}")
    assert trial_keys(folder) == set()


def test_a_probe_takes_no_steps_and_each_of_its_trials_is_a_whole_run(tmp_path):
    tuning = load(write_tuning(tmp_path, rates(0.1, 0.01, steps=0)))
    none = dataclasses.replace(tuning, lengths={"full": 0})
    assert budget(none, "full").lengths == 2


def test_unequal_budgets_make_a_comparison_unfair(tmp_path):
    trials = [*rates(0.1, 0.01, 0.5), *rates(0.1, 0.01, arm="probe")]
    tuning = load(write_tuning(tmp_path, trials))
    assert budget(tuning, "full").lengths == 0.75
    assert problems(tuning)[0] == (
        "Budgets differ between the arms so far: full 3 trials worth 0.75 whole runs and probe "
        "2 trials worth 0.5 whole runs; the comparison is unfair."
    )
    longer = [*rates(0.1, 0.01), *rates(0.1, 0.01, arm="probe", steps=STEPS)]
    assert problems(load(write_tuning(tmp_path, longer, name="longer")))[0].startswith(
        "Budgets differ between the arms so far: full 2 trials worth 0.5 whole runs and probe "
        "2 trials worth 2 whole runs"
    )


def test_fractions_rounded_to_steps_are_no_difference(tmp_path):
    # A quarter of 150 steps is 38, of 400 it is 100: 0.2533 and 0.25 of a run.
    arms = {"full": {"steps": 400, "config": {}}, "probe": {"steps": 150, "config": {}}}
    trials = [*rates(0.1, 0.01), *rates(0.1, 0.01, arm="probe", steps=38)]
    tuning = load(write_tuning(tmp_path, trials, arms=arms))
    assert [sentence for sentence in problems(tuning) if "Budgets" in sentence] == []


def test_a_whole_tuning_says_its_recipes(tmp_path):
    finals = [*rates(0.1, start=3, **FINAL), *rates(0.1, start=4, **FINAL)]
    finals[1]["value"] = 0.92
    best = {"full": {"values": finals[0]["values"], "value": 0.91, "trials": [3, 4]}}
    tuning = load(write_tuning(tmp_path, [*rates(0.1, 0.01, 0.5), *finals], best=best))
    assert findings(tuning) == [
        "full: optimizer.lr=0.1 optimizer.weight_decay=0.0001, validation accuracy 91.0 %, mean of "
        "2 seeds at full length (90.0 to 92.0)."
    ]
    assert [one for one in problems(tuning) if DECAY not in one] == []


def test_a_trial_that_looked_at_test_is_said_first(tmp_path):
    trials = rates(0.1, 0.01)
    folder = write_tuning(tmp_path, trials)
    write_record(tmp_path, trials[0])
    assert not any("looked at test" in sentence for sentence in problems(load(folder)))
    write_record(tmp_path, trials[1], test_opened=1)
    assert problems(load(folder))[0] == (
        "1 trial has looked at test, the first of them full 1; what is said of these arms on test "
        "is no longer honest."
    )


def test_an_unfinished_tuning_says_who_leads_and_how_to_go_on(tmp_path):
    coming = rates(0.2, start=2, state="planned", value=None)
    nothing = rates(0.2, arm="probe", state="planned", value=None)
    tuning = load(write_tuning(tmp_path, [*rates(0.1, 0.01), *coming, *nothing]))
    assert findings(tuning) == [
        "full: no recipe yet; optimizer.lr=0.1 optimizer.weight_decay=0.0001 leads with 90.0 %, "
        "trial 0.",
        "probe: no trial has a value yet.",
    ]
    assert problems(tuning)[-1] == (
        "The tuning has not come to its end (2 planned trials to come); the same command goes on: "
        "warmstart tune comparison=digits"
    )


def test_a_tuning_of_failures_alone_has_nothing_to_go_on_with(tmp_path):
    lost = rates(0.1, 0.01, state="failed", value=None, error="the loss is NaN")
    assert problems(load(write_tuning(tmp_path, lost)))[-1] == (
        "All trials of full have failed, so that there is no recipe; search in other ranges, under "
        "another name (search.name=NAME)."
    )


def test_failures_are_said_with_the_first_reason(tmp_path):
    lost = rates(0.2, 0.3, start=2, state="failed", value=None, error="the loss is NaN.\nMore")
    tuning = load(write_tuning(tmp_path, [*rates(0.1, 0.01), *lost]))
    assert "2 trials failed (2 of full), the first because: the loss is NaN." in problems(tuning)


def test_the_terminal_shows_recipes_budgets_and_the_best_of_k(tmp_path):
    tuning = load(digits_tuning(tmp_path))
    console = Console(width=200, record=True, file=io.StringIO())
    show(tuning, console)
    said = console.export_text()
    rows = [line.split() for line in said.splitlines() if line.strip().startswith("digits/full ")]
    (row,) = rows
    best = tuning.best["digits/full"]
    assert row[1:3] == [f"{best.values[RATE]:.4g}", f"{best.values[DECAY]:.4g}"]
    curve = best_of_k(tuning, "digits/full")
    shown = [f"{100 * value:.1f}" for value in (best.value, curve[0], curve[3], curve[15])]
    assert row[3:7] == shown
    assert row[-1] == "12"  # 24 quarters and 6 whole runs
    assert all(sentence in said for sentence in (*findings(tuning), *problems(tuning)))


def test_the_file_of_a_tuning_that_has_just_begun(tmp_path):
    folder = write_tuning(tmp_path, [], arms={"full": {"steps": 10, "config": {}}})
    tuning = load(folder)
    console = Console(record=True, file=io.StringIO())
    show(tuning, console)
    assert "full: no trial has a value yet." in console.export_text()
    assert json.loads((folder / "tuning.json").read_text())["trials"] == []
