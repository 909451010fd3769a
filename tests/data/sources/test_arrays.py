"""Arrays in .npy and .npz files, and which of them are refused."""

import zipfile

import numpy as np
import pytest

from warmstart.data.samples import OPEN
from warmstart.data.sources.arrays import arrays
from warmstart.errors import ConfigError


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def load(tmp_path):
    """Write ``data.npz`` and read it."""

    def load(class_names=None, compressed=False, **members):
        save = np.savez_compressed if compressed else np.savez
        save(tmp_path / "data.npz", **members)
        return arrays(file=tmp_path / "data.npz", store=tmp_path, class_names=class_names)

    return load


@pytest.fixture
def load_pair(tmp_path):
    """Write ``images.npy`` and ``labels.npy`` and read them."""

    def load(images, labels, **options):
        files = {"images": tmp_path / "images.npy", "labels": tmp_path / "labels.npy"}
        np.save(files["images"], images)
        np.save(files["labels"], labels)
        return arrays(**files, store=tmp_path, **options)

    return load


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,), (12,)])
@pytest.mark.parametrize("form", ["pair", "npz", "compressed"])
def test_any_number_of_channels_comes_back(load, load_pair, form, channels):
    images, labels = pixels(5, 4, 6, *channels), np.array([0, 1, 2, 1, 0])
    if form == "pair":
        samples = load_pair(images, labels)
    else:
        samples = load(images=images, labels=labels, compressed=form == "compressed")
    assert samples.classes == ("0", "1", "2")
    assert samples.ids == ("00000", "00001", "00002", "00003", "00004")
    assert samples.labels.tolist() == [0, 1, 2, 1, 0]
    assert samples.splits == (OPEN,) * 5
    assert isinstance(samples.reader.pixels, np.memmap)
    header = samples.reader.header(0)
    assert (header.height, header.width, header.channels) == (4, 6, *(channels or (1,)))
    for row in range(5):
        assert np.array_equal(samples.reader.image(row), images[row].reshape(4, 6, -1))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_medmnist(load, order, channels):
    members = {}
    for count, split in zip((4, 3, 2), ("train", "val", "test"), strict=True):
        values = pixels(count, 28, 28, *channels, seed=count)
        members[f"{split}_images"] = np.asarray(values, order=order)
        members[f"{split}_labels"] = np.array([[1], [0], [1], [0]][:count], np.uint8)
    samples = load(**members, compressed=True, class_names=["benign", "malignant"])
    assert samples.classes == ("benign", "malignant")
    assert samples.labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 1, 0]
    assert samples.splits == ("train",) * 4 + ("val",) * 3 + ("test",) * 2
    assert samples.ids[3:5] == ("train/00003", "val/00000")
    joined = np.concatenate([members[f"{split}_images"] for split in ("train", "val", "test")])
    for row in range(9):
        assert np.array_equal(samples.reader.image(row), joined[row].reshape(28, 28, -1))


def test_splits_groups_and_names(load):
    samples = load(
        images=pixels(4, 5, 5),
        labels=[1, 0, 1, 1],
        split=["train", "train", "Valid", "test"],
        groups=[7, 7, 8, 9],
        classes=["cat", "dog"],
    )
    assert samples.classes == ("cat", "dog")
    assert samples.splits == ("train", "train", "val", "test")
    assert samples.groups == ("7", "7", "8", "9")


@pytest.mark.parametrize("labels", [["b", "a"], np.array([b"b", b"a"]), np.array([["b"], ["a"]])])
def test_labels_may_be_names(load, labels):
    samples = load(images=pixels(2, 5, 5), labels=labels)
    assert samples.classes == ("a", "b")
    assert samples.labels.tolist() == [1, 0]


def test_labels_may_be_true_and_false(load):
    samples = load(images=pixels(2, 5, 5), labels=[True, False], classes=["off", "on"])
    assert samples.labels.tolist() == [1, 0]


def test_given_names_replace_those_in_the_file(load, tmp_path):
    (tmp_path / "names.txt").write_text("Katze\nHund\n")
    members = {"images": pixels(2, 5, 5), "labels": [0, 1], "classes": ["cat", "dog"]}
    assert load(**members, class_names=tmp_path / "names.txt").classes == ("Katze", "Hund")


def test_a_change_is_seen_and_unpacked_again(load):
    first = load(images=pixels(2, 5, 5), labels=[0, 1])
    again = load(images=pixels(2, 5, 5, seed=1), labels=[0, 1])
    assert first.reader.identity != again.reader.identity
    assert np.array_equal(again.reader.image(1), pixels(2, 5, 5, seed=1)[1, :, :, None])


def test_an_archive_is_unpacked_once(load, tmp_path):
    load(images=pixels(2, 5, 5), labels=[0, 1])
    file = next((tmp_path / "arrays").rglob("images.npy"))
    made = file.stat().st_mtime_ns
    arrays(file=tmp_path / "data.npz", store=tmp_path)
    assert [file] == list((tmp_path / "arrays").rglob("images.npy"))
    assert file.stat().st_mtime_ns == made


GOOD = pixels(3, 5, 5)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD / 255, [0, 1, 0], r"holds float64, but must hold uint8, 0 \.\.\. 255; scale the val"),
        (GOOD.astype(np.float32), [0, 1, 0], "holds float32, but must hold uint8"),
        (GOOD.astype(np.uint16), [0, 1, 0], "holds uint16, but must hold uint8"),
        (GOOD > 9, [0, 1, 0], "holds bool, but must hold uint8"),
        (GOOD.astype(object), [0, 1, 0], "holds object, but must hold uint8"),
        (GOOD[0], [0, 1, 0], r"has the shape \[5, 5\], but must be \[images, height, width\] or"),
        (GOOD[:0], [], r"has the shape \[0, 5, 5\], but must be"),
        (
            pixels(3, 3, 32, 32),
            [0, 1, 0],
            r"\[3, 3, 32, 32\], with the channels before height.*put",
        ),
        (GOOD, [0, 1], "has 2 entries for 3 images; give one each"),
        (GOOD, [0.0, 1.0, 0.0], "holds float64, but must hold whole numbers or text"),
        (
            GOOD,
            np.eye(3, 14, dtype=int),
            r"has the shape \[3, 14\], but images with several labels",
        ),
        (GOOD, np.array(["a", None, "b"]), "without Python objects .*write it again with numpy"),
        (GOOD, ["a", " ", "b"], "is empty in row 1; every image needs one"),
        (GOOD, [0, 1, -1], r"the label in row 2 of .* is -1, but labels count from 0"),
        (GOOD, [0, 0, 0], r"one class only \(0\)"),
    ],
)
@pytest.mark.parametrize("form", ["pair", "npz"])
def test_what_is_wrong_is_said(load, load_pair, form, images, labels, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_pair(images, labels) if form == "pair" else load(images=images, labels=labels)
    assert "data.npz" in str(caught.value) or form == "pair" or "one class" in message


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x": GOOD, "y": [0, 1, 0]}, r"npz has no array 'images', but x, y; call the arrays"),
        ({"images": GOOD, "label": [0, 1, 0]}, "has no array 'labels', but images, label; call"),
        ({"train_images": GOOD}, "has no array 'train_labels', but train_images; call"),
        ({}, "has no array 'images', but none; call"),
        (
            {"images": GOOD, "labels": [0, 1, 0], "split": ["train", "tset", "val"]},
            r"split in row 1 of .* is 'tset', but must be one of .*; did you mean 'test'",
        ),
        ({"images": GOOD, "labels": [0, 1, 0], "split": ["train"]}, "split in .* has 1 entries"),
        ({"images": GOOD, "labels": [0, 1, 0], "groups": [1, 2]}, "groups in .* has 2 entries"),
        (
            {"images": GOOD, "labels": [0, 1, 2], "classes": ["a", "b"]},
            r"the label in row 2 of .* is 2, but the array 'classes' in .*data\.npz has 2 names",
        ),
        (
            {"images": GOOD, "labels": ["cat", "dog", "Cat"], "split": ["train", "train", "val"]},
            "'Cat' and 'cat' are two spellings of one class",
        ),
        (
            {"images": GOOD, "labels": [0, 1, 2], "split": ["train", "train", "val"]},
            r"val has the class '2' that train lacks \(1 such\), for example 00002",
        ),
        (
            {
                **{"train_images": GOOD, "train_labels": [0, 1, 0]},
                **{"test_images": pixels(2, 6, 6), "test_labels": [0, 1]},
            },
            r"have the shapes \(5, 5\), \(6, 6\); give all of them one",
        ),
    ],
)
def test_what_an_archive_lacks_is_said(load, members, message):
    with pytest.raises(ConfigError, match=message):
        load(**members)


def test_too_few_class_names(load_pair):
    with pytest.raises(ConfigError, match=r"row 1 of .*labels\.npy is 1, but data\.class_names h"):
        load_pair(GOOD, [0, 1, 0], class_names=["a"])


@pytest.mark.parametrize("keys", [(), ("file", "images"), ("images",), ("labels",)])
def test_either_one_file_or_two(tmp_path, keys):
    with pytest.raises(ConfigError, match=r"either one file \(\.npz\), or images and labels"):
        arrays(store=tmp_path, **dict.fromkeys(keys, "x.npy"))


def test_missing_and_damaged_files(tmp_path, load):
    with pytest.raises(ConfigError, match=r"data\.file is '.*no\.npz', but '.*' has no 'no\.npz'"):
        arrays(file=tmp_path / "no.npz", store=tmp_path)
    np.save(tmp_path / "one.npy", GOOD)
    for content in (b"", b"no zip", (tmp_path / "one.npy").read_bytes()):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.npz cannot be read as numpy arrays without"):
            arrays(file=tmp_path / "bad.npz", store=tmp_path)
    (tmp_path / "bad.npy").write_bytes((tmp_path / "one.npy").read_bytes()[:140])
    with pytest.raises(ConfigError, match=r"bad\.npy cannot be read as numpy arrays"):
        arrays(images=tmp_path / "bad.npy", labels=tmp_path / "one.npy", store=tmp_path)
    with pytest.raises(ConfigError, match=r"data\.labels is .*, which is a folder, but must"):
        arrays(images=tmp_path / "one.npy", labels=tmp_path, store=tmp_path)


def test_a_member_that_is_cut_short(tmp_path):
    file = tmp_path / "short.npz"
    np.savez(file, images=GOOD, labels=[0, 1, 0])
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", content["images.npy"][:-10])
        archive.writestr("labels.npy", content["labels.npy"])
    with pytest.raises(ConfigError, match=r"short\.npz cannot be read as numpy arrays"):
        arrays(file=file, store=tmp_path)
