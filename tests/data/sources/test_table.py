"""Tables with a row per image: text and Parquet."""

import csv
import io
import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import write_folder

from warmstart.data.samples import OPEN
from warmstart.data.sources.table import parse, table
from warmstart.errors import ConfigError

CELLS = [
    ["path", "label", "split", "patient"],
    ["a/00.png", "rose", "train", "ann"],
    ["b/00.png", "daisy", "Train", "bob"],
    ["a/01.png", "rose", "validation", "cid"],
    ["b/01.png", "daisy", "test", "dee"],
]


@pytest.fixture(autouse=True)
def images(tmp_path):
    """Write ``{a,b}/0{0,1,2}.png`` into `tmp_path`."""
    write_folder(tmp_path, {"a": 3, "b": 3})
    return tmp_path


@pytest.fixture
def write(tmp_path):
    """Write cells to a file of the given name; return its path."""

    def write(cells, name="table.csv", delimiter=","):
        file = tmp_path / name
        if file.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            columns = dict(zip(cells[0], map(list, zip(*cells[1:], strict=True)), strict=True))
            parquet.write_table(pyarrow.table(columns), file)
        else:
            with file.open("w", newline="") as stream:
                csv.writer(stream, delimiter=delimiter).writerows(cells)
        return file

    return write


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [
        ("table.csv", ","),
        ("table.csv", ";"),
        ("table.CSV", "\t"),
        ("table.tsv", "\t"),
        ("table.parquet", ""),
    ],
)
def test_all_forms_say_the_same(write, images, name, delimiter):
    samples = table(file=write(CELLS, name, delimiter), group_column="patient")
    assert samples.classes == ("daisy", "rose")
    assert samples.ids == ("a/00.png", "b/00.png", "a/01.png", "b/01.png")
    assert samples.labels.tolist() == [1, 0, 1, 0]
    assert samples.splits == ("train", "train", "val", "test")
    assert samples.groups == ("ann", "bob", "cid", "dee")
    assert samples.reader.root == images
    assert samples.reader.image(3).shape == (6, 6, 3)


def test_a_column_called_split_need_not_be_there(write):
    samples = table(file=write([row[:2] for row in CELLS]))
    assert samples.splits == (OPEN,) * 4
    assert samples.groups is None


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
@pytest.mark.parametrize("header", ["Split", " split ", "SPLIT"])
def test_split_is_known_in_other_spellings(write, name, header):
    cells = [["path", "label", header], *(row[:3] for row in CELLS[1:])]
    assert table(file=write(cells, name)).splits == ("train", "train", "val", "test")
    assert table(file=write(cells, name), split_column=None).splits == (OPEN,) * 4


def test_a_column_of_labels_is_no_split(write):
    cells = [["path", "Split"], *(row[:2] for row in CELLS[1:])]
    samples = table(file=write(cells), label_column="Split")
    assert samples.splits == (OPEN,) * 4


def test_splits_are_left_alone(write):
    assert table(file=write(CELLS), split_column=None).splits == (OPEN,) * 4


def test_columns_of_other_names(write):
    cells = [["id", "image", "kind", "fold"], *([1, *row[:3]] for row in CELLS[1:])]
    options = {"path_column": "image", "label_column": "kind", "split_column": "fold"}
    samples = table(file=write(cells), **options)
    assert samples.splits == ("train", "train", "val", "test")


def test_numbers_stand_for_class_names(write):
    cells = [["path", "label"], ["a/00.png", 1], ["b/00.png", 0]]
    for name in ("table.csv", "table.parquet"):
        samples = table(file=write(cells, name), class_names=["daisy", "rose"])
        assert samples.classes == ("daisy", "rose")
        assert samples.labels.tolist() == [1, 0]


def test_a_root_replaces_what_all_paths_begin_with(write, images, tmp_path):
    cells = [CELLS[0], *([f"/home/ann/{row[0]}", *row[1:]] for row in CELLS[1:])]
    (tmp_path / "lists").mkdir()
    file = write(cells, "lists/table.csv")
    assert table(file=file, root=images).ids[0] == "a/00.png"
    assert table(file=file, root=images, strip="/home/ann").ids[0] == "a/00.png"


def test_quotes_empty_rows_and_spaces(images):
    (images / "a, b.png").write_bytes((images / "a" / "00.png").read_bytes())
    text = '\ufeffpath , label\n"a, b.png", "pink\n\nrose, wild"\n,\nb/00.png , daisy\n'
    (images / "table.csv").write_text(text.replace(', "', ',"'))
    samples = table(file=images / "table.csv")
    assert samples.ids == ("a, b.png", "b/00.png")
    assert samples.classes == ("daisy", "pink\n\nrose, wild")


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (
            [["file", "label"], ["a/00.png", "x"]],
            {"path_column": "fille"},
            r"data\.path_column is 'fille', but must be one of file, label; did you mean 'file'",
        ),
        ([["path", "lab"], ["a", "x"]], {}, r"data\.label_column is 'label', but must be one of"),
        (
            [["path", "label", "Split", "SPLIT"], ["a/00.png", "x", "train", "test"]],
            {},
            r"data\.split_column is 'split', which the columns 'SPLIT' and 'Split' could be; give",
        ),
        (CELLS, {"path_column": None}, r"data\.path_column is null, but must .*: path, label, spl"),
        (CELLS, {"label_column": None}, r"data\.label_column is null, but must be the name of a c"),
        (CELLS, {"split_column": "sp"}, r"data\.split_column is 'sp', but must be one of"),
        (CELLS, {"group_column": "patent"}, r"data\.group_column .*did you mean 'patient'"),
        (
            [["path", "label"], ["a/00.png", "x"], ["b/00.png", " "]],
            {},
            r"an image has no label in (.*table\.csv:3|row 2 of .*parquet); fill in the cell or",
        ),
        ([["path", "label"], ["", "x"]], {}, r"a label has no image in .*table"),
        (
            [["path", "label", "who"], ["a/00.png", "x", ""]],
            {"group_column": "who"},
            r"an image has no group in .*table",
        ),
        (
            [["path", "label"], ["a/00.png", "x"], ["b/07.png", "y"]],
            {},
            r"1 of 2 listed images do not exist, the first is 'b/07\.png' in (.*csv:3|row 2 of)",
        ),
        (
            [["path", "label"], ["a/00.png", "x"], ["./a/00.png", "y"]],
            {},
            r"'a/00\.png' is listed twice, in (.*csv:2 and .*csv:3|row 1 of .* and row 2 of)",
        ),
        (
            [["path", "label", "split"], ["a/00.png", "x", "trian"]],
            {},
            r"the split in .*table.* is 'trian', but must be one of .*; did you mean 'train'",
        ),
        ([["path", "label", "split"], ["a/00.png", "x", ""]], {}, r"the split in .* is '', but"),
        ([["path", "label"], ["a/00.png", "-1"]], {}, r"the label in .*table.* is -1, but"),
        (CELLS, {"strip": "/x"}, r"data\.strip is '/x', but the listed path 'a/00\.png'"),
    ],
)
def test_what_is_wrong_is_said(write, name, cells, options, message):
    with pytest.raises(ConfigError, match=message):
        table(file=write(cells, name), **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label\na/00.png,x\na, b.png,x\n", r"csv:3 has 3 cells, but the header has 2; put"),
        (b"path,label\na/00.png\n", r"csv:2 has 1 cells, but the header has 2"),
        (b'path,label\na/00.png,x\n"a/01.png,x\n', r"is no table below line 2 \(.*\); repair"),
        (b"path,label\n", r"which has no rows; add some"),
        (b"", r"table\.csv is empty; write a header and a row per image"),
        (b"path,label,path\na/00.png,x,b/00.png\n", r"path_column is 'path', but two columns"),
        (b"path,label\na/\xff.png,x\n", r"which cannot be read as text in UTF-8"),
    ],
)
def test_a_table_that_is_none(tmp_path, content, message):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        table(file=tmp_path / "table.csv")


def test_a_file_that_is_no_table(tmp_path, images):
    (tmp_path / "table.csv").touch()
    with pytest.raises(ConfigError, match=r"has no 'tabel\.csv'; did you mean 'table\.csv'"):
        table(file=tmp_path / "tabel.csv")
    with pytest.raises(ConfigError, match=r"data\.file is .*, which is a folder, but must be a ta"):
        table(file=images)
    with pytest.raises(ConfigError, match=r"must end in one of \.csv, \.tsv, \.tab, \.parquet"):
        table(file=images / "a" / "00.png")
    (tmp_path / "table.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ConfigError, match=r"parquet cannot be read as Parquet \(.*\); write it"):
        table(file=tmp_path / "table.parquet")


def test_images_inside_parquet_are_for_another_source(write):
    file = write([["path", "label"], [b"png", "x"]], "table.parquet")
    with pytest.raises(ConfigError, match=r"'path' holds no text in row 1 .*by data=huggingface"):
        table(file=file)


def test_missing_values_in_parquet(write):
    for value in (None, float("nan")):
        file = write([["path", "label"], ["a/00.png", value]], "table.parquet")
        with pytest.raises(ConfigError, match="an image has no label in row 1"):
            table(file=file)


def test_parquet_needs_pyarrow(write, monkeypatch):
    file = write(CELLS, "table.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"need pyarrow; run pip install 'warmstart\[datasets\]'"):
        table(file=file)


TEXT = st.text(string.ascii_letters + " ,;\t\"'\n#äß", min_size=1).filter(lambda text: text.strip())


@given(
    st.lists(st.lists(TEXT, min_size=2, max_size=2)),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_was_written_is_read(rows, delimiter, newline):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=newline)
    writer.writerows([["path", "label"], *rows])
    (_, header), *found = parse(stream.getvalue(), ",;\t")
    assert header == ["path", "label"]
    assert [cells for _, cells in found] == [[cell.strip() for cell in row] for row in rows]
    assert [line for line, _ in found] == sorted({line for line, _ in found})


@given(st.text())
def test_any_text_is_rows_or_an_error_of_csv(text):
    try:
        rows = list(parse(text, ",;\t"))
    except csv.Error:
        return
    assert all(any(cells) for _, cells in rows)
