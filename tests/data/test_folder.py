"""Folders of images, in each of their arrangements, and what is wrong with some."""

import os

import numpy as np
import pytest
from PIL import Image
from samples import write_folder, write_image

from warmstart.data.folder import image_folder
from warmstart.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    """Load ``tmp_path/data`` with a store beside it."""

    def load(**options):
        return image_folder(root=tmp_path / "data", store=tmp_path / "store", **options)

    return load


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def ids(split):
    return set(split.ids)


def test_three_splits_are_read_as_they_are(root, load):
    written = write_folder(root, {"train/b": 3, "train/a": 2, "val/a": 1, "val/b": 1})
    written |= write_folder(root, {"test/a": 2, "test/b": 1}, seed=1)
    data = load()
    assert data.classes == ("a", "b")
    assert data.train.ids == tuple(f"train/{name}.png" for name in ("a/00", "a/01")) + tuple(
        f"train/b/{row:02d}.png" for row in range(3)
    )
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    for split in data.splits.values():
        for pixels, name in zip(split.pixels, split.ids, strict=True):
            assert np.array_equal(pixels, written[name])


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_has_three_names(root, load, name):
    write_folder(
        root, {f"{split}/{label}": 2 for split in ("train", name, "test") for label in "ab"}
    )
    assert ids(load().val) == {f"{name}/{label}/0{row}.png" for label in "ab" for row in range(2)}


def test_a_missing_val_is_cut_from_train(root, load):
    write_folder(root, {"train/a": 10, "train/b": 20, "test/a": 2, "test/b": 2})
    data = load(val_fraction=0.2)
    assert np.bincount(data.val.labels).tolist() == [2, 4]
    assert np.bincount(data.train.labels).tolist() == [8, 16]
    assert ids(data.test) == {f"test/{label}/0{row}.png" for label in "ab" for row in range(2)}
    assert not ids(data.val) & ids(data.train)


def test_a_missing_test_is_cut_from_train(root, load):
    write_folder(root, {"train/a": 10, "train/b": 20, "val/a": 2, "val/b": 2})
    data = load(test_fraction=0.3)
    assert np.bincount(data.test.labels).tolist() == [3, 6]
    assert np.bincount(data.train.labels).tolist() == [7, 14]
    assert len(data.val) == 4


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_one_folder_is_cut_in_three_by_seed(root, load, prefix):
    written = write_folder(root, {f"{prefix}a": 10, f"{prefix}b": 20})
    data = load(val_fraction=0.1, test_fraction=0.2)
    counts = [np.bincount(split.labels).tolist() for split in data.splits.values()]
    assert counts == [[7, 14], [1, 2], [2, 4]]
    assert sorted(name for split in data.splits.values() for name in split.ids) == sorted(written)
    assert load().test.ids == data.test.ids
    assert load(split_seed=1).test.ids != data.test.ids


def test_a_class_may_be_called_train(root, load):
    write_folder(root, {"car": 10, "train": 10})
    assert load().classes == ("car", "train")


def test_hidden_and_foreign_files_are_left_out(root, load):
    written = write_folder(root, {"a": 10, "b": 10, "a/inner": 2})
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / ".hidden.png").write_text("no image")
    (root / ".cache").mkdir()
    (root / "a" / "99.PNG").write_bytes((root / "a" / "00.png").read_bytes())
    data = load()
    found = {name for split in data.splits.values() for name in split.ids}
    assert found == set(written) | {"a/99.PNG"}


def test_gray_files_make_gray_images(root, load):
    write_folder(root, {"a": 10, "b": 10}, shape=(5, 5))
    assert load().channels == 1


def test_one_coloured_file_makes_all_coloured(root, load):
    written = write_folder(root, {"a": 10, "b": 10}, shape=(5, 5))
    write_image(root / "b" / "colour.png", np.zeros((5, 5, 3), np.uint8))
    data = load()
    assert data.channels == 3
    name = data.train.ids[0]
    assert np.array_equal(data.train.pixels[0], np.stack([written[name]] * 3, axis=2))


def test_a_second_load_maps_what_the_first_decoded(root, load, tmp_path):
    write_folder(root, {"a": 10, "b": 10})
    first = load()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.npy")}
    again = load()
    assert isinstance(again.train.pixels, np.memmap)
    assert again.digest == first.digest
    # Neither written again nor joined by others.
    assert len(files) == 3
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.npy")}
    assert now == files


@pytest.mark.parametrize("change", ["content", "time", "new", "size"])
def test_a_change_is_seen(root, load, change):
    write_folder(root, {"a": 10, "b": 10})
    before = load()
    path = root / "a" / "00.png"
    if change == "content":
        write_image(path, np.zeros((6, 6, 3), np.uint8))
    elif change == "time":
        status = path.stat()
        Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "new":
        write_image(root / "a" / "new.png", np.zeros((6, 6, 3), np.uint8))
    after = load(size=4) if change == "size" else load()
    assert after.digest != before.digest


def test_images_of_the_right_size_are_untouched(root, load):
    written = write_folder(root, {"a": 10, "b": 10}, shape=(8, 8, 3))
    write_image(root / "a" / "large.png", np.zeros((20, 30, 3), np.uint8))
    data = load(size=8)
    for split in data.splits.values():
        for pixels, name in zip(split.pixels, split.ids, strict=True):
            assert np.array_equal(pixels, written.get(name, np.zeros((8, 8, 3))))


def test_different_sizes_need_a_size(root, load):
    write_folder(root, {"a": 10, "b": 10}, shape=(6, 7, 3))
    write_image(root / "a" / "large.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(
        ConfigError, match=r"2 different sizes, such as 7x6 and 30x20.*data\.size=6"
    ):
        load()
    assert load(size=10).size == (10, 10)


def test_bad_files_are_counted_and_the_first_is_named(root, load):
    write_folder(root, {"a": 10, "b": 10}, shape=(64, 64, 3), suffix=".jpg")
    cut = root / "a" / "03.jpg"
    cut.write_bytes(cut.read_bytes()[:900])
    (root / "a" / "07.jpg").write_bytes(b"")
    (root / "b" / "05.jpg").write_text("text")
    with pytest.raises(ConfigError, match=r"3 of 20 images in .* cannot be read") as caught:
        load()
    assert "the first is a/03.jpg (image file is truncated" in str(caught.value)
    assert str(caught.value).endswith("replace or remove them")
    for path in (cut, root / "a" / "07.jpg", root / "b" / "05.jpg"):
        path.unlink()
    assert sum(len(split) for split in load().splits.values()) == 17


def test_all_files_bad(root, load):
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    with pytest.raises(ConfigError, match=r"3 of 3 images .* a/1.png \(the file is empty\)"):
        load()


def test_a_link_to_nowhere_is_a_bad_file(root, load):
    write_folder(root, {"a": 10, "b": 10})
    (root / "b" / "link.png").symlink_to(root / "gone.png")
    with pytest.raises(ConfigError, match=r"1 of 21 images .* b/link.png \(.*No such file"):
        load()


def nothing(root):
    root.mkdir()


def loose(root):
    write_folder(root.parent, {root.name: 3})


def one_class(root):
    write_folder(root, {"cat": 3})


def empty_class(root):
    write_folder(root, {"cat": 3, "dog": 3})
    (root / "eel").mkdir()


def lacking(root):
    write_folder(root, {"train/cat": 3, "train/dog": 3, "val/cat": 3})


def extra(root):
    write_folder(root, {f"{split}/{name}": 3 for split in ("train", "val") for name in "ab"})
    write_folder(root, {"val/eel": 1})


def two_vals(root):
    write_folder(
        root, {f"{split}/{name}": 3 for split in ("train", "val", "valid") for name in "ab"}
    )


def no_train(root):
    write_folder(root, {f"{split}/{name}": 3 for split in ("val", "test") for name in "ab"})


def misnamed(root):
    write_folder(root, {f"{split}/{name}": 3 for split in ("train", "testing") for name in "ab"})


def a_file(root):
    root.write_text("")


def near(root):
    root.with_name("dataa").mkdir()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (nothing, r"holds no images in class folders \(accepted are \.bmp, .*\.webp\)"),
        (loose, "holds 3 images but no class folders; put the images of each class into a folder"),
        (one_class, "holds one class only .'cat'., but a comparison needs at least two"),
        (empty_class, r"class folder .*eel holds no images \(accepted are .*remove the folder"),
        (lacking, "val lacks the class 'dog' that train has"),
        (extra, "val has the class 'eel' that train lacks"),
        (two_vals, "has both 'val' and 'valid'; keep one"),
        (no_train, "has test, val but no train folder"),
        (misnamed, "has the folder 'testing' beside 'train', but splits are called .*; rename it"),
        (a_file, "a file, but must be a folder"),
        (near, "has no folder 'data'; did you mean 'dataa'"),
    ],
)
def test_what_is_wrong_is_said(root, load, prepare, message):
    prepare(root)
    with pytest.raises(ConfigError, match=message):
        load()


def test_the_first_missing_folder_is_named(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ConfigError, match="has no folder 'picture'; did you mean 'pictures'"):
        image_folder(root=tmp_path / "picture" / "cats", store=tmp_path / "store")


def test_real_photos_are_cut_and_scaled(unpacked, tmp_path):
    """The arrangement of a data set from the web: train and test, photos of one size."""
    data = image_folder(root=unpacked("signdigits"), store=tmp_path, size=48)
    assert data.classes == tuple("0123456789")
    counts = [len(split) for split in data.splits.values()]
    assert counts[2] == 416
    assert counts[0] + counts[1] == 1646
    assert np.abs(np.bincount(data.val.labels) - 0.1 * 164.6).max() <= 1.5
    assert data.size == (48, 48)
