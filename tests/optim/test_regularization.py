"""The options of ``regularization=``: their ranges, and what counts as given."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart import ConfigError
from warmstart.optim.regularization import Regularization


def test_nothing_is_given_by_default():
    assert Regularization().given == {}
    assert Regularization(l2=0, dropout=None, clip_norm=None).given == {}


@given(st.floats(0, 0.99), st.floats(0.01, 1e6))
def test_what_is_given_is_what_differs(rate, factor):
    options = Regularization(dropout=rate, l1=factor, clip_value=factor)
    assert options.given == {"dropout": rate, "l1": factor, "clip_value": factor}
    # A rate of 0 differs from the model's own.
    assert dataclasses.replace(options, l1=0.0, clip_value=None).given == {"dropout": rate}


@pytest.mark.parametrize("name", ["l2", "l1", "l2_sp", "l2_sp_head"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "x", True, None])
def test_factors_are_not_negative(name, value):
    with pytest.raises(ConfigError, match=rf"regularization\.{name} is .*of at least 0") as error:
        Regularization(**{name: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("name", ["label_smoothing", "dropout", "drop_connect", "stochastic_depth"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 2, "x", True])
def test_rates_are_below_one(name, value):
    with pytest.raises(ConfigError, match=rf"regularization\.{name} is .*number in \[0, 1\)"):
        Regularization(**{name: value})


@pytest.mark.parametrize("rate", [1.0, None, "x"])
def test_the_rate_of_a_head_is_named(rate):
    with pytest.raises(ConfigError, match=r"regularization\.dropout\.fc is .*number in \[0, 1\)"):
        Regularization(dropout={"head": 0.5, "fc": rate})


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), "x"])
def test_bounds_of_the_gradient_are_positive(name, value):
    with pytest.raises(ConfigError, match=rf"regularization\.{name} is .*above 0, or null"):
        Regularization(**{name: value})


def test_a_gradient_is_clipped_in_one_way():
    with pytest.raises(ConfigError, match=r"clip_norm is 1 and .*clip_value is 2.*leave out"):
        Regularization(clip_norm=1, clip_value=2)
