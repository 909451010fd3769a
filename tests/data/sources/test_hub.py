"""Data sets that the library `datasets` has written, read from folders without a network."""

import subprocess
import sys
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pillow
from samples import write_folder

from warmstart.data.samples import OPEN
from warmstart.data.sources.hub import huggingface
from warmstart.errors import ConfigError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
CLASSES = ClassLabel(names=["dog", "cat"])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """Keep what the library writes beside the data, and the library away from a network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def rows(count=6, labels=(0, 1, 1), kind=CLASSES, **more):
    """Return a table with the columns ``picture``, ``label`` and more."""
    columns = {
        "picture": [Pillow.fromarray(pixels) for pixels in PIXELS[:count]],
        "label": [labels[row % len(labels)] for row in range(count)],
        **{name: values[:count] for name, (_, values) in more.items()},
    }
    kinds = {"picture": Image(), "label": kind, **{name: kind for name, (kind, _) in more.items()}}
    return Dataset.from_dict(columns, features=Features(kinds))


@pytest.fixture
def save(tmp_path):
    """Write tables with ``save_to_disk``; return the folder's name."""

    def save(tables):
        tables = DatasetDict(tables) if isinstance(tables, dict) else tables
        tables.save_to_disk(str(tmp_path / "saved"))
        return str(tmp_path / "saved")

    return save


def check_pixels(samples, *counts):
    """Compare the first `count` images of each split with what was written."""
    wanted = np.concatenate([PIXELS[:count] for count in counts])
    for row, pixels in enumerate(wanted):
        assert np.array_equal(samples.reader.image(row), pixels)
    header = samples.reader.header(0)
    assert (header.height, header.width, header.channels) == (5, 7, 3)


def test_three_splits_that_were_saved(save):
    samples = huggingface(name=save({"train": rows(), "validation": rows(3), "test": rows(4)}))
    assert samples.classes == ("dog", "cat")
    assert samples.labels.tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0]
    assert samples.splits == ("train",) * 6 + ("val",) * 3 + ("test",) * 4
    assert samples.ids[5:7] == ("train/00005", "val/00000")
    assert samples.groups is None
    check_pixels(samples, 6, 3, 4)


def test_one_table_has_no_splits(save):
    samples = huggingface(name=save(rows()))
    assert samples.splits == (OPEN,) * 6
    assert samples.ids[0] == "00000"
    check_pixels(samples, 6)


def test_rows_that_were_chosen_before_saving(save):
    samples = huggingface(name=save(rows().select([5, 2, 1, 3])))
    assert np.array_equal(samples.reader.image(0), PIXELS[5])
    assert samples.labels.tolist() == [1, 1, 1, 0]


def test_a_format_that_was_saved_has_no_effect(save):
    samples = huggingface(name=save(rows().with_format("numpy")))
    check_pixels(samples, 6)


def test_a_folder_of_parquet_files(tmp_path):
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split, count in (("train", 6), ("test", 4)):
        rows(count).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    samples = huggingface(name=str(folder))
    assert samples.classes == ("dog", "cat")
    assert samples.splits == ("train",) * 6 + ("test",) * 4
    check_pixels(samples, 6, 4)
    assert samples.reader.header(0).mode == "PNG RGB"


def test_a_folder_of_images(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    written = write_folder(folder, {f"{split}/{c}": 2 for split in ("train", "test") for c in "ab"})
    monkeypatch.chdir(tmp_path)
    samples = huggingface(name="./images")
    assert samples.classes == ("a", "b")
    assert samples.splits == ("train",) * 4 + ("test",) * 4
    for row, name in enumerate(written):
        assert np.array_equal(samples.reader.image(row), written[name])


def test_what_the_images_are_is_known_again(tmp_path, save):
    name = save(rows())
    folder = tmp_path / "images"
    write_folder(folder, {"train/a": 2, "train/b": 2})
    assert huggingface(name=name).reader.identity == huggingface(name=name).reader.identity
    before = huggingface(name=str(folder)).reader.identity
    assert huggingface(name=str(folder)).reader.identity == before
    Pillow.fromarray(PIXELS[0]).save(folder / "train" / "a" / "00.png")
    assert huggingface(name=str(folder)).reader.identity != before


@pytest.mark.slow
def test_another_process_knows_the_images_again(save):
    name = save(rows())
    code = f"""if True:
        from warmstart.data.sources.hub import huggingface
        print(repr(huggingface(name={name!r}).reader.identity))"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert result.stdout.strip() == repr(huggingface(name=name).reader.identity)


@pytest.mark.parametrize(
    ("kind", "labels", "classes", "numbers"),
    [
        (Value("string"), ["pug", "cat", "eel"], ("cat", "eel", "pug"), [2, 0, 1]),
        (Value("int64"), [10, 9, 3], ("3", "9", "10"), [2, 1, 0]),
        (Value("bool"), [True, False], ("0", "1"), [1, 0, 1]),
        (CLASSES, [1, 0], ("dog", "cat"), [1, 0, 1]),
    ],
)
def test_kinds_of_labels(save, kind, labels, classes, numbers):
    samples = huggingface(name=save(rows(3, labels, kind)))
    assert samples.classes == classes
    assert samples.labels.tolist() == numbers


def test_columns_and_groups(save):
    thumbs = [Pillow.fromarray(pixels[:2, :2]) for pixels in PIXELS]
    more = {
        "thumb": (Image(), thumbs),
        "breed": (Value("string"), list("xyxyxy")),
        "owner": (Value("int32"), [4, 4, 5, 5, 6, 6]),
    }
    options = {"image_column": "thumb", "label_column": "breed", "group_column": "owner"}
    samples = huggingface(name=save(rows(**more)), **options)
    assert samples.classes == ("x", "y")
    assert samples.groups == ("4", "4", "5", "5", "6", "6")
    assert np.array_equal(samples.reader.image(1), PIXELS[1, :2, :2])


def test_splits_are_chosen(save):
    name = save({"train": rows(), "extra": rows(2), "test": rows(4, [-1])})
    samples = huggingface(name=name, splits={"test": "extra", "train": "train"})
    assert samples.splits == ("train",) * 6 + ("test",) * 2


def test_damaged_images_are_found_when_they_are_read(save):
    content = [{"bytes": b"none", "path": None}, None]
    features = Features({"image": Image(), "label": CLASSES})
    table = Dataset.from_dict({"image": content, "label": [0, 1]}, features=features)
    reader = huggingface(name=save(table)).reader
    with pytest.raises(ValueError, match="it is not an image"):
        reader.header(0)
    with pytest.raises(ValueError, match="the table has no image here"):
        reader.image(1)


OTHER = ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize(
    ("tables", "options", "message"),
    [
        (
            rows(),
            {"image_column": "pic"},
            r"data\.image_column is 'pic', but must be one of picture",
        ),
        (rows(), {"label_column": "lab"}, r"data\.label_column is 'lab', .*did you mean 'label'"),
        (rows(), {"group_column": "who"}, r"data\.group_column is 'who', but must be one of label"),
        (rows(), {"label_column": "picture"}, r"'picture' holds Image .*, but must hold one class"),
        (rows(kind=Value("float32")), {}, r"'label' holds Value float32, but must hold one class"),
        (
            rows(second=(CLASSES, [0] * 6)).rename_column("label", "first"),
            {},
            r"not clear among picture \(Image\), first \(ClassLabel\), second .*; set data\.label",
        ),
        (
            rows().remove_columns("picture"),
            {},
            r"no column of images, but label \(ClassLabel\); choose other data",
        ),
        (rows(kind=Value("string"), labels=["a", None]), {}, "00001 is an image with no label;"),
        (
            rows(who=(Value("string"), ["x", None, *"abcd"])),
            {"group_column": "who"},
            "00001 is an image with no group; choose",
        ),
        (rows(labels=[0, 1, -1]), {}, r"the label in 00002 is -1, but labels count from 0"),
        (
            {"train": rows(), "validation": rows(), "test": rows(labels=[-1])},
            {},
            r"all labels of test are -1, .*data\.splits=\{train: train, val: validation\}",
        ),
        ({"train": rows(labels=[-1])}, {}, "the label in train/00000 is -1, but labels count from"),
        (
            {"train": rows(labels=[0]), "test": rows()},
            {},
            "test has the class 'cat' that train lac",
        ),
        (
            {"train": rows(), "test": rows(kind=OTHER)},
            {},
            "the classes of test are not those of tr",
        ),
        (
            {"train": rows(), "extra": rows()},
            {},
            r"the splits train, extra; say which are taken with data\.splits, for example \{train",
        ),
        ({"val": rows(), "valid": rows()}, {}, "the splits val, valid; say which are taken"),
        (
            {"train": rows()},
            {"splits": {"dev": "train"}},
            r"key of data\.splits is 'dev', but must",
        ),
        (
            {"train": rows()},
            {"splits": {"train": "tain"}},
            r"data\.splits\.train is 'tain', .*mean",
        ),
        ({"train": rows()}, {"splits": {}}, r"data\.splits is \{\}, but must name each split once"),
        (
            {"train": rows()},
            {"splits": {"train": "train", "test": "train"}},
            "but must name each split once",
        ),
        (rows(), {"splits": {"train": "train"}}, "but the data have no splits; leave it at null"),
        (rows(), {"config": "x"}, r"data\.config is 'x', but the folder .* has only one; leave it"),
        (rows(), {"revision": "x"}, r"data\.revision is 'x', but the folder .* has only one"),
    ],
)
def test_what_is_wrong_is_said(save, tables, options, message):
    name = save(tables)
    with pytest.raises(ConfigError, match=message):
        huggingface(name=name, **options)


def test_what_cannot_be_loaded(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"'nobody/nothing', which the library datasets cannot l"):
        huggingface(name="nobody/nothing")
    with pytest.raises(
        ConfigError, match=r"empty', which the library datasets cannot load \(.*\);"
    ):
        huggingface(name=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"has no 'emty'; did you mean 'empty'"):
        huggingface(name=str(tmp_path / "emty"))


def test_no_code_of_a_data_set_runs(tmp_path):
    """A script is how data sets used to bring code along."""
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match=r"cannot load \(.*scripts"):
        huggingface(name=str(folder))
    assert not Path(tmp_path / "ran").exists()


def test_the_library_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"run pip install 'warmstart\[datasets\]'"):
        huggingface(name="owner/name")
