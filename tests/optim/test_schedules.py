"""Learning-rate schedules against their formulas."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import ConfigError
from warmstart.optim.schedules import (
    constant,
    cosine,
    cycle_ends,
    inverse_sqrt,
    linear,
    one_cycle,
    restarted,
    sgdr,
    step,
)

ALL = [constant, step, cosine, linear, inverse_sqrt]
WARMED = [*ALL, sgdr]


def factors(schedule, steps):
    return [schedule(now) for now in range(steps)]


def test_constant():
    assert factors(constant(steps=3), 3) == [1, 1, 1]
    assert factors(constant(steps=5, warmup_steps=4), 5) == [0.25, 0.5, 0.75, 1, 1]


def test_step():
    # Half and three quarters of eight steps.
    assert factors(step(steps=8), 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    made = step(steps=10, warmup_steps=2, at=(0.25,), factor=0.5)
    # t = (now - 2) / 8 reaches a quarter at step 4.
    assert factors(made, 10) == [0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert factors(step(steps=4, at=()), 4) == [1, 1, 1, 1]


def test_cosine():
    r = math.sqrt(0.5)
    assert factors(cosine(steps=4), 4) == pytest.approx([1, (1 + r) / 2, 0.5, (1 - r) / 2])
    assert factors(cosine(steps=6, warmup_steps=2), 6) == pytest.approx(
        [0.5, 1, 1, (1 + r) / 2, 0.5, (1 - r) / 2]
    )


def test_linear():
    assert factors(linear(steps=4), 4) == [1, 0.75, 0.5, 0.25]
    assert factors(linear(steps=7, warmup_steps=3), 7) == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 0.75, 0.5, 0.25]
    )


def test_step_in_epochs():
    # Of 2.5 steps: after 2 and 3.2 of them the first whole steps are 5 and 8.
    made = step(steps=10, steps_per_epoch=2.5, at=None, at_epochs=[2, 3.2], factor=0.5)
    assert factors(made, 10) == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    # Those of the warm-up count: the second epoch ends at step 4 with and without.
    made = step(steps=6, steps_per_epoch=2, at=None, at_epochs=[2], warmup_steps=4)
    assert factors(made, 6) == pytest.approx([0.25, 0.5, 0.75, 1, 0.1, 0.1])


@pytest.mark.parametrize("images", range(3, 40))
def test_an_epoch_ends_at_the_first_step_that_begins_behind_it(images):
    # In exact numbers: after e epochs of n images in batches of 7, e n <= 7 s.
    made = step(steps=50, steps_per_epoch=images / 7, at=None, at_epochs=[3])
    assert factors(made, 50) == [1 if 7 * now < 3 * images else 0.1 for now in range(50)]


@pytest.mark.parametrize(
    ("at", "at_epochs"), [(None, None), ((0.5,), (3,))], ids=["neither", "both"]
)
def test_steps_need_one_kind_of_place(at, at_epochs):
    message = r"scheduler\.at is .* and scheduler\.at_epochs is .*exactly one"
    with pytest.raises(ConfigError, match=message):
        step(steps=10, steps_per_epoch=2, at=at, at_epochs=at_epochs)


@pytest.mark.parametrize("at_epochs", [3, "3", [0], [-1], ["x"], [True]])
def test_epochs_that_are_no_numbers_are_refused(at_epochs):
    with pytest.raises(ConfigError, match=r"scheduler\.at_epochs is .*numbers above 0"):
        step(steps=10, steps_per_epoch=2, at=None, at_epochs=at_epochs)


@pytest.mark.parametrize(("epoch", "where"), [(5, 10), (30, 60), (1, 2)])
def test_epochs_outside_the_run_or_in_the_warmup_are_refused(epoch, where):
    message = rf"at_epochs has {epoch}, which is step {where},.*warm-up of 3 .*10 \(5 epochs\)"
    with pytest.raises(ConfigError, match=message):
        step(steps=10, steps_per_epoch=2, at=None, at_epochs=[epoch], warmup_steps=3)


def test_inverse_sqrt():
    r = math.sqrt(0.5)
    assert factors(inverse_sqrt(steps=4), 4) == pytest.approx([1, r, math.sqrt(1 / 3), 0.5])
    # min((s / w), sqrt(w / s)) for s = 1, 2, ...: the lines meet at the end of the warm-up.
    assert factors(inverse_sqrt(steps=8, warmup_steps=2), 8) == pytest.approx(
        [0.5, 1, math.sqrt(2 / 3), r, math.sqrt(2 / 5), math.sqrt(1 / 3), math.sqrt(2 / 7), 0.5]
    )


def test_one_cycle():
    r = math.sqrt(0.5)
    # Up over four steps from 0.2, down over four towards 0.1.
    assert factors(one_cycle(steps=8, peak_at=0.5, initial=0.2, final=0.1), 8) == pytest.approx(
        [
            *(0.2, 0.2 + 0.8 * (1 - r) / 2, 0.6, 0.2 + 0.8 * (1 + r) / 2),
            *(1, 0.1 + 0.9 * (1 + r) / 2, 0.55, 0.1 + 0.9 * (1 - r) / 2),
        ]
    )
    assert one_cycle(steps=1)(0) == pytest.approx(0.04)


def test_one_cycle_is_that_of_torch_up_to_a_step():
    steps = 5000
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, steps, cycle_momentum=False)
    ours = one_cycle(steps=steps)
    for now in range(steps - 1):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours(now), abs=1.5e-3)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("peak", [0, 1, -0.1, "x", True, float("nan")])
def test_a_peak_outside_the_run_is_refused(peak):
    with pytest.raises(ConfigError, match=r"scheduler\.peak_at is .*above 0 and below 1"):
        one_cycle(steps=10, peak_at=peak)


@pytest.mark.parametrize("key", ["initial", "final"])
@pytest.mark.parametrize("value", [-0.1, 1.1, "x", None])
def test_ends_of_a_cycle_that_are_no_factors_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"scheduler\.{key} is .*\[0, 1\]"):
        one_cycle(steps=10, **{key: value})


def test_sgdr():
    r = math.sqrt(0.5)
    # Cycles of 2 and 4 steps.
    assert factors(sgdr(steps=6, cycles=2, growth=2), 6) == pytest.approx(
        [1, 0.5, 1, (1 + r) / 2, 0.5, (1 - r) / 2]
    )
    # The warm-up is a part of the first cycle, and of no other.
    assert factors(sgdr(steps=8, cycles=2, warmup_steps=2), 8) == pytest.approx(
        [0.5, 1, 1, 0.5, 1, (1 + r) / 2, 0.5, (1 - r) / 2]
    )
    assert factors(sgdr(steps=7, cycles=1), 7) == factors(cosine(steps=7), 7)


def test_cycle_ends():
    assert cycle_ends(steps=12, cycles=4, growth=1) == [2, 5, 8, 11]
    # Parts of 1, 2 and 4 sevenths of 70.
    assert cycle_ends(steps=70, cycles=3, growth=2) == [9, 29, 69]
    assert cycle_ends(steps=70, cycles=3, growth=0.5) == [39, 59, 69]
    assert cycle_ends(steps=10, cycles=3, growth=1) == [2, 6, 9]
    assert cycle_ends(steps=5, cycles=1, growth=3) == [4]
    assert cycle_ends(steps=4, cycles=4, growth=1) == [0, 1, 2, 3]


@given(st.integers(1, 2000), st.integers(1, 12), st.floats(0.25, 4))
def test_cycles_are_a_partition_of_the_steps(steps, cycles, growth):
    try:
        ends = cycle_ends(steps=steps, cycles=cycles, growth=growth)
    except ConfigError:
        # Only where one of them would be about a step or less.
        shares = [growth**number for number in range(cycles)]
        assert steps * min(shares) / sum(shares) < 1.01
        return
    assert len(ends) == cycles
    assert ends[-1] == steps - 1
    lengths = [b - a for a, b in pairwise([-1, *ends])]
    assert min(lengths) >= 1
    assert all(abs(b - growth * a) <= 1 + growth for a, b in pairwise(lengths))
    made = sgdr(steps=steps, cycles=cycles, growth=growth)
    assert [now for now in range(steps) if made(now) == 1] == [0, *(end + 1 for end in ends[:-1])]


@pytest.mark.parametrize("cycles", [0, -1, 1.5, "2", True, None])
def test_cycles_that_are_no_number_are_refused(cycles):
    with pytest.raises(ConfigError, match=r"scheduler\.cycles is .*whole number of at least 1"):
        sgdr(steps=10, cycles=cycles)


@pytest.mark.parametrize("growth", [0, -1, "2", None, float("inf"), float("nan")])
def test_a_growth_that_is_none_is_refused(growth):
    with pytest.raises(ConfigError, match=r"scheduler\.growth is .*above 0"):
        sgdr(steps=10, growth=growth)


@pytest.mark.parametrize(("steps", "cycles", "growth"), [(3, 4, 1), (20, 5, 1e300), (1, 2, 1)])
def test_more_cycles_than_steps_are_refused(steps, cycles, growth):
    with pytest.raises(ConfigError, match=rf"cycles is {cycles} .*{steps} steps are too few"):
        sgdr(steps=steps, cycles=cycles, growth=growth)


def test_a_warmup_longer_than_the_first_cycle_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_steps is 5, but the first cycle has only 5"):
        sgdr(steps=20, cycles=4, warmup_steps=5)


def test_a_schedule_begins_anew_at_each_start():
    def make(steps):
        return linear(steps=steps, warmup_steps=1)

    # Parts of 2, 3 and 5 steps, each with a step of warm-up.
    assert factors(restarted(make, [0, 2, 5], steps=10), 10) == pytest.approx(
        [1, 1, 1, 1, 0.5, 1, 1, 0.75, 0.5, 0.25]
    )


@pytest.mark.parametrize("starts", [[0], [0, 3]])
def test_a_restart_that_changes_nothing_is_refused(starts):
    def make(steps):
        return (linear if len(starts) == 1 else constant)(steps=steps)

    message = r"strategy\.restart_schedule is true, but changes no rate.*scheduler=cosine"
    with pytest.raises(ConfigError, match=message):
        restarted(make, starts, steps=10)


def test_a_warmup_that_does_not_fit_between_two_restarts_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_steps is 3, but the schedule has only 2 steps"):
        restarted(lambda steps: linear(steps=steps, warmup_steps=3), [0, 2], steps=10)


@given(st.sampled_from(ALL), st.integers(1, 300), st.data())
def test_rates_rise_to_the_base_and_never_again(make, steps, data):
    warmup = data.draw(st.integers(0, steps - 1))
    values = factors(make(steps=steps, warmup_steps=warmup), steps)
    assert all(0 < value <= 1 for value in values)
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    if warmup == 0 or make is not inverse_sqrt:  # which falls from the top of the warm-up on
        assert values[warmup] == 1
    if warmup:
        assert values[warmup - 1] == 1


@pytest.mark.parametrize("make", WARMED)
@pytest.mark.parametrize("warmup", [-1, 1.5, "3", True, None])
def test_a_bad_warmup_is_refused(make, warmup):
    with pytest.raises(ConfigError, match=r"scheduler\.warmup_steps.*whole number") as error:
        make(steps=10, warmup_steps=warmup)
    assert repr(warmup) in str(error.value)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("warmup", [10, 11])
def test_a_warmup_as_long_as_the_run_is_refused(make, warmup):
    message = rf"scheduler\.warmup_steps is {warmup}.*only 10 steps.*fewer"
    with pytest.raises(ConfigError, match=message):
        make(steps=10, warmup_steps=warmup)


@pytest.mark.parametrize("at", [[0.5, 1.0], [0], [-0.1], [2], 0.5, "half", [True]])
def test_places_outside_the_run_are_refused(at):
    with pytest.raises(ConfigError, match=r"scheduler\.at.*between 0 and 1") as error:
        step(steps=10, at=at)
    assert repr(at) in str(error.value)


@pytest.mark.parametrize("factor", [-0.1, 1.5, "x", float("nan"), None])
def test_a_factor_that_would_turn_or_raise_the_rate_is_refused(factor):
    with pytest.raises(ConfigError, match=r"scheduler\.factor.*\[0, 1\]") as error:
        step(steps=10, factor=factor)
    assert repr(factor) in str(error.value)
