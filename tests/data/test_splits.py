"""Given splits stay, absent ones are cut, folds take turns; what is doubtful is said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.preparation import Preparation
from warmstart.data.splits import cut, groups_of, warnings
from warmstart.data.subsets import stratified_split
from warmstart.errors import ConfigError

LABELS = np.tile([0, 1], 30)


def cut_of(splits, *, labels=LABELS, groups=None, unusable=(), **keys):
    usable = np.ones(len(labels), bool)
    usable[list(unusable)] = False
    preparation = Preparation(**keys)
    return cut(labels, splits, groups=groups, usable=usable, preparation=preparation)


def lists(parts):
    return {split: rows.tolist() for split, rows in parts.items()}


def given_as(*counts):
    """Return the splits of images that come one split after the other."""
    return [name for name, count in counts for _ in range(count)]


def test_where_nothing_is_given_val_and_test_are_cut_from_all():
    parts = cut_of([""] * 60, val_fraction=0.1, test_fraction=0.2)
    val, test, train = stratified_split(LABELS, [0.1, 0.2], seed=0)
    assert lists(parts) == {"train": train.tolist(), "val": val.tolist(), "test": test.tolist()}
    assert {split: len(rows) for split, rows in parts.items()} == {
        "train": 42,
        "val": 6,
        "test": 12,
    }


def test_given_splits_stay_and_fractions_do_nothing():
    splits = given_as(("test", 10), ("train", 40), ("val", 10))
    parts = cut_of(splits, val_fraction=0.4, test_fraction=0.4)
    assert lists(parts) == {
        "test": list(range(10)),
        "train": list(range(10, 50)),
        "val": list(range(50, 60)),
    }


@pytest.mark.parametrize(
    ("given_split", "absent", "fraction"), [("test", "val", 0.25), ("val", "test", 0.5)]
)
def test_the_absent_split_is_cut_from_train(given_split, absent, fraction):
    splits = given_as(("train", 40), (given_split, 20))
    parts = cut_of(splits, val_fraction=0.25, test_fraction=0.5)
    taken, left = stratified_split(LABELS[:40], [fraction], seed=0)
    assert parts[given_split].tolist() == list(range(40, 60))
    assert parts[absent].tolist() == taken.tolist()
    assert parts["train"].tolist() == left.tolist()


def test_rows_are_counted_in_all_images_not_in_train():
    splits = given_as(("test", 20), ("train", 40))
    parts = cut_of(splits, val_fraction=0.25)
    assert parts["val"].tolist() == [
        20 + row for row in stratified_split(LABELS[20:], [0.25], seed=0)[0]
    ]


def test_images_in_no_split_train_beside_given_ones():
    splits = given_as(("", 20), ("train", 20), ("val", 10), ("test", 10))
    assert cut_of(splits)["train"].tolist() == list(range(40))


def test_damaged_images_are_in_no_split():
    parts = cut_of(given_as(("train", 40), ("val", 10), ("test", 10)), unusable=[0, 45, 59])
    assert not {0, 45, 59} & set(np.concatenate(list(parts.values())).tolist())
    assert sum(map(len, parts.values())) == 57


def test_a_split_of_damaged_images_alone_is_not_cut_anew():
    parts = cut_of(given_as(("train", 58), ("test", 2)), unusable=[58, 59])
    assert len(parts["test"]) == 0


def test_every_image_is_tested_in_one_fold():
    tested, validated = [], []
    for fold in range(5):
        parts = cut_of([""] * 60, folds=5, fold=fold, val_fraction=0.25)
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(60))
        assert np.bincount(LABELS[parts["test"]]).tolist() == [6, 6]
        assert np.bincount(LABELS[parts["val"]]).tolist() == [6, 6]
        tested += parts["test"].tolist()
        validated += parts["val"].tolist()
    assert sorted(tested) == list(range(60))
    assert len(validated) == 60


def test_beside_a_given_test_split_the_folds_take_turns_as_val():
    splits = given_as(("train", 30), ("val", 10), ("", 10), ("test", 10))
    validated = []
    for fold in range(5):
        parts = cut_of(splits, folds=5, fold=fold)
        assert parts["test"].tolist() == list(range(50, 60))
        assert len(parts["train"]) == 40
        validated += parts["val"].tolist()
    assert sorted(validated) == list(range(50))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["", "train", "val", "test"]),
            st.sampled_from("abcdefghijkl"),
            st.booleans(),
        ),
        min_size=30,
        max_size=60,
    ),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_the_splits_are_a_partition_of_the_usable_images(rows, with_groups, seed):
    labels = np.array([row[0] for row in rows])
    splits, groups = [row[1] for row in rows], [row[2] for row in rows]
    usable = np.array([row[3] for row in rows])
    usable[:6] = True
    splits[:6], groups[:6] = ["train"] * 6, "abcdef"
    preparation = Preparation(split_seed=seed)
    parts = cut(
        labels,
        splits,
        groups=groups if with_groups else None,
        usable=usable,
        preparation=preparation,
    )
    assert list(parts) == ["train", "val", "test"]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == np.flatnonzero(usable).tolist()
    for part in parts.values():
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


@pytest.mark.parametrize("keys", [{}, {"folds": 4, "fold": 1}])
def test_what_is_cut_keeps_groups_whole(keys):
    groups = [f"patient{row // 3}" for row in range(60)]
    parts = cut_of([""] * 60, groups=groups, **keys)
    owners = [{groups[row] for row in rows} for rows in parts.values()]
    assert sum(map(len, owners)) == 20
    assert all(owners)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(ConfigError, match="no image to train on: all usable ones are in its val"):
        cut_of(given_as(("val", 30), ("test", 30)))


@pytest.mark.parametrize("keys", [{"val_fraction": 0.0}, {"test_fraction": 0.9}])
def test_fractions_must_leave_something(keys):
    with pytest.raises(ConfigError, match=r"data\.val_fraction or data\.test_fraction"):
        cut_of([""] * 60, **keys)


def test_groups_are_found_in_the_names():
    ids = ["cat/p12_03.png", "dog/p7_01.png"]
    assert groups_of(ids, None, None) is None
    assert groups_of(ids, ["x", "y"], None) == ("x", "y")
    assert groups_of(ids, ["x", "y"], r"/(p\d+)_") == ("p12", "p7")
    assert groups_of(ids, None, r"p\d+") == ("p12", "p7")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(p", r"group_pattern is '\(p', which is no regular expression \(missing \)"),
        (r"p(\d+)", r"finds nothing in the image 'dog/rex\.png'"),
        ("x*", r"finds nothing in the image 'cat/p12\.png'"),
        (r"cat/(p\d+)|dog", r"finds nothing in the image 'dog/rex\.png'"),
    ],
)
def test_a_pattern_must_name_the_group_of_every_image(pattern, message):
    with pytest.raises(ConfigError, match=message):
        groups_of(["cat/p12.png", "dog/rex.png"], None, pattern)


def said(*, labels=(0, 1, 0, 1, 0, 1), groups=None, conflicts=(), classes=("cat", "dog")):
    rows = np.arange(6).reshape(3, 2)
    parts = dict(zip(("train", "val", "test"), rows, strict=True))
    return warnings(classes, parts, labels=np.array(labels), groups=groups, conflicts=conflicts)


def test_sound_data_gives_no_warning():
    assert said(groups=list("aabbcc")) == ()


def test_classes_that_are_not_measured_are_named():
    assert said(labels=[0, 1, 0, 0, 1, 1]) == (
        "the val split has no image of the class 'dog': nothing is measured there on 1 of the 2 "
        "classes",
        "the test split has no image of the class 'cat': nothing is measured there on 1 of the 2 "
        "classes",
    )
    first, _ = said(classes=("cat", "dog", "eel"), labels=[0, 1, 0, 0, 1, 2])
    assert (
        "no image of the class 'dog' and 1 more: nothing is measured there on 2 of the 3" in first
    )


def test_groups_in_two_splits_are_named():
    assert said(groups=["a", "b", "b", "c", "a", "b"]) == (
        "1 group(s) have images in both train and val, for example 'b': results on val are better "
        "than on new groups",
        "2 group(s) have images in both train and test, for example 'a': results on test are "
        "better than on new groups",
        "1 group(s) have images in both val and test, for example 'b': results on test are better "
        "than on new groups",
    )


def test_equal_images_with_other_labels_are_counted():
    assert said(conflicts=[np.array([0, 1]), np.array([2, 3, 5])]) == (
        "5 images have an equal one with another label (2 sets of equal images): some of these "
        "labels are wrong",
    )
