"""Intervals and tests over seeds, against hand-computed numbers and scipy.stats."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from warmstart.results.statistics import (
    EXHAUSTIVE_UP_TO,
    Interval,
    crossed_interval,
    holm,
    paired_difference,
    sign_flip_p,
    smallest_p,
    t_interval,
    unpaired_difference,
)

shares = st.floats(0, 1, allow_subnormal=False).map(lambda x: round(x, 4))


def test_t_interval_by_hand():
    # s = sqrt(2.5), s / sqrt(5) = 0.70711, t(4) = 2.77645
    interval = t_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.low == pytest.approx(3 - 1.96324, abs=1e-5)
    assert interval.high == pytest.approx(3 + 1.96324, abs=1e-5)
    assert interval.n == 5


def test_one_value_has_no_interval():
    interval = t_interval([0.7])
    assert interval == Interval(0.7, None, None, 1)
    assert not interval.above_zero
    assert not interval.below_zero


def test_no_value_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        t_interval([])


@given(st.lists(shares, min_size=2, max_size=30), st.sampled_from([0.5, 0.95, 0.999]))
def test_t_interval_is_scipys(values, level):
    interval = t_interval(values, level=level)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    half = scipy.stats.t.ppf(0.5 + level / 2, len(values) - 1) * error
    if error <= 1e-9:
        assert (interval.low, interval.high) == (None, None)
        return
    assert (interval.low, interval.high) == pytest.approx(
        (np.mean(values) - half, np.mean(values) + half), abs=1e-9
    )


def test_equal_values_give_no_interval():
    """Three seeds that agree to the digit say nothing about how far the next one would be."""
    assert t_interval([0.05, 0.05, 0.05]) == Interval(pytest.approx(0.05), None, None, 3)
    assert paired_difference([0.95, 0.9], [0.9, 0.85]).low is None


def test_paired_difference_takes_out_what_seeds_share():
    # Differences 1, 2, 3: s = 1, s / sqrt(3) = 0.57735, t(2) = 4.30265
    interval = paired_difference([101, 52, 13], [100, 50, 10])
    assert interval.mean == 2
    assert interval.high - interval.mean == pytest.approx(2.48414, abs=1e-5)
    assert unpaired_difference([101, 52, 13], [100, 50, 10]).high > 100


def test_pairs_need_equal_lengths():
    with pytest.raises(ValueError, match="3 values cannot be paired with 2"):
        paired_difference([1, 2, 3], [1, 2])


@given(
    st.lists(shares, min_size=2, max_size=9, unique=True),
    st.lists(shares, min_size=2, max_size=9, unique=True),
)
def test_unpaired_difference_is_scipys_welch(a, b):
    interval = unpaired_difference(a, b)
    expected = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-7)
    assert interval.n == min(len(a), len(b))


def test_folds_are_corrected_by_hand():
    # s^2 = 2.5, not 2.5 / 5 but 2.5 (1/5 + 1/4) = 1.125; t(4) = 2.77645
    interval = t_interval([1, 2, 3, 4, 5], folds=5)
    assert interval.mean == 3
    assert interval.high == pytest.approx(3 + 2.77645 * math.sqrt(1.125), abs=1e-4)
    assert interval.n == 5
    # Three of ten folds have run: differences 1, 2, 3, s^2 = 1; 1/3 + 1/9 = 4/9; t(2) = 4.30265
    interval = paired_difference([101, 52, 13], [100, 50, 10], folds=10)
    assert interval.mean == 2
    assert interval.high == pytest.approx(2 + 4.30265 * 2 / 3, abs=1e-4)


def test_unpaired_folds_are_corrected_by_hand():
    # Both s^2 = 1, both 1 x (1/3 + 1/2) = 5/6; Welch: 4 degrees of freedom, t(4) = 2.77645
    interval = unpaired_difference([4, 5, 6], [1, 2, 3], folds=3)
    assert interval.mean == 3
    assert interval.high == pytest.approx(3 + 2.77645 * math.sqrt(10 / 6), abs=1e-4)


def test_the_correction_covers_what_it_says_where_folds_correlate_as_it_assumes():
    """Nadeau and Bengio take the correlation of two folds to be n_test / n = 1 / k."""
    generator, k = np.random.default_rng(0), 5
    values = generator.normal(0, math.sqrt(1 - 1 / k), (2000, k))
    values += generator.normal(0, math.sqrt(1 / k), (2000, 1))
    hits = {
        folds: np.mean([abs(i.mean) <= i.high - i.mean for i in intervals])
        for folds in (None, k)
        if (intervals := [t_interval(row, folds=folds) for row in values])
    }
    assert hits[k] == pytest.approx(0.95, abs=0.015)
    assert hits[None] < 0.88


def test_crossed_interval_by_hand():
    # Seed means 1/2, 0 and image means 1/2, 0: variance 1/8 each. Residuals +-1/4: variance 1/4.
    # 1/8/2 + max(0, 1/8/2 - 1/4/4) = 1/16; t(1) = 12.70620
    interval = crossed_interval(np.array([[1, 0], [0, 0]]))
    assert interval.mean == 0.25
    assert interval.high == pytest.approx(0.25 + 12.70620 / 4, abs=1e-4)
    # Seeds agree, images do not: variance of 1, 0, -1 is 1; over three images 1/3.
    interval = crossed_interval(np.array([[1, 0, -1], [1, 0, -1]]))
    assert interval.high == pytest.approx(12.70620 * math.sqrt(1 / 3), abs=1e-4)


def test_crossed_interval_of_one_seed_is_none():
    assert crossed_interval(np.array([[1, 0, 0, 1]])) == Interval(0.5, None, None, 1)


@given(
    arrays(np.int8, st.tuples(st.integers(2, 6), st.integers(2, 12)), elements=st.integers(-1, 1))
)
def test_counting_images_never_narrows(table):
    over_seeds, over_both = t_interval(table.mean(axis=1)), crossed_interval(table)
    assert over_both.mean == pytest.approx(over_seeds.mean)
    if over_seeds.high is None or over_both.high is None:
        assert over_seeds.high is None  # no scatter over seeds: nothing to be narrower than
        return
    assert over_both.high >= over_seeds.high - 1e-12


def test_crossed_interval_covers_what_it_says():
    """In the crossed model itself, an interval over seeds alone misses the mean too often."""
    generator = np.random.default_rng(0)
    seeds, images, hits, hits_seeds = 5, 40, 0, 0
    for _ in range(600):
        table = (
            0.3
            + generator.normal(0, 0.02, (seeds, 1))
            + generator.normal(0, 0.4, (1, images))
            + generator.normal(0, 0.3, (seeds, images))
        )
        both, alone = crossed_interval(table), t_interval(table.mean(axis=1))
        hits += both.low <= 0.3 <= both.high
        hits_seeds += alone.low <= 0.3 <= alone.high
    assert hits / 600 > 0.94
    assert hits_seeds / 600 < 0.85


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 1, 1, 1, 1], 2 / 32),
        ([1, 2, 4], 2 / 8),
        ([-1, -2, -4], 2 / 8),
        ([3, -1], 1.0),  # sums 2, 4, -4, -2: none is closer to 0 than the observed 2
        ([4, 2, -1], 4 / 8),  # 5; 7, 5, 3, 1 and their opposites
        ([0.1, 0.1, 0.1, -0.3], 1.0),
        ([0, 0], 1.0),
    ],
)
def test_sign_flip_by_hand(differences, p):
    assert sign_flip_p(differences) == p


@given(st.lists(shares.map(lambda x: x - 0.4), min_size=2, max_size=9))
def test_sign_flip_is_scipys_exact_permutation_test(differences):
    expected = scipy.stats.permutation_test(
        (np.array(differences),),
        # Rounded, as sums that differ in the last bit are one sum.
        lambda x, axis: np.round(np.abs(x.sum(axis=axis)), 9),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
        alternative="greater",
    )
    assert sign_flip_p(differences) == pytest.approx(expected.pvalue)


def test_above_sixteen_differences_are_drawn_and_repeatable():
    differences = np.random.default_rng(1).normal(0.3, 1, EXHAUSTIVE_UP_TO + 4)
    p = sign_flip_p(differences)
    assert p == sign_flip_p(differences)
    flips = 1 - 2 * ((np.arange(2**20)[:, None] >> np.arange(20)) & 1).astype(np.int8)
    exact = (np.abs(flips @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert p == pytest.approx(exact, abs=0.005)
    assert sign_flip_p(np.ones(40)) == smallest_p(40) == 1e-5


@pytest.mark.parametrize("n", [1, 2, 5, 10, EXHAUSTIVE_UP_TO])
def test_smallest_p_is_reached_by_equal_signs(n):
    assert smallest_p(n) == sign_flip_p(np.ones(n)) == 2 / 2**n


def test_five_seeds_can_say_nothing():
    assert smallest_p(5) == 0.0625


def test_holm_by_hand():
    # 0.01 x 3; 0.03 x 2; 0.04 x 1, raised to the one before
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.4, 0.5]) == pytest.approx([0.8, 0.8])
    assert holm([]) == []


@given(st.lists(shares, max_size=12))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_order(pvalues):
    corrected = holm(pvalues)
    for raw, value in zip(pvalues, corrected, strict=True):
        assert raw <= value <= 1
        assert value <= max(1e-12, min(1, len(pvalues) * max(pvalues)))
    assert [c for _, c in sorted(zip(pvalues, corrected, strict=True))] == sorted(corrected)
