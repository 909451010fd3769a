"""Early stopping as a function of validations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.callbacks.early import EarlyStopping


def rows(values, metric="accuracy", every=10):
    return [{"step": every * (i + 1), metric: value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "patience", "stops"),
    [
        ([], 0, False),
        ([0.5], 0, False),
        ([0.5, 0.6], 0, False),
        ([0.5, 0.5], 0, True),
        ([0.5, 0.4], 1, False),
        ([0.5, 0.4, 0.5], 1, True),
        ([0.5, 0.4, 0.6], 1, False),
        ([0.5, 0.4, 0.6, 0.5, 0.6], 1, True),
    ],
)
def test_the_best_may_be_so_old(values, patience, stops):
    assert EarlyStopping(patience).stops(rows(values)) == stops


def test_of_losses_the_lower_is_better():
    early = EarlyStopping(1, metric="loss")
    assert not early.stops(rows([2.0, 1.5, 1.6], "loss"))
    assert early.stops(rows([2.0, 1.5, 1.6, 1.5], "loss"))


def test_a_small_gain_is_none():
    early = EarlyStopping(1, min_delta=0.1)
    # 0.5 stays the one to beat: 0.59 is not better by more than a tenth.
    assert early.stops(rows([0.5, 0.55, 0.59]))
    assert not early.stops(rows([0.5, 0.55, 0.61]))


def test_only_validations_after_the_last_phase_began_count():
    early = EarlyStopping(0, start=20)
    # The best one, at step 20, belongs to the phase before.
    assert not early.stops(rows([0.1, 0.9, 0.5]))
    assert early.stops(rows([0.1, 0.9, 0.5, 0.4]))


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(0, 5), st.floats(0, 0.3))
def test_it_stops_where_counting_from_the_best_says_so(values, patience, delta):
    early = EarlyStopping(patience, min_delta=delta)
    best = None
    for index, value in enumerate(values):
        if best is None or value > values[best] + delta:
            best = index
    assert early.stops(rows(values)) == (best is not None and len(values) - 1 - best > patience)
