"""How a search goes: numbers of trials, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from tuning.searches import search
from warmstart.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({}, (4, 4)),
        ({"refine": 0}, (8, 0)),
        ({"refine": 0.25}, (6, 2)),
        ({"trials": 1, "finalists": 1}, (1, 0)),
        ({"sampler": "grid", "trials": None}, (6, 6)),
        ({"sampler": "grid", "trials": 12}, (6, 6)),
        ({"sampler": "grid", "trials": None, "refine": 0}, (6, 0)),
    ],
)
def test_the_trials_of_both_rounds(changes: dict[str, Any], rounds: tuple[int, int]) -> None:
    assert search(**changes).trials == rounds


def test_what_may_change_when_a_search_goes_on() -> None:
    same = search().fixed()
    assert search(finalists=5, seeds=[100, 7, 8, 9], name="x").fixed() == same
    assert search(seeds=[101, 102]).fixed() != same
    assert search(trials=9).fixed() != same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"foo": 1}, "there is no key 'search.foo'"),
        ({"sampler": "rand"}, "search.sampler is 'rand', but must be one of grid.*'random'"),
        ({"trials": 0}, "search.trials is 0, but must be a whole number of at least 1"),
        ({"trials": None}, "search.trials is None, but must be a whole number"),
        ({"finalists": 0}, "search.finalists is 0"),
        ({"finalists": 9}, "search.finalists is 9, but they are the best of the arm's 8 trials"),
        (
            {"trials": 1, "refine": 0},
            "search.finalists is 2, but they are the best of the arm's 1 trial; give at most",
        ),
        ({"batch": 1.5}, "search.batch is 1.5"),
        ({"seed": -1}, "search.seed is -1"),
        ({"prune": 1}, "search.prune is 1, but must be true or false"),
        ({"coarse": 0}, "search.coarse is 0, but must be a fraction"),
        ({"coarse": 2}, "search.coarse is 2, but must be a fraction"),
        ({"coarse": "x"}, "search.coarse is 'x', but must be a number"),
        ({"refine": 1}, "search.refine is 1, but must be a share"),
        ({"narrow": 1}, "search.narrow is 1, but the ranges"),
        ({"seeds": [100]}, r"search.seeds is \[100\], but must be at least two"),
        ({"seeds": [100, 100]}, "search.seeds is .* different whole numbers"),
        ({"space": {"a": {"values": [1]}}}, "the space has lists alone.*search.refine=0"),
        ({"sampler": "grid", "trials": 5}, "search.trials is 5, but the points .* make 12"),
        ({"sampler": "grid", "trials": None, "refine": 0.3}, "as large as the first"),
        (
            {"sampler": "grid", "trials": None, "space": {"a": {"low": 0, "high": 1}}},
            "search.space.a has neither points nor values, which a grid needs",
        ),
    ],
)
def test_bad_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(**changes)
