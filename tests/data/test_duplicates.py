"""Equal and similar images are found across splits, and left out where they are not evaluated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.duplicates import conflicts, exact, near, resolve
from warmstart.data.preparation import Preparation
from warmstart.errors import ConfigError

PARTS = {"train": np.array([0, 1, 2, 3]), "val": np.array([4, 5]), "test": np.array([6, 7])}


def digests(*names):
    return np.array([[ord(name)] * 16 for name in names], np.uint8)


def lists(parts):
    return {split: rows.tolist() for split, rows in parts.items()}


def test_equal_digests_are_one_set():
    found = exact(digests(*"cabacba"), np.arange(7))
    assert [rows.tolist() for rows in found] == [[0, 4], [1, 3, 6], [2, 5]]
    assert exact(digests(*"abc"), np.arange(3)) == []


def test_digests_that_differ_in_one_byte_are_others():
    table = digests(*"aaa")
    table[1, 15] += 1
    assert [rows.tolist() for rows in exact(table, np.arange(3))] == [[0, 2]]


def test_only_the_asked_rows_are_compared():
    # Damaged images have zeros, all of them.
    assert [rows.tolist() for rows in exact(digests(*"aaaa"), np.array([1, 3]))] == [[1, 3]]
    assert exact(digests(*"aa"), np.array([], np.int64)) == []


@given(st.lists(st.sampled_from("abcdef"), max_size=40))
def test_sets_hold_all_equal_images_and_no_others(names):
    table = digests(*names).reshape(-1, 16)
    expected = [[i for i, other in enumerate(names) if other == name] for name in set(names)]
    found = [rows.tolist() for rows in exact(table, np.arange(len(names)))]
    assert found == sorted(rows for rows in expected if len(rows) > 1)


def test_sets_with_two_labels_contradict():
    groups = [np.array([0, 2]), np.array([1, 3, 4])]
    assert conflicts(groups, np.array([0, 1, 0, 1, 1])) == []
    assert [rows.tolist() for rows in conflicts(groups, np.array([0, 1, 0, 1, 2]))] == [[1, 3, 4]]


def similar(hashes, *, hashed=None, distance=4, **options):
    hashed = np.ones(len(hashes), bool) if hashed is None else np.array(hashed)
    return near(np.array(hashes, np.uint64), hashed, PARTS, distance=distance, **options)


FAR = [0xFF << 8 * place for place in range(8)]  # each 16 bits away from the others, 8 from 0


def test_pairs_of_different_splits_are_listed_by_distance():
    hashes = [*FAR]
    hashes[0] = hashes[6] ^ 0b111  # train like test, 3 bits
    hashes[4] = hashes[2] ^ 0b1  # val like train, 1 bit
    hashes[7] = hashes[5] ^ 0b1111  # test like val, 4 bits
    hashes[3] = hashes[1]  # within train
    assert similar(hashes) == [(2, 4, 1), (0, 6, 3), (5, 7, 4)]
    assert similar(hashes, distance=3) == [(2, 4, 1), (0, 6, 3)]


def test_each_image_gets_its_closest_of_each_split():
    # Both images of test are like all of train; 0 and 1 are the closest of 6 and 7.
    hashes = [0b0, 0b1111, 0b1, 0b0111, *FAR[4:6], 0b0, 0b1111]
    assert similar(hashes) == [(0, 6, 0), (1, 7, 0), (2, 6, 1), (3, 7, 1)]


def test_images_without_a_hash_are_like_none():
    assert similar([0] * 8, hashed=[False] * 4 + [True] * 4) == [
        (4, 6, 0),
        (4, 7, 0),
        (5, 6, 0),
    ]
    assert similar([0] * 8, hashed=[False] * 8) == []


def test_equal_images_are_not_listed_again():
    hashes = [*FAR]
    hashes[0] = hashes[4] = hashes[6]
    assert similar(hashes) == [(0, 4, 0), (0, 6, 0), (4, 6, 0)]
    assert similar(hashes, exact=[np.array([0, 6])]) == [(0, 4, 0), (4, 6, 0)]


@given(st.lists(st.integers(0, 2**10 - 1), min_size=3, max_size=40), st.integers(0, 4))
def test_near_finds_every_image_that_looks_like_one_of_another_split(hashes, distance):
    third = len(hashes) // 3
    rows = np.arange(len(hashes))
    parts = {"train": rows[2 * third :], "val": rows[:third], "test": rows[third : 2 * third]}
    found = near(np.array(hashes, np.uint64), np.ones(len(hashes), bool), parts, distance=distance)
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        table = {
            (a, b): (hashes[a] ^ hashes[b]).bit_count()
            for a in parts[first].tolist()
            for b in parts[second].tolist()
        }
        here = {(a, b): bits for a, b, bits in found if (a, b) in table}
        assert all(table[pair] == bits for pair, bits in here.items())
        for side in (0, 1):
            like = {pair[side] for pair, bits in table.items() if bits <= distance}
            assert {pair[side] for pair in here} == like


def test_blocks_do_not_change_the_pairs(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 2**12, 90, dtype=np.uint64)
    parts = dict(zip(("train", "val", "test"), np.arange(90).reshape(3, 30), strict=True))
    whole = near(hashes, np.ones(90, bool), parts, distance=2)
    monkeypatch.setattr("warmstart.data.duplicates._BLOCK", 64)
    assert near(hashes, np.ones(90, bool), parts, distance=2) == whole != []


def test_what_is_evaluated_stays_and_what_trains_goes():
    groups = [np.array([0, 6]), np.array([1, 4, 7]), np.array([2, 3])]
    parts, dropped = resolve(PARTS, groups, [], Preparation())
    assert lists(parts) == {"train": [2, 3], "val": [5], "test": [6, 7]}
    assert dropped == {
        0: "equal to an image of test",
        1: "equal to an image of test",
        4: "equal to an image of test",
    }


def test_similar_images_go_only_when_asked():
    pairs = [(3, 5, 2), (5, 6, 4)]
    assert resolve(PARTS, [], pairs, Preparation())[1] == {}
    parts, dropped = resolve(PARTS, [], pairs, Preparation(near_duplicates="drop"))
    assert lists(parts) == {"train": [0, 1, 2], "val": [4], "test": [6, 7]}
    assert dropped == {3: "looks like an image of val", 5: "looks like an image of test"}


def test_the_reason_is_equality_where_both_hold():
    everything = Preparation(near_duplicates="drop")
    _, dropped = resolve(PARTS, [np.array([0, 4])], [(0, 6, 2)], everything)
    assert dropped == {0: "equal to an image of val"}


def test_duplicates_can_be_kept():
    parts, dropped = resolve(PARTS, [np.array([0, 6])], [], Preparation(duplicates="keep"))
    assert (lists(parts), dropped) == (lists(PARTS), {})


@given(st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=30, max_size=30))
def test_no_equal_images_are_left_in_two_splits(names):
    parts = {"train": np.arange(18), "val": np.arange(18, 24), "test": np.arange(24, 30)}
    groups = exact(digests(*names), np.arange(30))
    try:
        left, dropped = resolve(parts, groups, [], Preparation())
    except ConfigError:
        return
    assert left["test"].tolist() == parts["test"].tolist()
    assert sorted([*np.concatenate(list(left.values())), *dropped]) == list(range(30))
    owners = [{names[row] for row in rows} for rows in left.values()]
    assert sum(map(len, owners)) == len(set(names))


@pytest.mark.parametrize("near_duplicates", ["list", "drop"])
def test_a_split_that_would_be_empty_is_refused(near_duplicates):
    equal = [np.array([4, 6]), np.array([5, 7])]
    with pytest.raises(ConfigError, match=r"every image of val .* keep these with data\.duplic"):
        resolve(PARTS, equal, [], Preparation(near_duplicates=near_duplicates))
