"""Verdicts and their sentences, from measurements made by hand."""

import dataclasses
import math

import pytest

from warmstart.check import rates
from warmstart.check.finding import LOOK, OK, WRONG, Finding, worst
from warmstart.check.measured import (
    Broken,
    Measurements,
    Modes,
    Neighbours,
    Overfit,
    RangeTest,
    Start,
    Trial,
)
from warmstart.check.model_verdicts import batchnorm, first_loss, input_scale, label_sanity
from warmstart.check.picture import sketch
from warmstart.check.training_verdicts import by_heart, learning_rate
from warmstart.check.verdicts import judge

START = Start(
    loss=math.log(10) + 0.1,
    error=0.04,
    images=128,
    classes=10,
    informed=False,
    input=[(0.0, 1.0)],
    outputs=[("conv", 0.0, 1.0), ("head", 0.0, 0.5)],
)
TRIAL = Trial([0.1, 0.1], [2.3, 0.5], [0.1, 1.0], None, {"conv": 0.01, "head": 0.02})
FITTED = Overfit(TRIAL, 2, 64, 2, 0.1, 1.0, 2, 2, 0)
UNFITTED = dataclasses.replace(
    FITTED, fitted=None, trial=dataclasses.replace(TRIAL, accuracies=[0.1, 0.5])
)
PIXELS = Neighbours("pixels", 200, 100, 60, 0.1, 120, 0.1)

NO_PIXELS = dataclasses.replace(PIXELS, right=10)


def valley(rate: float, *, last: Broken | None = None) -> RangeTest:
    """Return a test whose loss falls fastest at 0.01 and is above its start from 1 on."""
    tried = [rates.LOW * rates.growing_rate(step) for step in range(rates.STEPS)]
    places = [math.log10(rate) for rate in tried]
    losses = [2.3 - 1.5 / (1 + math.exp(-4 * (x + 2))) + math.exp(4 * x) for x in places]
    trial = Trial(tried, losses, [0.5] * len(tried), last, {})
    return RangeTest(0, 0, ("conv", "head"), trial, rate)


def flat(rate: float) -> RangeTest:
    return dataclasses.replace(
        valley(rate), trial=dataclasses.replace(valley(rate).trial, losses=[2.3] * rates.STEPS)
    )


@pytest.mark.parametrize(
    ("channels", "verdict", "words"),
    [
        ([(0.0, 1.0)], OK, "mean 0.00, deviation 1.00"),
        ([(-0.8, 1.4), (-0.5, 1.2)], OK, "mean -0.80 -0.50, deviation 1.40 1.20"),
        ([(0.0, 0.2)], LOOK, "very even"),
        ([(0.3, 0.7), (2.2, 0.4)], LOOK, "about 0 and 1 is usual"),
        ([(76.0, 96.0)], WRONG, "normalization is missing"),
        ([(-2.1, 0.005)], WRONG, "normalization is missing"),  # divided by 255 twice
    ],
)
def test_input(channels, verdict, words):
    found = input_scale(dataclasses.replace(START, input=channels))
    assert found.verdict == verdict
    assert words in found.sentence


@pytest.mark.parametrize(
    ("loss", "verdict", "words"),
    [
        (math.log(10), OK, "2.303, where log(10) = 2.303 is chance (sampling error 0.040"),
        (math.log(10) + 0.61, OK, "is chance"),  # 3 x 0.04, and half a nat for random outputs
        (math.log(10) + 0.63, LOOK, "vary too much"),
        (2 * math.log(10) + 0.13, WRONG, "bad initialization of the head"),
        (math.nan, WRONG, "bad initialization of the head"),
        (math.log(10) - 0.36, OK, "is chance"),
        (math.log(10) - 0.38, LOOK, "know these labels already"),
    ],
)
def test_first_loss(loss, verdict, words):
    found = first_loss(dataclasses.replace(START, loss=loss))
    assert found.verdict == verdict
    assert words in found.sentence


def test_a_head_made_from_labels_may_know_them():
    found = first_loss(dataclasses.replace(START, loss=0.4, informed=True))
    assert (found.verdict, "made from labels" in found.sentence) == (OK, True)


@pytest.mark.parametrize("std", [1e-6, 1e6])
def test_outputs_that_fade_or_blow_up_name_their_group(std):
    found = first_loss(dataclasses.replace(START, outputs=[("conv", 0, std), ("head", 0, 1)]))
    assert found.verdict == WRONG
    assert "bad initialization: the outputs of group conv" in found.sentence


def test_a_head_of_zeros_is_fine():
    outputs = [("conv", 0, 1.0), ("head", 0, 0.0)]
    start = dataclasses.replace(START, loss=math.log(10), error=0.0, outputs=outputs)
    assert first_loss(start).verdict == OK


@pytest.mark.parametrize(
    ("overfit", "retry", "verdict", "words"),
    [
        (FITTED, None, OK, "all 64 images right after 2 steps at rate 0.1"),
        (
            dataclasses.replace(UNFITTED, rate=1e-6),
            FITTED,
            WRONG,
            "but all of them after 2 steps at 0.1: the rate is too low; give optimizer.lr=0.1",
        ),
        (dataclasses.replace(UNFITTED, rate=9.0), FITTED, WRONG, "the rate is too high"),
        # A rate that other phases have too cannot be raised for this one alone.
        (
            dataclasses.replace(UNFITTED, rate=1e-6, peak=0.5),
            dataclasses.replace(FITTED, peak=0.5),
            WRONG,
            "the rate is too low in this phase, which has 0.5 x optimizer.lr",
        ),
        (
            dataclasses.replace(
                UNFITTED, rate=1e-6, trial=dataclasses.replace(TRIAL, accuracies=[0.5, 0.97])
            ),
            FITTED,
            LOOK,
            "97% of 64 images",
        ),
        (UNFITTED, UNFITTED, WRONG, "look at the learning rate and the initialization"),
        (
            dataclasses.replace(UNFITTED, contradictions=4),
            None,
            WRONG,
            "the labels (4 of these images are equal to one with another label",
        ),
        (
            dataclasses.replace(UNFITTED, trains=1),
            None,
            LOOK,
            "the frozen layers (only 1 of 2 groups train",
        ),
        (
            dataclasses.replace(
                UNFITTED, trial=dataclasses.replace(TRIAL, moved={"conv": 0.0, "head": 0.1})
            ),
            None,
            WRONG,
            "the gradient, which does not reach conv",
        ),
        (
            dataclasses.replace(
                UNFITTED, trial=dataclasses.replace(TRIAL, broken=Broken(2, "conv", 3.0, 0.1))
            ),
            None,
            WRONG,
            "then no number at step 2",
        ),
    ],
)
def test_by_heart(overfit, retry, verdict, words):
    found = by_heart(overfit, retry, START)
    assert found.verdict == verdict
    assert words in found.sentence


@pytest.mark.parametrize(
    ("rate", "fits", "verdict", "words"),
    [
        (0.02, True, OK, "optimizer.lr is 0.02, fine"),
        (5e-4, True, LOOK, "too low: try about 0.01"),
        (1e-6, False, WRONG, "too low: try about 0.01"),
        (1e-6, True, LOOK, "too low"),  # what fits a few batches is no mistake
        (0.9, False, LOOK, "too high"),
        (9.0, False, WRONG, "too high: try about 0.01"),
        (9.0, True, LOOK, "too high"),
    ],
)
def test_learning_rate(rate, fits, verdict, words):
    found = learning_rate(valley(rate), fits=fits, several=False)
    assert found.verdict == verdict
    assert words in found.sentence


@pytest.mark.parametrize(("fits", "verdict"), [(True, LOOK), (False, WRONG)])
def test_a_loss_that_falls_at_no_rate(fits, verdict):
    found = learning_rate(flat(0.1), fits=fits, several=True)
    assert (found.name, found.verdict) == ("learning rate, phase 0", verdict)
    assert "the loss falls at no rate from 1e-06 to 10" in found.sentence


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        ([PIXELS], OK, "right for 60.0% of validation, where chance is 10.0%, and for 60.0%"),
        ([NO_PIXELS], WRONG, "labels look shuffled"),
        # Labels of train that go with the images, but in another order than those of validation.
        ([dataclasses.replace(PIXELS, right=0)], WRONG, "labels look shuffled"),
        ([dataclasses.replace(PIXELS, train_right=20)], WRONG, "labels look shuffled"),
        ([dataclasses.replace(PIXELS, train=20, train_right=3)], OK, "right for"),
        ([dataclasses.replace(PIXELS, val=30, right=4)], LOOK, "30 images are too few"),
        ([NO_PIXELS, dataclasses.replace(PIXELS, what="features")], OK, "in features are right"),
    ],
)
def test_label_sanity(found, verdict, words):
    result = label_sanity(found)
    assert result.verdict == verdict
    assert words in result.sentence


def test_batchnorm_says_the_modes_of_each_phase():
    modes = [Modes(0, 0, {"conv": "eval", "head": None}), Modes(1, 9, {"conv": "train"})]
    found = batchnorm(modes, 32)
    assert (found.verdict, found.sentence) == (
        OK,
        "from step 0 on eval in conv; from step 9 on train in conv",
    )
    few = batchnorm(modes, 4)
    assert few.verdict == LOOK
    assert "4 images at once are too few" in few.sentence
    assert batchnorm(modes[:1], 4).verdict == OK
    assert batchnorm([Modes(0, 0, {"head": None})], 4).sentence == "the model has none"


def measured(**changes) -> Measurements:
    found = Measurements(
        key="k",
        start=START,
        overfit=FITTED,
        retry=None,
        ranges=[valley(0.1)],
        untested=[],
        neighbours=[PIXELS],
        modes=[Modes(0, 0, {"conv": "train", "head": None})],
        batch=32,
        order="0123456789abcdef0123",
    )
    return dataclasses.replace(found, **changes)


def test_all_is_well_in_the_order_of_the_procedure():
    found = judge(measured())
    assert [(f.name, f.verdict) for f in found] == [
        ("input", OK),
        ("loss at step 0", OK),
        ("2 batches by heart", OK),
        ("learning rate", OK),
        ("labels", OK),
        ("NaN and Inf", OK),
        ("BatchNorm", OK),
        ("data order", OK),
    ]
    assert found[-1].sentence == "digest 0123456789abcdef; equal for an equal seed"
    assert found[5].sentence == "none in 87 steps"
    assert worst(found) == OK
    assert worst([*found, Finding("x", LOOK, "")]) == LOOK
    assert worst([Finding("x", WRONG, ""), *found]) == WRONG


def test_no_number_names_step_rate_and_group():
    broken = Broken(17, "conv", 2.5, 0.3)
    said = (
        "the loss or an update is no number at step 17, rate 0.3; the largest update was that of "
        "group conv "
    )
    trial = dataclasses.replace(TRIAL, broken=broken)
    overfit = dataclasses.replace(UNFITTED, trial=trial)
    wrong = judge(measured(overfit=overfit))[5]
    assert (wrong.verdict, said in wrong.sentence) == (WRONG, True)
    assert "(its last update was 2.5 of its weights)" in wrong.sentence
    above = judge(measured(ranges=[valley(0.1, last=broken)]))[5]
    assert (above.verdict, above.sentence) == (
        OK,
        f"none at the run's rate; in the range test, {said}"
        "(its last update was 2.5 of its weights)",
    )
    below = judge(measured(ranges=[valley(0.5, last=broken)]))[5]
    assert below.verdict == WRONG
    assert "below the run's own rate of 0.5" in below.sentence


def test_a_later_phase_that_breaks_below_its_own_rate_is_not_overlooked():
    fine = valley(0.01, last=Broken(60, "head", 1.0, 5.0))
    broken = valley(0.5, last=Broken(17, "conv", 2.5, 0.1))
    found = {f.name: f for f in judge(measured(ranges=[fine, broken]))}["NaN and Inf"]
    assert found.verdict == WRONG
    assert "below the run's own rate of 0.5" in found.sentence


def test_rates_under_lr_batch_are_those_to_be_typed():
    """The rate of the steps is 0.9 here; with lr_batch, four times optimizer.lr."""
    found = judge(measured(ranges=[valley(0.9)]), scale=4.0)[3].sentence
    assert "with lr_batch the rate is 0.9, too high: try about 0.01" in found
    assert found.endswith(", that is 4 x optimizer.lr=0.0025")
    retry = dataclasses.replace(FITTED, rate=0.08, peak=1.0)
    found = by_heart(UNFITTED, retry, START, scale=4.0)
    assert found.sentence.endswith("give optimizer.lr=0.02")


def test_the_sketch_marks_both_rates():
    lines = sketch(valley(0.1), width=60)
    assert len(lines) == 11
    assert all(len(line) <= 60 for line in lines)
    assert lines[0].startswith("2.99 ")  # 1.3 times the first loss
    assert lines[8].count("▲") == lines[8].count("△") == 1
    assert lines[8].index("△") < lines[8].index("▲")
    assert lines[9].split() == ["1e-06", "10"]
