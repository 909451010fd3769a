"""A data set refuses what cannot be trained on, and keeps its test split closed."""

import dataclasses

import numpy as np
import pytest

from warmstart.data.images import Images, Split, Vault, openings
from warmstart.errors import ConfigError


def split(labels, *, start=0):
    pixels = np.arange(start, start + 4 * len(labels), dtype=np.uint8).reshape(-1, 2, 2, 1)
    return Split.of(pixels, np.array(labels), tuple(f"{start}/{row}" for row in range(len(labels))))


def images(classes=("a", "b"), train=(0, 0, 1, 1), val=(0, 1), test=(1, 0)):
    closed = Vault(split(test, start=200))
    return Images(classes, split(train), split(val, start=100), closed)


def test_a_split_is_rows_of_all_images():
    pixels = np.arange(20, dtype=np.uint8).reshape(5, 2, 2, 1)
    part = Split(pixels, np.array([1, 3, 4]), np.array([0, 1, 0]), ("b", "d", "e"))
    assert (len(part), part.shape) == (3, (2, 2, 1))
    assert np.array_equal(part.pixels, pixels[[1, 3, 4]])
    assert np.array_equal(part.batch(np.array([2, 0])), pixels[[4, 1]])


def test_taking_keeps_the_rows_of_the_whole_set():
    pixels = np.arange(20, dtype=np.uint8).reshape(5, 2, 2, 1)
    part = Split(pixels, np.array([1, 3, 4]), np.array([0, 1, 0]), ("b", "d", "e")).take(
        np.array([2, 1])
    )
    assert part.rows.tolist() == [4, 3]
    assert part.labels.tolist() == [0, 1]
    assert part.ids == ("e", "d")
    assert np.array_equal(part.pixels, pixels[[4, 3]])


def test_a_subset_keeps_its_places_in_the_whole_set():
    whole = images()
    part = whole.subset(per_class=1, share=None, seed=0)
    assert np.array_equal(part.train.pixels, whole.train.pixels[part.train.rows])
    assert part.train.ids == tuple(whole.train.ids[row] for row in part.train.rows)
    assert np.bincount(part.train.labels).tolist() == [1, 1]
    assert (part.val, part.test) == (whole.val, whole.test)


def test_counts_and_shares_take_the_same_images():
    whole = images(train=[0, 1] * 10)
    by_count = whole.subset(per_class=4, share=None, seed=3)
    by_share = whole.subset(per_class=None, share=0.4, seed=3)
    assert by_count.train.ids == by_share.train.ids
    assert by_count.digest == by_share.digest


def test_no_subset_is_the_whole_set():
    whole = images()
    assert whole.subset(per_class=None, share=None, seed=0) is whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_class": 1, "share": 0.5}, r"per_class is 1 and data\.fraction 0\.5, but only one"),
        ({"per_class": 3, "share": None}, "class 'a' has only 2 training images"),
        ({"per_class": None, "share": 1.5}, r"data\.fraction is 1\.5"),
    ],
)
def test_impossible_subsets_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        images().subset(**arguments, seed=0)


def test_every_opening_of_the_test_split_is_written_down(tmp_path):
    log = tmp_path / "run" / "openings"
    whole = images()
    assert openings(log) == 0
    assert (len(whole.test), whole.test.labels.tolist()) == (2, [1, 0])
    assert whole.test.ids == ("200/0", "200/1")
    assert whole.test.rows.tolist() == [0, 1]
    assert openings(log) == 0
    assert whole.test.open(log).pixels[0, 0, 0, 0] == 200
    assert openings(log) == 1
    whole.test.open(log)
    assert openings(log) == 2


def test_a_closed_split_shows_no_pixels():
    public = {name for name in dir(images().test) if not name.startswith("_")}
    assert public == {"ids", "labels", "open", "rows"}


def test_shape_is_taken_from_the_pixels():
    assert (images().size, images().channels) == ((2, 2), 1)


def test_the_digest_sees_labels_ids_classes_and_splits():
    whole = images()
    assert whole.digest == images().digest
    train = whole.train
    others = [
        dataclasses.replace(whole, classes=("a", "c")),
        dataclasses.replace(whole, train=dataclasses.replace(train, labels=train.labels[::-1])),
        dataclasses.replace(whole, train=dataclasses.replace(train, ids=("x", *train.ids[1:]))),
        dataclasses.replace(whole, train=train.take(np.array([0, 1, 2]))),
        images(test=(0, 1)),
    ]
    assert len({whole.digest, *(other.digest for other in others)}) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": ()}, "train split is empty"),
        ({"val": ()}, "val split is empty"),
        ({"test": ()}, "test split is empty"),
        ({"train": (0, 0)}, r"train split has no image of the class\(es\) 'b'"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        images(**arguments)
