"""Ranges and lists of values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import ConfigError
from warmstart.tuning.space import Choice, Range, combinations, extremes, holds, narrowed, read


def test_a_grid_has_equal_ratios_or_differences() -> None:
    assert Range(1e-4, 0.1, True, 4).grid() == [1e-4, 1e-3, 1e-2, 0.1]
    assert Range(0.0, 0.9, False, 4).grid() == [0.0, 0.3, 0.6, 0.9]
    assert Range(1e-4, 1e-2, True, 1).grid() == [1e-3], "the middle"


def test_combinations() -> None:
    space = {"a": Range(1.0, 2.0, False, 2), "b": Choice(("x", None))}
    assert combinations(space) == [
        {"a": 1.0, "b": "x"},
        {"a": 1.0, "b": None},
        {"a": 2.0, "b": "x"},
        {"a": 2.0, "b": None},
    ]


def test_a_range_is_narrower_around_the_best() -> None:
    # Four decades by four: one decade, half of it on each side.
    range_ = Range(1e-5, 0.1, True, None).narrowed(1e-3, 4)
    assert (range_.low, range_.high) == (0.000316, 0.00316)
    range_ = Range(0.0, 8.0, False, None).narrowed(3.0, 2)
    assert (range_.low, range_.high) == (1.0, 5.0)
    range_ = Range(0.0, 8.0, False, None).narrowed(8.0, 2)
    assert (range_.low, range_.high) == (6.0, 8.0), "cut at the edge"
    assert Choice((1, 2)).narrowed(1, 4) == Choice((1, 2))


@given(
    low=st.floats(1e-6, 1.0),
    ratio=st.floats(1.5, 1e6),
    log=st.booleans(),
    place=st.floats(0, 1),
    factor=st.floats(1.1, 20),
)
def test_what_is_narrowed_holds_the_best_and_lies_within(
    low: float, ratio: float, log: bool, place: float, factor: float
) -> None:
    whole = Range(low, low * ratio, log, None)
    best = whole.rounded(low + (low * ratio - low) * place)
    part = whole.narrowed(best, factor)
    assert whole.low <= part.low <= part.high <= whole.high
    # Three digits of the edges are kept, of the best value too.
    assert part.low * 0.99 <= best <= part.high * 1.01
    assert holds({"x": whole}, {"x": best})


def test_reading() -> None:
    node = {
        "optimizer": {"lr": {"low": 1e-4, "high": 1, "log": True}, "weight_decay": None},
        "scheduler": {"values": ["cosine", "linear"], "low": 1, "high": 2},
    }
    space = read(node)
    assert space == {
        "optimizer.lr": Range(1e-4, 1.0, True, None),
        "scheduler": Choice(("cosine", "linear")),
    }
    assert space["optimizer.lr"].as_dict() == {"low": 1e-4, "high": 1.0, "log": True}
    assert space["scheduler"].as_dict() == {"values": ["cosine", "linear"]}
    best = {"optimizer.lr": 0.01, "scheduler": "linear"}
    assert narrowed(space, best, 4)["scheduler"] == space["scheduler"]


def test_the_points_at_which_a_space_is_checked() -> None:
    space = {"a": Range(1.0, 2.0, False, None), "b": Choice(("x", "y", "z"))}
    assert extremes(space) == [
        {"a": 1.0, "b": "x"},
        {"a": 2.0, "b": "x"},
        {"a": 1.0, "b": "y"},
        {"a": 1.0, "b": "z"},
    ]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "search.space has no key"),
        ({"a": None}, "search.space has no key"),
        (3, "search.space is 3, but must be a range"),
        ({"a": {"b": 3}}, "search.space.a.b is 3, but must be a range"),
        ({"a": {"low": 2, "high": 1}}, "search.space.a is from 2 to 1, but low must be below high"),
        ({"a": {"low": 1, "high": 1}}, "low must be below high"),
        ({"a": {"low": 0, "high": 1, "log": True}}, "a logarithmic range starts above 0"),
        ({"a": {"low": 0}}, "search.space.a.high is None, but must be a number"),
        ({"a": {"low": True, "high": 2}}, "search.space.a.low is True, but must be a number"),
        ({"a": {"low": 0, "high": 1, "log": 1}}, "search.space.a.log is 1, but must be true or"),
        ({"a": {"low": 0, "high": 1, "lg": 1}}, "no key 'search.space.a.lg'.*did you mean 'log'"),
        ({"a": {"low": 0, "high": 1, "points": 0}}, "points is 0, but must be a whole number"),
        ({"a": {"values": []}}, r"search.space.a.values is \[\], but must be a list"),
        (
            {"a": {"values": [1, 2, 1]}},
            "but a value given twice is not tried twice",
        ),
        ({"a": {"values": [[1]]}}, "but must be a list of plain values"),
        ({"a": {"values": [1], "step": 1}}, "there is no key 'search.space.a.step'"),
    ],
)
def test_bad_spaces(node: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(node)
