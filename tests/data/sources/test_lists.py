"""Text files with a path and a label per line, from this machine or another."""

import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import write_folder

from warmstart.data.sources.listing import class_labels, located
from warmstart.data.sources.lists import list_files, parse
from warmstart.errors import ConfigError


@pytest.fixture
def images(tmp_path):
    """Write ``images/{a,b}/0{0,1,2}.png`` below `tmp_path`."""
    write_folder(tmp_path / "images", {"a": 3, "b": 3})
    return tmp_path / "images"


@pytest.fixture
def load(tmp_path, images):
    """Write lists of lines, and read them with ``images`` as the root."""

    def load(*lists, **options):
        given = {}
        for split, lines in zip(("train", "val", "test"), lists, strict=False):
            given[f"{split}_file"] = tmp_path / f"{split}.txt"
            given[f"{split}_file"].write_text("\n".join(lines), encoding="utf-8")
        return list_files(**{**given, "root": images, **options})

    return load


def test_three_lists_are_three_splits(load, images):
    samples = load(
        ["# Flowers", "b/00.png daisy", "", "a/00.png  rose", "a/01.png\trose"],
        ["a/02.png rose"],
        ["b/01.png daisy"],
    )
    assert samples.classes == ("daisy", "rose")
    assert samples.ids == ("b/00.png", "a/00.png", "a/01.png", "a/02.png", "b/01.png")
    assert samples.labels.tolist() == [0, 1, 1, 1, 0]
    assert samples.splits == ("train", "train", "train", "val", "test")
    assert samples.reader.image(0).shape == (6, 6, 3)
    assert samples.groups is None


def test_numbers_are_classes_in_their_order(load):
    samples = load(["a/00.png 10", "a/01.png 9", "b/00.png 2", "b/01.png 09"])
    assert samples.classes == ("2", "9", "10")
    assert samples.labels.tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize("form", ["file", "list"])
def test_numbers_stand_for_class_names(load, tmp_path, form):
    (tmp_path / "names.txt").write_text("pink primrose\nrose\n\n")
    names = tmp_path / "names.txt" if form == "file" else ["pink primrose", "rose"]
    samples = load(["a/00.png 1", "a/01.png 0"], class_names=names)
    assert samples.classes == ("pink primrose", "rose")
    assert samples.labels.tolist() == [1, 0]


def test_names_are_found_among_class_names(load):
    samples = load(["a/00.png rose", "a/01.png 7up"], class_names=["rose", "daisy", "7up"])
    assert samples.classes == ("rose", "daisy", "7up")
    assert samples.labels.tolist() == [0, 2]


def test_letters_and_digits_are_names(load):
    samples = load(["a/00.png z", "a/01.png 7", "b/00.png 10"])
    assert samples.classes == ("10", "7", "z")


def test_a_path_may_hold_spaces(load, images):
    (images / "a" / "00.png").rename(images / "a" / "my own.png")
    assert load(["a/my own.png x", "b/00.png y"]).ids[0] == "a/my own.png"


def test_a_separator_lets_labels_hold_spaces(load):
    samples = load(["a/00.png, pink primrose", "b/00.png ,rose"], separator=",")
    assert samples.classes == ("pink primrose", "rose")
    assert samples.ids == ("a/00.png", "b/00.png")


def test_a_byte_order_mark_and_windows_lines(load, tmp_path):
    file = tmp_path / "train.txt"
    file.write_bytes(b"\xef\xbb\xbfa/00.png x\r\nb/00.png y\r\n")
    assert load(train_file=file).ids == ("a/00.png", "b/00.png")


LISTED = ["a/00.png", "a/01.png", "b/00.png"]


@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        ("", {}),
        ("./", {}),
        ("IMAGES/", {}),  # below the root, which is this folder
        ("/home/ann/flowers/", {}),
        ("jpg/all/", {}),
        ("C:/Users/ann/", {}),
        ("/home/ann/", {"strip": "/home/ann"}),
        ("/home/ann/", {"strip": "/home/ann/"}),
        ("flowers/", {"strip": "./flowers"}),
    ],
)
def test_the_root_replaces_the_leading_folder(load, images, prefix, options):
    prefix = prefix.replace("IMAGES", images.as_posix())
    samples = load([f"{prefix}{path} {path[0]}" for path in LISTED], **options)
    assert samples.ids == tuple(LISTED)
    assert samples.reader.root == images


def test_paths_of_windows(load):
    samples = load([rf"D:\flowers\{path[0]}\{path[2:]} {path[0]}" for path in LISTED])
    assert samples.ids == tuple(LISTED)


def test_paths_as_they_are_listed_come_first(load, images):
    """Both readings hold images: that which the lists say is taken."""
    write_folder(images / "sub", {"a": 1, "b": 1})
    samples = load(["sub/a/00.png x", "sub/b/00.png y"])
    assert samples.ids == ("sub/a/00.png", "sub/b/00.png")


def test_the_leading_folder_is_that_of_all_lists(load):
    samples = load(["/x/a/00.png 0", "/x/a/01.png 1"], ["/x/b/00.png 0"])
    assert samples.ids == ("a/00.png", "a/01.png", "b/00.png")


def test_without_a_root_relative_paths_lie_beside_the_list(load, tmp_path):
    samples = load(["images/a/00.png x", "images/b/00.png y"], root=None)
    assert samples.ids == ("images/a/00.png", "images/b/00.png")
    assert samples.reader.image(1).shape == (6, 6, 3)


def test_without_a_root_absolute_paths_are_taken_as_they_are(load, images):
    samples = load([f"{images}/a/00.png x", f"{images}/b/00.png y"], root=None)
    assert samples.ids == ("a/00.png", "b/00.png")
    assert samples.reader.root == images


@pytest.mark.parametrize(
    ("lists", "options", "message"),
    [
        ([["a/00.png x", "a/01.png"]], {}, r"train\.txt:2 is 'a/01.png', an image with no label"),
        ([["a/my own.png"]], {}, r"train\.txt:1 is .* an image with no label; write the path, a"),
        ([["a/00.png x"]], {"separator": ","}, "no label; write the path, ',' and the label"),
        ([["a/00.png x"]], {"separator": ""}, "data.separator is empty; give what stands"),
        (
            [["a/00.png x", "b/09.png y", "b/08.png y"]],
            {},
            r"2 of 3 listed images .*first is 'b/09\.png' in .*train\.txt:2, a label with no image",
        ),
        (
            [["/x/00.png 0", "/x/01.png 1"]],
            {},
            r"there is no file .*images/00\.png; set data\.root to .* or data\.strip",
        ),
        (
            [["a/00.png x", "b/00.png y", "./a/00.png x"]],
            {},
            r"'a/00.png' is listed twice, in .*train\.txt:1 and .*train\.txt:3; list every",
        ),
        (
            [["a/00.png x", "b/00.png y"], ["b/00.png y"]],
            {},
            r"'b/00.png' is listed twice, in .*train\.txt:2 and .*val\.txt:1",
        ),
        (
            [["a/00.png 0", "b/00.png -1"]],
            {},
            r"the label in .*train\.txt:2 is -1, but labels count from 0; remove",
        ),
        (
            [["a/00.png 1", "b/00.png 2"]],
            {"class_names": ["x", "y"]},
            r"the label in .*train\.txt:2 is 2, but data\.class_names has 2 names, for the labels "
            r"0 \.\.\. 1; name every class",
        ),
        (
            [["a/00.png rosé", "b/00.png daisy"]],
            {"class_names": ["rose", "daisy"]},
            r"the label in .*:1 is 'rosé', but must be one of daisy, rose; did you mean 'rose'",
        ),
        ([["a/00.png x", "b/00.png x"]], {}, r"one class only \(x\)"),
        (
            [["a/00.png rose", "b/00.png Rose"]],
            {},
            "'Rose' and 'rose' are two spellings of one class",
        ),
        (
            [["a/00.png cat", "b/00.png dog"], ["a/01.png CAT"]],
            {},
            "'CAT' and 'cat' are two spellings of one class",
        ),
        (
            [["a/00.png x", "b/00.png y"], ["a/01.png z"]],
            {},
            r"val has the class 'z' that train lacks \(1 such\), for example a/01\.png; add",
        ),
        ([["# nothing", ""]], {}, r"data\.train_file is '.*train\.txt', which lists no images"),
        ([["a/00.png x"], [""]], {}, r"data\.val_file is '.*val\.txt', which lists no images"),
        (
            [["flowers/a/00.png x", "b/00.png y"]],
            {"strip": "flowers"},
            r"data\.strip is 'flowers', but the listed path 'b/00\.png' does not begin",
        ),
        (
            [["a/00.png x"]],
            {"root": "/nowhere/images"},
            r"data\.root .* '/' has no 'nowhere'; give",
        ),
        ([["a/00.png x"]], {"class_names": 5}, r"data\.class_names is 5, but must be a file with"),
        ([["a/00.png x"]], {"class_names": "/nothing.txt"}, r"data\.class_names .*'nothing\.txt'"),
        ([["a/00.png x", f"{'b' * 300}.png y"]], {}, "1 of 2 listed images do not exist"),
        ([["a/00.png x"]], {"root": f"/{'b' * 300}"}, "data.root is '/bbb.*', but '/' has no 'bbb"),
        (
            [["a/00.png x"]],
            {"val_file": f"{__file__}/val.txt"},
            r"data\.val_file is .*, but '.*test_lists.py' is a file and holds none; give the path",
        ),
        ([["a/00.png x"]], {"test_file": "/test.txt"}, r"data\.test_file is '/test.txt', but '/'"),
    ],
)
def test_what_is_wrong_is_said(load, lists, options, message):
    with pytest.raises(ConfigError, match=message):
        load(*lists, **options)


def test_absolute_and_relative_paths_do_not_mix(load):
    with pytest.raises(ConfigError, match=r"1 of 2 listed images do not exist.*'/x/b/00\.png'"):
        load(["a/00.png x", "/x/b/00.png y"])


def test_a_list_must_be_text(load, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"a/\xff.png 1")
    with pytest.raises(ConfigError, match=r"train_file is .*bad\.txt', which cannot be read as te"):
        load(train_file=tmp_path / "bad.txt")
    with pytest.raises(ConfigError, match=r"train_file is .*, which is a folder, but must be a te"):
        load(train_file=tmp_path)


def test_a_list_that_may_not_be_read(load, tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "list.txt").write_text("a/00.png x")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"which cannot be read \(Permission denied\); allow"):
        load(train_file=tmp_path / "list.txt")


WORDS = st.text(string.ascii_letters + string.digits + "_-äß", min_size=1)


@given(
    st.lists(WORDS, min_size=1).map(" ".join),
    WORDS,
    st.text(" \t", min_size=1),
    st.text(" \t"),
)
def test_every_path_and_label_are_parted_again(path, label, between, around):
    assert parse(f"{around}{path}{between}{label}{around}", None) == (path, label)
    assert parse(f"{around}{path}{around};{between}{label}", ";") == (path, label)


@given(st.text())
def test_any_line_is_a_path_and_a_label_or_nothing(line):
    for separator in (None, ",", "\t"):
        found = parse(line, separator)
        if found is not None:
            path, label = found
            assert path == path.strip() != ""
            assert label == label.strip() != ""
            assert line.strip().startswith(path)
            assert line.strip().endswith(label)


NAMES = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=3).map("/".join)


@given(st.sets(NAMES, min_size=1).map(sorted), st.lists(WORDS, min_size=1).map("/".join))
def test_what_was_put_before_all_paths_is_taken_away(names, prefix):
    paths = [f"/{prefix}/{name}" for name in names]
    root = Path("/")
    assert located(paths, root, beside=root, strip=f"/{prefix}") == (root, names)
    folder, files = located(paths, None, beside=root, strip=None)
    assert [f"{folder}/{file}" for file in files] == paths


@given(st.lists(st.integers(0, 10**18 - 1), min_size=1))
def test_numbers_keep_their_order(numbers):
    classes, labels = class_labels(list(map(str, numbers)), None, place=str)
    assert [int(classes[label]) for label in labels] == numbers
    assert list(map(int, classes)) == sorted(set(numbers))
    assert labels.dtype == np.int64


@given(st.lists(WORDS, min_size=1))
def test_names_come_back(words):
    classes, labels = class_labels([f"x{word}" for word in words], None, place=str)
    assert [classes[label] for label in labels] == [f"x{word}" for word in words]
    assert list(classes) == sorted(set(classes))
