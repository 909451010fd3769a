"""Splits are partitions with an even mix of classes; subsets are nested."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.subsets import nested_subset, stratified_split
from warmstart.errors import ConfigError

labels_of_three = st.lists(st.integers(0, 2), min_size=1, max_size=60).map(np.array)
seeds = st.integers(0, 2**31)
fractions = st.lists(st.floats(0.05, 0.45), min_size=1, max_size=2)


@given(labels_of_three, fractions, seeds)
def test_the_parts_of_a_split_hold_every_index_once(labels, shares, seed):
    parts = stratified_split(labels, shares, seed=seed)
    assert len(parts) == len(shares) + 1
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


@given(labels_of_three, fractions, seeds)
def test_every_class_is_cut_at_its_own_share(labels, shares, seed):
    parts = stratified_split(labels, shares, seed=seed)
    for label in range(3):
        total = int((labels == label).sum())
        for part, share in zip(parts, shares, strict=False):
            # Both edges of a part are rounded to whole images: each is off by half at most.
            assert abs(int((labels[part] == label).sum()) - share * total) <= 1


@given(
    st.lists(st.integers(2, 12), min_size=2, max_size=4),
    st.data(),
    seeds,
)
def test_subsets_are_nested_and_balanced(counts, data, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    large = data.draw(st.integers(2, min(counts)))
    small = data.draw(st.integers(1, large - 1))
    classes = [str(label) for label in range(len(counts))]
    inner = nested_subset(labels, small, classes=classes, seed=seed)
    outer = nested_subset(labels, large, classes=classes, seed=seed)
    assert set(inner.tolist()) < set(outer.tolist())
    assert np.bincount(labels[inner]).tolist() == [small] * len(counts)
    assert np.bincount(labels[outer]).tolist() == [large] * len(counts)
    assert inner.tolist() == sorted(inner.tolist())


def test_another_seed_takes_other_images():
    labels = np.repeat([0, 1], 50)
    chosen = [nested_subset(labels, 10, classes="ab", seed=seed).tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    cuts = [stratified_split(labels, (0.2,), seed=seed)[0].tolist() for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]


def test_one_class_does_not_change_anothers_choice():
    few = np.array([0] * 20 + [1] * 10)
    many = np.array([0] * 20 + [1] * 30)
    taken = [nested_subset(labels, 5, classes="ab", seed=3) for labels in (few, many)]
    assert taken[0][taken[0] < 20].tolist() == taken[1][taken[1] < 20].tolist()


def test_more_than_the_smallest_class_is_refused():
    with pytest.raises(ConfigError, match=r"per_class is 4, but class 'b' has only 3 .* at most 3"):
        nested_subset(np.array([0] * 5 + [1] * 3), 4, classes=["a", "b"], seed=0)


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "2"])
def test_a_count_must_be_a_positive_whole_number(count):
    with pytest.raises(ConfigError, match="at least 1"):
        nested_subset(np.array([0, 1]), count, classes=["a", "b"], seed=0)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.0,), (-0.1,), (1.0,)])
def test_fractions_must_leave_something(shares):
    with pytest.raises(ConfigError, match="must leave something for training"):
        stratified_split(np.array([0, 1]), shares, seed=0)
