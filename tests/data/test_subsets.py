"""Parts are partitions with an even mix of classes, groups stay whole, subsets are nested."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warmstart.data.subsets import equal_folds, nested_share, nested_subset, stratified_split
from warmstart.errors import ConfigError

labels_of_three = st.lists(st.integers(0, 2), min_size=1, max_size=60).map(np.array)
seeds = st.integers(0, 2**31)
fractions = st.lists(st.floats(0.05, 0.45), min_size=1, max_size=2)
grouped = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from("abcdefgh")), min_size=1, max_size=60
).filter(lambda rows: len({group for _, group in rows}) >= 5)


@given(labels_of_three, fractions, seeds)
def test_the_parts_of_a_split_hold_every_index_once(labels, shares, seed):
    parts = stratified_split(labels, shares, seed=seed)
    assert len(parts) == len(shares) + 1
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


@given(labels_of_three, fractions, seeds)
@example(np.array([0, 1, 2, 2, 2]), [0.3125], 0)
def test_every_class_is_cut_at_its_own_share(labels, shares, seed):
    parts = stratified_split(labels, shares, seed=seed)
    for label in range(3):
        total = int((labels == label).sum())
        counts = [int((labels[part] == label).sum()) for part in parts]
        if total * min(shares) < 1:
            # It takes turns with other small classes, and may pay for some that have no image left.
            assert counts[-1] >= min(1, total)
            continue
        for count, share in zip(counts, shares, strict=False):
            # Both edges of a part are rounded to whole images: each is off by half at most.
            assert abs(count - share * total) <= 1


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
    with pytest.raises(ConfigError, match=r"must leave something .*data\.val_fraction"):
        stratified_split(np.array([0, 1]), shares, seed=0)


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=4),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    seeds,
)
def test_shares_are_nested_and_rounded_within_each_class(counts, shares, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    inner, outer = (nested_share(labels, share, seed=seed) for share in shares)
    assert set(inner.tolist()) <= set(outer.tolist())
    expected = [max(1, round(shares[1] * count)) for count in counts]
    assert np.bincount(labels[outer]).tolist() == expected
    assert outer.tolist() == sorted(outer.tolist())


def test_a_share_and_a_count_of_the_same_size_are_the_same_images():
    labels = np.repeat([0, 1, 2], 20)
    by_share = nested_share(labels, 0.25, seed=7)
    by_count = nested_subset(labels, 5, classes="abc", seed=7)
    assert by_share.tolist() == by_count.tolist()
    assert nested_share(labels, 1, seed=7).tolist() == list(range(60))


@pytest.mark.parametrize("share", [0, -0.1, 1.1, True, "0.5", None])
def test_a_share_lies_between_none_and_all(share):
    with pytest.raises(ConfigError, match=r"data\.fraction is .* in \(0, 1\]"):
        nested_share(np.array([0, 1]), share, seed=0)


def test_the_parts_of_a_seed_never_change():
    # As version 0.1.0 cut them: results of existing data sets must not move.
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0])
    parts = stratified_split(labels, (0.2, 0.3), seed=0)
    assert [part.tolist() for part in parts] == [[3, 10], [0, 2, 8, 9], [1, 4, 5, 6, 7, 11]]


@given(grouped, fractions, seeds)
def test_a_group_is_in_one_part_and_no_part_is_empty(rows, shares, seed):
    labels, groups = np.array([label for label, _ in rows]), [group for _, group in rows]
    parts = stratified_split(labels, shares, seed=seed, groups=groups)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    owners = [{groups[row] for row in part} for part in parts]
    assert sum(map(len, owners)) == len(set(groups))
    assert all(owners)


@given(grouped, fractions, seeds)
def test_the_order_of_the_images_does_not_move_a_group(rows, shares, seed):
    def owners(order):
        labels, groups = np.array([rows[i][0] for i in order]), [rows[i][1] for i in order]
        parts = stratified_split(labels, shares, seed=seed, groups=groups)
        return [{groups[row] for row in part} for part in parts]

    order = np.arange(len(rows))
    assert owners(order) == owners(np.random.default_rng(seed).permutation(order))


@given(st.integers(10, 40), st.integers(1, 3), seeds)
def test_equal_groups_meet_the_shares_to_one_group(count, size, seed):
    labels, groups = np.zeros(count * size, int), np.repeat(np.arange(count), size).astype(str)
    parts = stratified_split(labels, (0.1, 0.25), seed=seed, groups=groups)
    for part, share in zip(parts, (0.1, 0.25, 0.65), strict=True):
        assert abs(len(part) - share * count * size) <= size


def test_the_largest_groups_go_where_the_need_is_greatest():
    # Of 10 images, 0.3 and 0.7 are wanted. The group of 5 goes to the 0.7, which then needs 2 and
    # the other part 3: there goes the group of 3; the group of 2 fills the 0.7.
    groups = list("aaaaabbbcc")
    parts = stratified_split(np.zeros(10, int), (0.3,), seed=0, groups=groups)
    assert [part.tolist() for part in parts] == [[5, 6, 7], [0, 1, 2, 3, 4, 8, 9]]


def test_groups_keep_the_mix_of_classes():
    # Eight patients of class 0 and eight of class 1: a quarter is two of each.
    labels, groups = np.repeat([0, 1], 16), np.repeat(np.arange(16), 2).astype(str)
    part, rest = stratified_split(labels, (0.25,), seed=5, groups=groups)
    assert np.bincount(labels[part]).tolist() == [4, 4]
    assert np.bincount(labels[rest]).tolist() == [12, 12]


def test_another_seed_gives_other_groups():
    labels, groups = np.zeros(40, int), np.repeat(np.arange(20), 2).astype(str)
    cuts = [
        stratified_split(labels, (0.3,), seed=seed, groups=groups)[0].tolist() for seed in (0, 0, 1)
    ]
    assert cuts[0] == cuts[1] != cuts[2]


@given(labels_of_three, st.integers(2, 6), seeds)
def test_folds_are_equal_to_one_image(labels, count, seed):
    if len(labels) < count:
        return
    parts = equal_folds(labels, count, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    sizes = np.array([np.bincount(labels[part], minlength=3) for part in parts])
    assert (np.ptp(sizes, axis=0) <= 1).all()
    assert np.ptp(sizes.sum(axis=1)) <= 1


@given(grouped, st.integers(2, 5), seeds)
def test_folds_keep_groups_whole(rows, count, seed):
    labels, groups = np.array([label for label, _ in rows]), [group for _, group in rows]
    parts = equal_folds(labels, count, seed=seed, groups=groups)
    assert sum(len({groups[row] for row in part}) for part in parts) == len(set(groups))
    assert min(map(len, parts)) > 0


def test_folds_of_equal_groups_are_equal():
    labels, groups = np.tile([0, 1], 20), np.repeat(np.arange(20), 2).astype(str)
    parts = equal_folds(labels, 5, seed=2, groups=groups)
    assert [np.bincount(labels[part]).tolist() for part in parts] == [[4, 4]] * 5


def test_too_few_groups_or_images_are_refused():
    labels = np.array([0, 1, 0, 1])
    with pytest.raises(ConfigError, match=r"form 2 group\(s\) .* 3 parts .* finer"):
        stratified_split(labels, (0.2, 0.2), seed=0, groups=["a", "a", "b", "b"])
    with pytest.raises(ConfigError, match=r"data\.folds is 5, but there are only 4 images"):
        equal_folds(labels, 5, seed=0)


def test_small_classes_take_turns():
    """300 classes of 5: none has half an image for val, but together they have 150."""
    labels = np.repeat(np.arange(300), 5)
    val, test, train = stratified_split(labels, (0.1, 0.2), seed=0)
    assert [len(part) for part in (val, test, train)] == [150, 300, 1050]
    assert np.bincount(labels[test], minlength=300).tolist() == [1] * 300
    assert set(np.bincount(labels[val], minlength=300)) == {0, 1}
    assert np.bincount(labels[train], minlength=300).min() >= 3


def test_turns_by_hand():
    # Owed to val 0.3 + 0.2 = 0.5: the second class pays one; to test 0.6: the first pays one.
    val, test, train = stratified_split(np.array([0, 0, 0, 1, 1]), (0.1, 0.2), seed=0)
    labels = np.array([0, 0, 0, 1, 1])
    assert labels[val].tolist() == [1]
    assert labels[test].tolist() == [0]
    assert labels[train].tolist() == [0, 0, 1]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=80), st.integers(0, 5))
def test_every_class_keeps_an_image_in_the_last_part(labels, seed):
    labels = np.array(labels)
    *_, train = stratified_split(labels, (0.1, 0.2), seed=seed)
    assert set(labels[train]) == set(labels)
