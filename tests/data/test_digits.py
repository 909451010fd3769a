"""The digits are scikit-learn's, cut into three fixed parts."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from warmstart.data.digits import digits, scale_counts


def test_the_pixels_and_labels_are_those_of_scikit_learn():
    bunch = load_digits()
    seen = []
    for split in digits().splits.values():
        rows = [int(name) for name in split.ids]
        assert np.array_equal(split.pixels[..., 0], np.rint(bunch.images[rows] * 255 / 16))
        assert np.array_equal(split.labels, bunch.target[rows])
        seen += rows
    assert sorted(seen) == list(range(1797))


def test_counts_become_shades():
    # 8 of 16 is 127.5, which rounds to the even 128; 1 of 16 is 15.94.
    assert scale_counts(np.array([0, 1, 8, 16])).tolist() == [0, 16, 128, 255]


def test_every_class_has_enough_images_in_every_part():
    data = digits()
    counts = {name: np.bincount(split.labels) for name, split in data.splits.items()}
    assert data.classes == tuple("0123456789")
    assert counts["train"].min() >= 80
    assert counts["val"].min() >= 34
    assert counts["test"].min() >= 52
    assert [counts[name].sum() for name in ("train", "val", "test")] == [899, 359, 539]


def test_the_split_is_always_the_same():
    assert digits().digest == digits().digest
    assert digits().test.ids[:5] == ("5", "7", "8", "9", "11")


@pytest.mark.parametrize("size", [4, 16])
def test_scans_are_resized_as_a_whole(size):
    small, large = digits().train, digits(size=size).train
    assert large.pixels.shape == (899, size, size, 1)
    assert large.pixels.mean() == pytest.approx(small.pixels.mean(), rel=0.03)
