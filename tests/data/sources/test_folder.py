"""Folders of images, in each of their arrangements, and what is wrong with some."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from samples import write_folder, write_image

from warmstart.data.samples import OPEN
from warmstart.data.sources.folder import image_folder
from warmstart.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    """List ``tmp_path/data`` with a store beside it."""

    def load(root=tmp_path / "data"):
        return image_folder(root=root, store=tmp_path / "store")

    return load


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def test_three_splits_are_read_as_they_are(root, load):
    written = write_folder(root, {"train/b": 3, "train/a": 2, "val/a": 1, "val/b": 1})
    written |= write_folder(root, {"test/a": 2, "test/b": 1}, seed=1)
    samples = load()
    assert samples.classes == ("a", "b")
    assert samples.ids == (
        *("train/a/00.png", "train/a/01.png"),
        *("train/b/00.png", "train/b/01.png", "train/b/02.png"),
        *("val/a/00.png", "val/b/00.png"),
        *("test/a/00.png", "test/a/01.png", "test/b/00.png"),
    )
    assert samples.labels.dtype == np.int64
    assert samples.labels.tolist() == [0, 0, 1, 1, 1, 0, 1, 0, 0, 1]
    assert samples.splits == ("train",) * 5 + ("val",) * 2 + ("test",) * 3
    assert samples.groups is None
    for row, name in enumerate(samples.ids):
        assert np.array_equal(samples.reader.image(row), written[name])


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Valid"])
def test_validation_has_three_names(root, load, name):
    write_folder(
        root, {f"{split}/{label}": 2 for split in ("Train", name, "TEST") for label in "ab"}
    )
    samples = load()
    held = [name for name, split in zip(samples.ids, samples.splits, strict=True) if split == "val"]
    assert held == [f"{name}/{label}/0{row}.png" for label in "ab" for row in range(2)]


@pytest.mark.parametrize("held", ["val", "test"])
def test_train_stays_train_where_a_split_is_missing(root, load, held):
    write_folder(root, {"train/a": 3, "train/b": 4, f"{held}/a": 2, f"{held}/b": 2})
    assert load().splits == ("train",) * 7 + (held,) * 4


def test_class_folders_alone_are_in_no_split(root, load):
    write_folder(root, {"a": 2, "b": 3})
    samples = load()
    assert samples.splits == (OPEN,) * 5
    assert samples.ids[:3] == ("a/00.png", "a/01.png", "b/00.png")


def test_a_class_may_be_called_train(root, load):
    write_folder(root, {"car": 2, "train": 2})
    assert load().classes == ("car", "train")


@pytest.mark.parametrize("name", ["trainers", "valve", "test strip", "testicle"])
def test_a_class_may_begin_like_a_split(root, load, name):
    write_folder(root, {"car/red": 2, f"{name}/inner": 2})
    assert load().classes == tuple(sorted(["car", name]))


def test_folders_inside_a_class_belong_to_it(root, load):
    written = write_folder(root, {"a/2019": 2, "a/2020/may": 1, "a": 1, "b": 2})
    samples = load()
    assert set(samples.ids) == set(written)
    assert np.bincount(samples.labels).tolist() == [4, 2]


def test_hidden_and_foreign_files_are_left_out(root, load):
    written = write_folder(root, {"a": 3, "b": 3})
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / ".hidden.png").write_text("no image")
    for name in (".cache", "__MACOSX"):
        (root / name).mkdir()
        (root / name / "1.png").write_text("no image")
    (root / "readme.txt").write_text("beside the classes")
    shutil.copy(root / "a" / "00.png", root / "a" / "99.PNG")
    assert set(load().ids) == {*written, "a/99.PNG"}


def test_images_of_kinds_that_are_not_read_are_counted(root, load, caplog):
    written = write_folder(root, {"train/a": 2, "train/b": 2, "test/a": 1})
    (root / "train" / "a" / "inner").mkdir()
    for name in ("train/a/1.avif", "train/b/2.AVIF", "test/a/3.heic", "train/a/inner/4.cr2"):
        (root / name).touch()
    for name in ("train/a/notes.txt", "train/a/.5.avif", "train/a/labels.json"):
        (root / name).touch()
    assert set(load().ids) == set(written)
    assert caplog.messages == [
        "4 files of kinds that are not read are left out (.avif 2, .cr2 1, .heic 1): convert them "
        "to PNG or JPEG"
    ]


def test_what_is_read_or_no_image_is_left_out_without_a_word(root, load, caplog):
    write_folder(root, {"a": 2, "b": 2})
    (root / "a" / "notes.txt").touch()
    load()
    assert not caplog.messages


def test_links_are_followed_but_not_in_a_circle(root, load, tmp_path):
    written = write_folder(root, {"a": 2, "b": 2})
    write_folder(tmp_path, {"more": 1})
    (root / "a" / "link").symlink_to(tmp_path / "more")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    assert set(load().ids) == {*written, "a/link/00.png"}


def test_a_class_that_val_lacks_is_no_error(root, load):
    write_folder(root, {"train/a": 2, "train/b": 2, "val/a": 2})
    assert load().classes == ("a", "b")


def test_damaged_files_are_listed_too(root, load):
    write_folder(root, {"a": 1, "b": 1})
    (root / "b" / "link.png").symlink_to(root / "gone.png")
    samples = load()
    assert samples.ids == ("a/00.png", "b/00.png", "b/link.png")


@pytest.mark.parametrize("change", ["content", "time", "new"])
def test_a_change_is_seen(root, load, change):
    write_folder(root, {"a": 2, "b": 2})
    before = load().reader.identity
    assert load().reader.identity == before
    path = root / "a" / "00.png"
    status = path.stat()
    if change == "content":
        write_image(path, np.zeros((9, 6, 3), np.uint8))
    elif change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "new":
        write_image(root / "a" / "new.png", np.zeros((6, 6, 3), np.uint8))
    assert load().reader.identity != before


def test_an_archive_is_unpacked(root, load, tmp_path):
    written = write_folder(root / "photos", {"a": 2, "b": 2})
    shutil.make_archive(str(tmp_path / "photos"), "zip", root)
    samples = load(tmp_path / "photos.zip")
    assert set(samples.ids) == set(written)
    for row, name in enumerate(samples.ids):
        assert np.array_equal(samples.reader.image(row), written[name])


def test_an_archive_with_texts_beside_its_folders(root, load, tmp_path):
    write_folder(root / "a" / "photos", {"cat": 2, "dog": 2})
    (root / "README.md").touch()
    shutil.make_archive(str(tmp_path / "photos"), "zip", root)
    assert load(tmp_path / "photos.zip").classes == ("cat", "dog")


def splits(*names, labels="ab"):
    return {f"{split}/{label}": 2 for split in names for label in labels}


def nothing(root):
    root.mkdir()


def loose(root):
    write_folder(root.parent, {root.name: 3})


def loose_beside(root):
    write_folder(root, {"cat": 3, "dog": 3})
    write_folder(root.parent, {root.name: 2})


def loose_in_split(root):
    write_folder(root, {**splits("train", "test"), "train": 2})


def flat_split(root):
    write_folder(root, {**splits("train"), "test": 3})


def bare_split(root):
    write_folder(root, splits("train"))
    (root / "val").mkdir()


def one_class(root):
    write_folder(root, {"cat": 3})


def one_level_more(root):
    write_folder(root, {"photos/v1/cat": 2, "photos/v1/dog": 2})


def splits_one_level_below(root):
    write_folder(root, {f"photos/{folder}": 2 for folder in splits("train", "test")})


def one_class_with_folders(root):
    write_folder(root, {"cat": 1, "cat/inner": 2})


def empty_class(root):
    write_folder(root, {"cat": 3, "dog": 3})
    (root / "eel").mkdir()


def empty_class_in_val(root):
    write_folder(root, splits("train"))
    write_folder(root, {"val/a": 1})
    (root / "val" / "b").mkdir()


def extra(root):
    write_folder(root, {**splits("train", "val"), "val/eel": 1})


def spelled(root):
    write_folder(root, {"Cat": 1, "cat ": 1})


def spelled_in_val(root):
    write_folder(root, {**splits("train", labels=["cat", "dog"]), "val/Cat": 1})


def two_vals(root):
    write_folder(root, splits("train", "val", "valid"))


def no_train(root):
    write_folder(root, splits("val", "test"))


def beside_train(root):
    write_folder(root, splits("train", "holdout"))


def misnamed(root):
    write_folder(root, splits("Training", "Testing"))


def swapped(root):
    write_folder(root, {f"{label}/{split}": 2 for label in "ab" for split in ("train", "test")})


def a_file(root):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(root, format="png")


def near(root):
    root.with_name("dataa").mkdir()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (nothing, r"holds no images in class folders \(accepted are \.bmp, .*\.webp\)"),
        (loose, r"holds 3 images with no label, the first is 00\.png; put the images of each"),
        (loose_beside, r"data holds 2 images with no label, the first is 00\.png; put"),
        (loose_in_split, r"data/train holds 2 images with no label, the first is 00\.png"),
        (flat_split, r"data/test holds 3 images with no label"),
        (bare_split, r"data/val holds no class folders; add them or remove it"),
        (one_class, r"one class only \(cat\); a comparison needs at least two"),
        (one_class_with_folders, r"one class only \(cat\)"),
        (
            one_level_more,
            r"only folder in .*data is 'photos', .*give data\.root=.*/photos/v1, ",
        ),
        (splits_one_level_below, r"give data\.root=.*data/photos, the place that has the class fo"),
        (empty_class, r"class folder .*eel holds no images \(.*a label with no image; add"),
        (empty_class_in_val, r"class folder .*val/b holds no images"),
        (extra, r"val has the class 'eel' that train lacks \(1 such\), .* val/eel/00\.png"),
        (spelled, r"'Cat' and 'cat ' are two spellings of one class"),
        (spelled_in_val, "'Cat' and 'cat' are two spellings of one class"),
        (two_vals, "has both 'val' and 'valid'; keep one"),
        (no_train, "has val, test but no train folder|has test, val but no train folder"),
        (beside_train, "has the folder 'holdout', which looks like a split, .*called.*; rename"),
        (misnamed, "has the folder 'Testing', which looks like a split"),
        (swapped, r"has the folders 'test' and 'train', but splits lie above .*data/test/a"),
        (a_file, r"data', but must be a folder, or an archive in \.zip"),
        (near, "has no 'data'; did you mean 'dataa'"),
    ],
)
def test_what_is_wrong_is_said(root, load, prepare, message):
    prepare(root)
    with pytest.raises(ConfigError, match=message):
        load()


def test_the_first_missing_folder_is_named(tmp_path, load):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ConfigError, match="has no 'picture'; did you mean 'pictures'"):
        load(tmp_path / "picture" / "cats")
    with pytest.raises(ConfigError, match="no 'xyz'; give the path of a folder or an archive"):
        load(tmp_path / "xyz")


def test_a_folder_that_cannot_be_read(root, load, monkeypatch):
    write_folder(root, {"a/inner": 2, "b": 2})
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match=r"a/inner cannot be read \(Permission denied\); allow"):
        load()


def test_real_photos_are_listed(unpacked, tmp_path):
    """The arrangement of a data set from the web: train and test, photos of one size."""
    samples = image_folder(root=unpacked("signdigits"), store=tmp_path)
    assert samples.classes == tuple("0123456789")
    assert samples.splits.count("train") == 1646
    assert samples.splits.count("test") == 416
    assert samples.reader.image(0).shape[:2] == (100, 100)
