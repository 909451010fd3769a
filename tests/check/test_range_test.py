"""What is read from the curve of a range test."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.check import rates
from warmstart.check.measured import Broken, RangeTest, Trial


def curve(losses: list[float]) -> list[float]:
    return [rates.LOW * rates.growing_rate(step) for step in range(len(losses))]


def valley(*, falls: float, rises: float, depth: float = 1.5) -> list[float]:
    """Return losses that are 2.3, fall around one rate, and rise around another."""
    result = []
    for step in range(rates.STEPS):
        place = math.log10(rates.LOW * rates.growing_rate(step))
        fall = 1 / (1 + math.exp(-4 * (place - math.log10(falls))))
        rise = math.exp(4 * (place - math.log10(rises)))
        result.append(2.3 - depth * fall + rise)
    return result


def test_the_rates_grow_from_a_millionth_to_ten_in_equal_ratios():
    found = curve([0.0] * 85)
    assert found[0] == pytest.approx(1e-6)
    assert found[12] == pytest.approx(1e-5)  # 84 steps for 7 decades
    assert found[84] == pytest.approx(10.0)


def test_smoothing_weighs_neighbours_by_their_distance():
    # Weights 2, 1 beside: (1 * 0 + 2 * 4 + 1 * 2) / 4; at the ends (2 * 0 + 1 * 4) / 3.
    assert rates.smooth([0.0, 4.0, 2.0], width=1) == pytest.approx([4 / 3, 10 / 4, 8 / 3])


@settings(max_examples=50)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.integers(0, 6))
def test_smoothing_stays_within_the_values(values, width):
    found = rates.smooth(values, width=width)
    assert len(found) == len(values)
    assert min(values) - 1e-9 <= min(found)
    assert max(found) <= max(values) + 1e-9


def test_a_valley_gives_its_steepest_fall_and_where_it_is_lost():
    losses = valley(falls=1e-3, rises=1.0)
    reading = rates.read(curve(losses), losses, None)
    assert reading.learns
    assert reading.steepest == pytest.approx(1e-3, rel=0.25)
    assert 1e-3 < reading.best < reading.diverges
    # Back at 2.3, with 1.5 less: exp(4 x) = 1.5, at 10^0.101; the smoothed loss is a bit earlier.
    assert reading.diverges == pytest.approx(10**0.101, rel=0.35)
    assert reading.suggested == reading.steepest


def test_a_fall_right_before_the_divergence_suggests_a_tenth_of_that():
    losses = valley(falls=0.3, rises=1.5)
    reading = rates.read(curve(losses), losses, None)
    assert reading.suggested == pytest.approx(reading.diverges / 10)


def test_a_second_valley_does_not_count():
    losses = valley(falls=1e-4, rises=1e9, depth=0.5)
    back = rates.STEPS * 5 // 7  # at a rate of 0.1
    losses[back - 6 : back + 6] = [3.0] * 12
    losses[back + 6 :] = [0.5] * (rates.STEPS - back - 6)
    reading = rates.read(curve(losses), losses, None)
    assert reading.steepest == pytest.approx(1e-4, rel=0.25)
    assert reading.best < reading.diverges < 0.1


def test_a_loss_that_is_no_number_diverges_there():
    losses = valley(falls=1e-3, rises=1e9)[:50]
    reading = rates.read(curve(losses), losses, 0.02)
    assert reading.diverges == 0.02
    assert reading.suggested == pytest.approx(1e-3, rel=0.25)


def test_without_an_end_there_is_no_divergence():
    losses = valley(falls=1e-3, rises=1e9)
    assert rates.read(curve(losses), losses, None).diverges is None


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_noise_alone_is_no_learning(seed):
    losses = (2.3 + 0.05 * np.random.default_rng(seed).standard_normal(rates.STEPS)).tolist()
    reading = rates.read(curve(losses), losses, None)
    assert (reading.learns, reading.suggested) == (False, None)


def test_a_rise_without_a_fall_is_no_learning():
    losses = valley(falls=1e9, rises=0.1)
    reading = rates.read(curve(losses), losses, None)
    assert not reading.learns
    # 10 % of 2.3 above the start: exp(4 (x + 1)) = 0.23, at 10^-1.367.
    assert reading.diverges == pytest.approx(10**-1.367, rel=0.35)


@settings(max_examples=30)
@given(st.floats(-4.5, -1.5), st.integers(0, 2**32 - 1))
def test_the_steepest_fall_is_found_in_noise(place, seed):
    losses = valley(falls=10**place, rises=1e9)
    noise = 0.05 * np.random.default_rng(seed).standard_normal(len(losses))
    reading = rates.read(
        curve(losses), [loss + n for loss, n in zip(losses, noise, strict=True)], None
    )
    assert 10 ** (place - 0.5) < reading.steepest < 10 ** (place + 0.5)


def test_the_test_stops_when_all_is_lost():
    flat = [2.3] * 12
    assert not rates.hopeless([2.3, 99.0, 99.0, 99.0])  # before anything can have moved
    assert not rates.hopeless([*flat, 4.0, 4.0, 2.0])
    assert rates.hopeless([*flat, 4.0, 4.0, 4.0])


def test_a_few_steps_say_nothing():
    broken = Broken(2, "head", None, 1e-6)
    test = RangeTest(0, 0, ("head",), Trial([1e-6, 1e-6], [2.3, 2.3], [0, 0], broken, {}), 0.1)
    reading = rates.reading(test)
    assert (reading.learns, reading.suggested, reading.diverges) == (False, None, 1e-6)
