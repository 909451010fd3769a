"""Which trials come next, and which are the best: by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning.searches import search
from warmstart.tuning import sampling
from warmstart.tuning.space import Range
from warmstart.tuning.trials import (
    Trial,
    finals,
    leaders,
    limits,
    next_wave,
    winner,
)


def trial(number: int, value: float | None = None, lr: float = 0.01, **more: Any) -> Trial:
    """Return a finished trial, or one under way where it has no value."""
    state = "running" if value is None else "finished"
    fields = {"loss": 1.0, "state": state, "seed": 100, "steps": 20, **more}
    values = {"optimizer.lr": lr, "optimizer.weight_decay": 0.05}
    return Trial("a", number, "coarse", values, value=value, **fields)


def test_waves_follow_one_another_in_two_rounds() -> None:
    how = search(trials=8, batch=3)  # 4 and 4
    done = [trial(n, 0.1 * n, lr=0.01) for n in range(8)]
    waves = [next_wave(how, done[:n]) for n in range(9)]
    spans = [(w.round, w.first, w.end) for w in waves if w is not None]
    assert spans == [
        *[("coarse", 0, 3)] * 3,
        ("coarse", 3, 4),
        *[("refine", 4, 7)] * 3,
        ("refine", 7, 8),
    ]
    assert waves[8] is None
    # Four decades by four, around the best of the first round.
    assert waves[4] is not None
    narrow = waves[4].space["optimizer.lr"]
    assert isinstance(narrow, Range)
    assert (narrow.low, narrow.high) == (0.00316, 0.0316)


def test_a_wave_goes_on_until_its_last_trial_is_over() -> None:
    trials = [trial(0, 0.5), trial(1), trial(2, 0.7)]
    wave = next_wave(search(), trials)
    assert wave is not None
    assert (wave.first, wave.end, wave.before) == (0, 3, [])


def test_without_a_finished_trial_there_is_nothing_to_refine() -> None:
    failed = [trial(n, None, state="failed") for n in range(4)]
    assert next_wave(search(), failed) is None


def test_limits_come_from_earlier_waves_alone() -> None:
    curve = {"step": [5, 10, 20], "accuracy": [0.1, 0.5, 0.9], "loss": [1.0, 1.0, 1.0]}
    how = search(trials=8, refine=0, batch=4)
    done = [trial(n, 0.9, curve=curve) for n in range(4)]
    better = {**curve, "accuracy": [0.9, 0.9, 0.9]}
    wave = next_wave(how, [*done, trial(4, 0.9, curve=better), trial(5)])
    assert wave is not None
    assert limits(wave, 20) == [[5, 0.1], [10, 0.5]]


def test_leaders_are_of_different_values() -> None:
    trials = [
        trial(0, 0.5, lr=0.1),
        trial(1, 0.9, lr=0.2),
        trial(2, 0.9, lr=0.3, loss=0.5),
        trial(3, 0.9, lr=0.3, loss=0.6),
        trial(4, 0.99, lr=0.4, state="pruned"),
        trial(5, 0.5, lr=0.5),
    ]
    assert [t.number for t in leaders(trials, 3)] == [2, 1, 0], "loss, then the earlier one"


def test_finals_and_their_winner() -> None:
    how = search()
    runs = finals(how, [trial(0, 0.8, lr=0.1), trial(1, 0.9, lr=0.2), trial(2, 0.1)], 80)
    assert [(t.number, t.values["optimizer.lr"], t.seed, t.steps) for t in runs] == [
        (8, 0.2, 101, 80),
        (9, 0.2, 102, 80),
        (10, 0.1, 101, 80),
        (11, 0.1, 102, 80),
    ]
    assert winner(runs) is None, "not while they run"
    for run, value in zip(runs, (0.9, 0.7, 0.8, 0.85), strict=True):
        run.state, run.value = "finished", value
    values, mean, numbers = winner(runs) or ({}, 0.0, [])
    assert (values["optimizer.lr"], numbers) == (0.1, [10, 11])
    assert mean == pytest.approx(0.825)
    runs[3].state = "failed"
    values, mean, numbers = winner(runs) or ({}, 0.0, [])
    assert numbers == [8, 9], "a mean over other seeds is no match"
    runs[0].state = "failed"
    assert winner(runs) is None


@settings(max_examples=25)
@given(number=st.integers(0, 7), seed=st.integers(0, 99), arm=st.text(max_size=5))
def test_random_values_depend_on_their_place_alone(number: int, seed: int, arm: str) -> None:
    how = search(seed=seed, refine=0)
    wave = next_wave(how, [])
    assert wave is not None
    one = sampling.draw(how, wave, arm, [], number)
    two = sampling.draw(how, wave, arm, [trial(0, 0.3), trial(1)], number)
    assert one == two
    assert 1e-4 <= one["optimizer.lr"] <= 1
    assert 0 <= one["optimizer.weight_decay"] <= 0.1
    assert float(f"{one['optimizer.lr']:.3g}") == one["optimizer.lr"]
    assert one != sampling.draw(how, wave, arm + "x", [], number)


def test_random_rates_are_log_uniform() -> None:
    how = search(trials=400, refine=0, batch=400)
    wave = next_wave(how, [])
    assert wave is not None
    rates = [sampling.draw(how, wave, "a", [], n)["optimizer.lr"] for n in range(400)]
    # A quarter in each decade: 100 of 400, with a deviation of 8.7.
    for low in (1e-4, 1e-3, 1e-2, 1e-1):
        assert 65 <= sum(low <= rate < 10 * low for rate in rates) <= 135


def test_a_grid_is_walked_in_order_in_each_round() -> None:
    how = search(sampler="grid", trials=None, batch=12)
    wave = next_wave(how, [])
    assert wave is not None
    found = [tuple(sampling.draw(how, wave, "a", [], n).values()) for n in range(6)]
    assert found == [(r, d) for r in (1e-4, 1e-2, 1.0) for d in (0.0, 0.1)]
    done = [trial(n, 0.5, lr=0.01) for n in range(6)]
    wave = next_wave(how, done)
    assert wave is not None
    # Around (0.01, 0.05): a decade, and a quarter of 0.1.
    values = sampling.draw(how, wave, "a", done, 6)
    assert values == {"optimizer.lr": 0.00316, "optimizer.weight_decay": 0.0375}


def test_the_estimator_goes_where_it_was_good_and_nowhere_else_twice() -> None:
    how = search(sampler="tpe", trials=40, refine=0, batch=4)
    grid = [10 ** (-4 + n / 5) for n in range(20)]
    known = [trial(n, 1 - abs(n - 15) / 20, lr=float(f"{lr:.3g}")) for n, lr in enumerate(grid)]
    wave = next_wave(how, known)
    assert wave is not None
    rates = []
    for number in range(20, 24):
        values = sampling.draw(how, wave, "a", known, number)
        assert values == sampling.draw(how, wave, "a", known, number), "of what is known alone"
        rates.append(values["optimizer.lr"])
        known.append(trial(number, lr=values["optimizer.lr"]))
    assert all(0.01 <= rate <= 1 for rate in rates), "the best is at 0.1"
    assert len(set(rates)) == 4
