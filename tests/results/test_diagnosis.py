"""Sentences about curves: each planted fault is named, and nothing is said of healthy ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_curves import CLASSES, GUESS, PLANTED, STEPS, curves, falling, healthy

from warmstart.results.diagnosis import diagnose


def said(given_curves, classes=CLASSES, steps=STEPS):
    return diagnose(given_curves, classes=classes, steps=steps)


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_comes_first(name):
    words, shape = PLANTED[name]
    found = said(curves(**shape))
    assert found[0].startswith(words)
    # A slow start may well end before the loss does.
    assert [s for s in found[1:] if not s.startswith("still improving")] == []


# What noise hides holds for nearly all seeds: the same ones in every run of the tests.
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(PLANTED.keys() - {"underfitting"})), st.integers(0, 2**32 - 1))
def test_what_is_planted_is_found_through_noise(name, seed):
    words, shape = PLANTED[name]
    found = said(curves(**shape, noise=0.02, seed=seed))
    assert any(sentence.split(":")[0] == words.split(":")[0] for sentence in found), found


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    to=st.floats(0.02, 0.3),
    speed=st.floats(8, 30),
    start=st.floats(0.5, 1.5),
    noise=st.floats(0, 0.03),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_healthy_run_is_left_alone(to, speed, start, noise, seed):
    train = falling(to, speed, start=start * GUESS)
    val = falling(1.2 * to + 0.1, speed, start=start * GUESS)
    assert said(curves(train, val, noise=noise, seed=seed)) == []


@pytest.mark.parametrize("rate", [lambda t: np.full(len(t), 0.1), lambda t: 0.1 * (1 - t)])
def test_a_healthy_run_is_left_alone_under_other_schedules(rate):
    assert said(healthy(rate=rate)) == []


def test_the_numbers_in_the_sentences():
    # Lowest, 1, at 30 % of 400 steps; the curve of validation has a point every 20.
    (found,) = said(curves(**PLANTED["overfitting"][1]))
    assert "from 1.05 at step 140 " in found, "the mean of two points"
    assert "to 1.67 at the end, while that of training falls to 0.02" in found
    (found,) = said(curves(**PLANTED["plateau"][1]))
    # 1.1 exp(-20 t) is 3 % of log 10 at t = 0.139, step 55; smoothing sees it later.
    assert "from step 64 (16% of the run)" in found
    assert "at 1.20" in found
    # 2.2 exp(-2.5 t) is 0.246 in the middle of the last points, at t = 0.875. In validation the
    # loss is 0.95 (0.1 + 0.246) + 0.115 there, and falls by 0.95 x 2.5 x 0.246 x 0.2 in a fifth.
    (found,) = said(curves(**PLANTED["improving"][1]))
    assert "falls by 26% in the last fifth" in found


def test_a_warm_up_that_is_too_long_is_told_from_a_bad_initialization():
    (first, *_), (warm, *_) = (
        said(curves(**PLANTED[n][1])) for n in ("slow start", "slow warm-up")
    )
    assert "up to step 160 (40% of the run)" in first
    assert "initialization (init=, init.scheme=)" in first
    assert "lower scheduler.warmup_steps" in warm


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_all_there_is_to_say(lost):
    found = said({"train": {"step": [8, 16], "loss": [2.3, lost], "accuracy": [0.1, 0.1]}})
    assert found == [
        "rate too high: the training loss is no number any more at step 16; lower optimizer.lr, or "
        "add scheduler.warmup_steps"
    ]


def test_there_is_nothing_to_say_without_curves():
    assert said({}) == []
    assert said({"train": {"step": [], "loss": []}, "val": {}}) == []
    assert said({"train": {"step": [8], "loss": [2.3], "accuracy": [0.1], "lr": [0.1]}}) == []
    assert said(curves(**PLANTED["nothing"][1]), steps=0) == [], "a probe"


def test_a_run_without_validations_is_judged_by_its_training():
    alone = {"train": curves(**PLANTED["improving"][1])["train"]}
    assert said(alone)[0].startswith("still improving")
    assert said({"train": healthy()["train"]}) == []


def test_what_starts_well_is_not_called_stuck():
    # Fine-tuning that has next to nothing to learn.
    assert said(curves(falling(0.05, 1, start=0.06), falling(0.1, 1, start=0.11))) == []


@pytest.mark.parametrize("train", [falling(0.8 * GUESS, 20), lambda t: GUESS - 0.7 * t])
def test_a_training_loss_that_mixed_images_keep_up_is_no_plateau(train):
    assert said(curves(train, falling(0.1, 10), accuracies=(0.6, 0.95))) == []


def test_a_plateau_above_a_guess_is_no_learning():
    # What ResNet-20 does at a thousandth of a good rate: BatchNorm settles, and nothing else moves.
    (found,) = said(curves(falling(1.1 * GUESS, 20, start=1.4 * GUESS)))
    assert found.startswith("nothing is learned: from step ")
    assert "on the training loss stands still at 2.53, where guessing costs 2.30; the rate" in found
    (found,) = said(curves(falling(0.9 * GUESS, 20, start=1.4 * GUESS)))
    assert found.startswith("plateau: from step ")


def test_two_classes_have_a_guess_of_their_own():
    # 0.65 is 94 % of log 2, but 28 % of log 10.
    still = curves(lambda t: np.full(len(t), 0.65))
    assert "guessing costs 0.69" in said(still, classes=2)[0]
    assert said(still, classes=CLASSES) == []
