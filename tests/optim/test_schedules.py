"""Learning-rate schedules against their formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import ConfigError
from warmstart.optim.schedules import constant, cosine, linear, step

ALL = [constant, step, cosine, linear]


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


@given(st.sampled_from(ALL), st.integers(1, 300), st.data())
def test_rates_rise_to_the_base_and_never_again(make, steps, data):
    warmup = data.draw(st.integers(0, steps - 1))
    values = factors(make(steps=steps, warmup_steps=warmup), steps)
    assert all(0 < value <= 1 for value in values)
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert values[warmup] == 1
    if warmup:
        assert values[warmup - 1] == 1


@pytest.mark.parametrize("make", ALL)
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


@pytest.mark.parametrize("at", [[0.5, 1.0], [0], [-0.1], [2], 0.5, "half", [True], None])
def test_places_outside_the_run_are_refused(at):
    with pytest.raises(ConfigError, match=r"scheduler\.at.*between 0 and 1") as error:
        step(steps=10, at=at)
    assert repr(at) in str(error.value)


@pytest.mark.parametrize("factor", [-0.1, 1.5, "x", float("nan"), None])
def test_a_factor_that_would_turn_or_raise_the_rate_is_refused(factor):
    with pytest.raises(ConfigError, match=r"scheduler\.factor.*\[0, 1\]") as error:
        step(steps=10, factor=factor)
    assert repr(factor) in str(error.value)
