"""The digits are scikit-learn's, cut into three fixed parts."""

import numpy as np
import pytest
from loading import load
from sklearn.datasets import load_digits

from warmstart.data.sources.digits import digits, scale_counts


@pytest.fixture
def cut(tmp_path):
    """The digits as conf/data/digits.yaml cuts them."""

    def cut(**keys):
        return load(digits(), tmp_path, val_fraction=0.2, test_fraction=0.3, **keys).images

    return cut


def test_the_pixels_and_labels_are_those_of_scikit_learn(cut, tmp_path):
    bunch = load_digits()
    seen = []
    images = cut()
    for split in (images.train, images.val, images.test.open(tmp_path / "log")):
        rows = [int(name) for name in split.ids]
        assert np.array_equal(split.pixels[..., 0], np.rint(bunch.images[rows] * 255 / 16))
        assert np.array_equal(split.labels, bunch.target[rows])
        seen += rows
    assert sorted(seen) == list(range(1797))


def test_counts_become_shades():
    # 8 of 16 is 127.5, which rounds to the even 128; 1 of 16 is 15.94.
    assert scale_counts(np.array([0, 1, 8, 16])).tolist() == [0, 16, 128, 255]


def test_every_class_has_enough_images_in_every_part(cut):
    data = cut()
    counts = {name: np.bincount(split.labels) for name, split in data.splits.items()}
    assert data.classes == tuple("0123456789")
    assert counts["train"].min() >= 80
    assert counts["val"].min() >= 34
    assert counts["test"].min() >= 52
    assert [counts[name].sum() for name in ("train", "val", "test")] == [899, 359, 539]


def test_the_split_is_always_the_same(cut):
    assert cut().digest == cut().digest
    assert cut().test.ids[:5] == ("5", "7", "8", "9", "11")


@pytest.mark.parametrize("size", [4, 16])
def test_scans_are_resized_as_a_whole(cut, size):
    small, large = cut().train, cut(size=size).train
    assert large.pixels.shape == (899, size, size, 1)
    assert large.pixels.mean() == pytest.approx(small.pixels.mean(), rel=0.03)
