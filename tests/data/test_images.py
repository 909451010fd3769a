"""A data set refuses what cannot be trained on; its digest sees everything."""

import dataclasses

import numpy as np
import pytest

from warmstart.data.images import Images, Split, check_size
from warmstart.errors import ConfigError


def split(labels, *, start=0):
    pixels = np.arange(start, start + 4 * len(labels), dtype=np.uint8).reshape(-1, 2, 2, 1)
    return Split.of(pixels, np.array(labels), tuple(f"{start}/{row}" for row in range(len(labels))))


def images(classes=("a", "b"), train=(0, 0, 1, 1), val=(0, 1)):
    return Images(classes, split(train), split(val, start=100), split([1, 0], start=200))


def test_a_subset_keeps_its_places_in_the_whole_split():
    whole = images()
    part = whole.per_class(1, seed=0)
    assert np.array_equal(part.train.pixels, whole.train.pixels[part.train.positions])
    assert part.train.ids == tuple(whole.train.ids[row] for row in part.train.positions)
    assert part.val is whole.val
    assert whole.per_class(None, seed=0) is whole


def test_shape_is_taken_from_the_pixels():
    assert (images().size, images().channels) == ((2, 2), 1)


def test_the_digest_sees_pixels_labels_ids_and_classes():
    whole = images()
    assert whole.digest == images().digest
    train = whole.train
    changed = train.pixels.copy()
    changed[3, 1, 1, 0] += 1
    others = [
        dataclasses.replace(whole, classes=("a", "c")),
        dataclasses.replace(whole, train=dataclasses.replace(train, pixels=changed)),
        dataclasses.replace(whole, train=dataclasses.replace(train, labels=train.labels[::-1])),
        dataclasses.replace(whole, train=dataclasses.replace(train, ids=("x", *train.ids[1:]))),
    ]
    assert len({whole.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ("a",), "train": (0, 0)}, "one class only"),
        ({"val": ()}, "val split is empty"),
        ({"train": (0, 0)}, "no image of the class.* b"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        images(**arguments)


@pytest.mark.parametrize("size", [0, -8, 8.0, True, "8"])
def test_a_size_is_a_positive_whole_number(size):
    with pytest.raises(ConfigError, match=r"data\.size is .*whole number of pixels"):
        check_size(size)
