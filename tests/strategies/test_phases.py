"""Strategies as lists of phases: each computed by hand, and each way to get one wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import ConfigError
from warmstart.strategies.phases import (
    Phase,
    active,
    full,
    gradual,
    linear_probe,
    listed,
    lp_ft,
    partial,
)


def test_full():
    assert full(groups=5, steps=100) == [Phase(0, 5)]
    assert full(groups=5, steps=100, group_decay=0.5, batchnorm="train") == [
        Phase(0, 5, 1.0, 0.5, "train")
    ]


def test_linear_probe():
    assert linear_probe(groups=5, steps=100) == [Phase(0, 1)]
    assert linear_probe(groups=5, steps=100, batchnorm="eval") == [Phase(0, 1, batchnorm="eval")]


def test_partial():
    assert partial(groups=5, steps=100, top=2) == [Phase(0, 2)]
    assert partial(groups=5, steps=100, top=5) == [Phase(0, 5)]


def test_partial_with_the_first_groups_frozen():
    assert partial(groups=5, steps=100, frozen=1) == [Phase(0, 4)]
    assert partial(groups=5, steps=100, frozen=4, group_decay=0.5, batchnorm="train") == [
        Phase(0, 1, 1.0, 0.5, "train")
    ]


def test_gradual():
    # 50 steps for three unfreezings: at 50 / 3, 100 / 3 and 50.
    assert gradual(groups=4, steps=100, all_by=0.5) == [
        Phase(0, 1), Phase(17, 2), Phase(33, 3), Phase(50, 4),
    ]  # fmt: skip
    assert gradual(groups=1, steps=10) == [Phase(0, 1)]
    phases = gradual(groups=2, steps=10, all_by=0.4, group_decay=0.3, batchnorm="train")
    assert phases == [Phase(0, 1, 1.0, 0.3, "train"), Phase(4, 2, 1.0, 0.3, "train")]


def test_lp_ft():
    assert lp_ft(groups=5, steps=200, probe_until=0.25, full_lr_scale=0.1) == [
        Phase(0, 1, 1.0), Phase(50, 5, 0.1),
    ]  # fmt: skip


def test_listed():
    phases = [
        {"groups": 1},
        {"start": 0.25, "groups": 3, "lr_scale": 0.5},
        {"start": 0.9, "groups": "all", "group_decay": 0.2, "batchnorm": "train"},
    ]
    assert listed(groups=5, steps=40, phases=phases, batchnorm="eval") == [
        Phase(0, 1, batchnorm="eval"),
        Phase(10, 3, 0.5, batchnorm="eval"),
        Phase(36, 5, 1.0, 0.2, "train"),
    ]


def test_the_default_keeps_frozen_norms_on_their_statistics():
    strategies = [
        full(groups=3, steps=10), linear_probe(groups=3, steps=10), gradual(groups=3, steps=10),
        partial(groups=3, steps=10, top=2), lp_ft(groups=3, steps=10),
        listed(groups=3, steps=10, phases=[{}]),
    ]  # fmt: skip
    assert {p.batchnorm for phases in strategies for p in phases} == {"eval_frozen"}


@pytest.mark.parametrize(
    ("phase", "rates"),
    [
        # 2 x 0.5 x 0.1^(groups above), the head first from behind.
        (Phase(0, 3, lr_scale=0.5, group_decay=0.1), [0, 0, 0.01, 0.1, 1.0]),
        (Phase(0, 1), [0, 0, 0, 0, 2.0]),
        (Phase(0, 5), [2.0] * 5),
        (Phase(0, 5, group_decay=0.5), [0.125, 0.25, 0.5, 1.0, 2.0]),
    ],
)
def test_rates(phase, rates):
    assert phase.rates(2.0, 5) == pytest.approx(rates)


def test_a_rate_does_not_depend_on_how_many_groups_train():
    # A group keeps its rate when one more below it is unfrozen.
    below, above = (Phase(0, k, group_decay=0.3).rates(1.0, 4) for k in (2, 3))
    assert below[2:] == above[2:]


def test_active():
    phases = [Phase(0, 1), Phase(3, 2), Phase(7, 3)]
    found = [active(phases, step).groups for step in range(10)]
    assert found == [1, 1, 1, 2, 2, 2, 2, 3, 3, 3]


def test_zero_steps_evaluate_the_initialization():
    assert full(groups=3, steps=0) == [Phase(0, 3)]
    assert linear_probe(groups=3, steps=0) == [Phase(0, 1)]
    # Of several phases the first one alone.
    assert gradual(groups=3, steps=0) == [Phase(0, 1)]
    assert lp_ft(groups=3, steps=0) == [Phase(0, 1)]
    phases = [{"groups": 2}, {"start": 0.5}, {"start": 0.7, "groups": 1}]
    assert listed(groups=3, steps=0, phases=phases) == [Phase(0, 2)]


WRONG = [
    # A phase that starts after the last step.
    (
        lambda: lp_ft(groups=3, steps=10, probe_until=1.0),
        ["phase 1", "step 10", "last step is 9", "earlier"],
    ),
    (lambda: gradual(groups=3, steps=10, all_by=1.5), ["phase 2", "step 15", "last step is 9"]),
    (
        lambda: listed(groups=3, steps=10, phases=[{}, {"start": 2}]),
        ["phase 1", "step 20", "last step is 9"],
    ),
    # A run too short for its phases.
    (lambda: gradual(groups=5, steps=4), ["not after phase", "more steps"]),
    (lambda: lp_ft(groups=5, steps=1), ["not after phase 0", "more steps"]),
    # A later phase is looked at in a run of 0 steps too.
    (
        lambda: listed(groups=3, steps=0, phases=[{}, {"start": 0.5, "groups": 4}]),
        ["top 4 groups", "model has 3"],
    ),
    (
        lambda: listed(groups=3, steps=10, phases=[{}, {"start": 0.5}, {"start": 0.4}]),
        ["phase 2", "step 4", "step 5"],
    ),
    (
        lambda: listed(groups=3, steps=10, phases=[{"start": 0.5}]),
        ["first phase", "step 5", "start at 0"],
    ),
    (
        lambda: listed(groups=3, steps=10, phases=[{"start": -0.5}]),
        ["first phase", "step -5", "start at 0"],
    ),
    # More groups than there are.
    (
        lambda: partial(groups=5, steps=10, top=6),
        ["top 6 groups", "model has 5", "at most 5", "granularity"],
    ),
    (lambda: listed(groups=2, steps=10, phases=[{"groups": 3}]), ["top 3 groups", "model has 2"]),
    (lambda: partial(groups=5, steps=10, top=0), ["trains 0 groups", "1 to 5"]),
    (lambda: partial(groups=5, steps=10, top=-1), ["trains -1 groups"]),
    (lambda: partial(groups=5, steps=10, top=1.5), ["trains 1.5 groups", "1 to 5"]),
    (lambda: partial(groups=5, steps=10, top=True), ["trains True groups", "1 to 5"]),
    (
        lambda: partial(groups=5, steps=10),
        ["strategy.top is None and strategy.frozen is None", "exactly one", "5 groups"],
    ),
    (
        lambda: partial(groups=5, steps=10, top=2, frozen=3),
        ["strategy.top is 2 and strategy.frozen is 3", "exactly one", "strategy.top=null"],
    ),
    (
        lambda: partial(groups=5, steps=10, frozen=5),
        ["strategy.frozen is 5", "1 to 4", "5 groups"],
    ),
    (
        lambda: partial(groups=5, steps=10, frozen=0),
        ["strategy.frozen is 0", "1 to 4", "strategy=full"],
    ),
    (lambda: partial(groups=5, steps=10, frozen=-1), ["strategy.frozen is -1", "1 to 4"]),
    (lambda: partial(groups=5, steps=10, frozen=1.5), ["strategy.frozen is 1.5", "1 to 4"]),
    (lambda: partial(groups=5, steps=10, frozen=True), ["strategy.frozen is True", "1 to 4"]),
    (lambda: partial(groups=5, steps=10, frozen="2"), ["strategy.frozen is '2'", "1 to 4"]),
    (lambda: listed(groups=2, steps=10, phases=[{"groups": "most"}]), ["'most'", "1 to 2"]),
    # Rates.
    (lambda: full(groups=2, steps=10, group_decay=0), ["strategy.group_decay is 0", "(0, 1]"]),
    (lambda: full(groups=2, steps=10, group_decay=1.5), ["strategy.group_decay is 1.5", "(0, 1]"]),
    (lambda: gradual(groups=2, steps=10, group_decay=-0.5), ["strategy.group_decay is -0.5"]),
    (lambda: full(groups=2, steps=10, group_decay=float("nan")), ["group_decay", "nan", "number"]),
    (lambda: full(groups=2, steps=10, group_decay="half"), ["group_decay", "'half'", "number"]),
    (
        lambda: lp_ft(groups=2, steps=10, full_lr_scale=-0.1),
        ["lr_scale of phase 1 is -0.1", "above 0"],
    ),
    (lambda: lp_ft(groups=2, steps=10, full_lr_scale=0), ["lr_scale of phase 1 is 0", "above 0"]),
    (
        lambda: listed(groups=2, steps=10, phases=[{"lr_scale": "big"}]),
        ["lr_scale", "'big'", "number"],
    ),
    (lambda: listed(groups=2, steps=10, phases=[{"lr_scale": float("inf")}]), ["lr_scale", "inf"]),
    # BatchNorm.
    (
        lambda: full(groups=2, steps=10, batchnorm="frozen"),
        ["strategy.batchnorm", "'frozen'", "eval_frozen", "train"],
    ),
    (lambda: listed(groups=2, steps=10, phases=[{"batchnorm": "evl"}]), ["'evl'", "mean 'eval'"]),
    # Fractions.
    (lambda: gradual(groups=3, steps=10, all_by=0), ["strategy.all_by is 0", "above 0"]),
    (lambda: gradual(groups=3, steps=10, all_by=-0.1), ["strategy.all_by is -0.1"]),
    (lambda: gradual(groups=3, steps=10, all_by=None), ["strategy.all_by is None", "number"]),
    (lambda: lp_ft(groups=3, steps=10, probe_until="x"), ["strategy.probe_until is 'x'", "number"]),
    # The list itself.
    (lambda: listed(groups=3, steps=10, phases=[]), ["strategy.phases is []", "one phase"]),
    (lambda: listed(groups=3, steps=10, phases=None), ["strategy.phases is None", "list"]),
    (lambda: listed(groups=3, steps=10, phases=[3]), ["strategy.phases[0] is 3", "mapping"]),
    (lambda: listed(groups=3, steps=10, phases="all"), ["strategy.phases[0] is 'a'", "mapping"]),
    (
        lambda: listed(groups=3, steps=10, phases=[{}, {"star": 0.5}]),
        ["strategy.phases[1]", "'star'", "'start'"],
    ),
    (
        lambda: listed(groups=3, steps=10, phases=[{"start": "half"}]),
        ["strategy.phases[0].start", "'half'"],
    ),
]


@pytest.mark.parametrize(("make", "parts"), WRONG, ids=[parts[0] for _, parts in WRONG])
def test_what_cannot_run_is_refused(make, parts):
    with pytest.raises(ConfigError) as error:
        make()
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@given(
    groups=st.integers(1, 60),
    steps=st.integers(0, 400),
    all_by=st.floats(-0.5, 2, allow_nan=False),
)
def test_gradual_runs_every_phase_or_is_refused(groups, steps, all_by):
    try:
        phases = gradual(groups=groups, steps=steps, all_by=all_by)
    except ConfigError:
        # Never refused where the unfreezings are at least a step and a half apart.
        comfortable = (
            0 < all_by < 1 and all_by * steps >= 1.5 * groups and all_by * steps < steps - 1
        )
        assert not comfortable
        return
    starts = [phase.start for phase in phases]
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] < max(steps, 1)
    if steps == 0:
        assert [phase.groups for phase in phases] == [1]
        return
    assert [phase.groups for phase in phases] == list(range(1, groups + 1))
    assert starts[-1] == (round(all_by * steps) if groups > 1 else 0)


def test_phases_that_let_the_schedule_begin_anew():
    assert [p.restart_schedule for p in gradual(groups=3, steps=10)] == [False] * 3
    for make in (gradual, lp_ft):
        phases = make(groups=2, steps=10, restart_schedule=True)
        assert [p.restart_schedule for p in phases] == [True] * 2
    given = [{"groups": 1}, {"start": 0.5, "restart_schedule": False}, {"start": 0.8}]
    phases = listed(groups=2, steps=10, phases=given, restart_schedule=True)
    assert [p.restart_schedule for p in phases] == [True, False, True]


def test_a_restart_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(ConfigError, match=r"restart_schedule of phase 0 is 1, but must be true or"):
        listed(groups=2, steps=10, phases=[{"restart_schedule": 1}])
