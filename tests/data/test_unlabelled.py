"""Folders of images without labels, in every arrangement, and what is wrong with some."""

import numpy as np
import pytest
from samples import write_folder, write_image

from warmstart.data.unlabelled import unlabelled_folder
from warmstart.errors import ConfigError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "images"


@pytest.fixture
def load(root, tmp_path):
    def load(**options):
        return unlabelled_folder(root, store=tmp_path / "store", **{"size": 6, **options})

    return load


def test_flat_and_nested_images_are_read_in_the_order_of_their_names(root, load):
    written = write_folder(root, {".": 2, "b/deep/er": 1, "train/a": 2})
    write_image(root / ".hidden.png", np.zeros((6, 6, 3), np.uint8))
    write_image(root / ".cache" / "inner" / "x.png", np.zeros((6, 6, 3), np.uint8))
    (root / "notes.txt").write_text("no image")
    (root / "folder.png").mkdir()
    pixels, _ = load()
    assert pixels.shape == (5, 6, 6, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.stack(list(written.values())))


def test_images_are_brought_to_the_size(root, load):
    write_folder(root, {"a": 1}, shape=(20, 30))
    write_folder(root, {"b": 1}, shape=(10, 10))
    assert load(size=8)[0].shape == (2, 8, 8, 1)  # one channel, since all are gray
    write_image(root / "colour.png", np.zeros((5, 5, 3), np.uint8))
    assert load(size=8)[0].shape == (3, 8, 8, 3)


def test_a_second_load_maps_what_the_first_decoded(root, load, tmp_path):
    write_folder(root, {".": 3})
    pixels, digest = load()
    (stored,) = (tmp_path / "store").rglob("*.npy")
    time = stored.stat().st_mtime_ns
    again, same = load()
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    assert np.array_equal(again, pixels)
    assert same == digest
    assert [path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.npy")] == [time]


def test_the_digest_is_that_of_the_pixels(root, load, tmp_path):
    write_folder(root, {".": 3})
    _, digest = load()
    root.rename(tmp_path / "moved")
    moved = unlabelled_folder(tmp_path / "moved", store=tmp_path / "other", size=6)
    assert moved[1] == digest
    write_image(tmp_path / "moved" / "00.png", np.zeros((6, 6, 3), np.uint8))
    changed = unlabelled_folder(tmp_path / "moved", store=tmp_path / "other", size=6)
    assert changed[1] != digest


def test_a_damaged_image_is_named(root, load, tmp_path):
    write_folder(root, {"a": 3})
    (root / "a" / "01.png").write_bytes((root / "a" / "01.png").read_bytes()[:60])
    (root / "b.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"2 of 4 images in .* the first is a/01\.png \(.*remove"):
        load()
    assert not list((tmp_path / "store").rglob("*.npy"))


def test_nothing_to_read(root, load):
    with pytest.raises(ConfigError, match=r"init\.unlabelled is '.*images'.*no such folder"):
        load()
    root.mkdir()
    (root / "notes.txt").write_text("no image")
    with pytest.raises(ConfigError, match=r"init\.unlabelled is '.*images'.*no images \(.*\.png"):
        load()
