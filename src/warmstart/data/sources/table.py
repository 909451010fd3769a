"""One's own images, named by a table with a row per image."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from warmstart.data.samples import OPEN, Samples
from warmstart.data.sources.files import check_file, read_class_names, read_text
from warmstart.data.sources.listing import SPLIT_NAMES, Entry, samples_of
from warmstart.errors import ConfigError, choose

_DELIMITERS = {".csv": ",;\t", ".tsv": "\t", ".tab": "\t"}
_PARQUET = (".parquet", ".pq")

_EMPTY = {
    "path_column": "a label has no image",
    "label_column": "an image has no label",
    "group_column": "an image has no group",
}
_SPLIT = "split"

Columns = Mapping[str, str | None]
"""From the config's keys to the names of columns."""

Row = tuple[str, Mapping[str, str]]
"""Where a row stands, for messages, and from the config's keys to its cells."""


def table(
    *,
    file: str | Path,
    root: str | Path | None = None,
    strip: str | None = None,
    path_column: str = "path",
    label_column: str = "label",
    split_column: str | None = _SPLIT,
    group_column: str | None = None,
    class_names: str | Path | Sequence[str] | None = None,
) -> Samples:
    """Return the images that a table lists, one per row.

    Labels are numbers or names as in `list_files`, and so is what `root` and `strip` do.

    Args:
        file: CSV with a header (between commas, semicolons or tabs, in UTF-8), TSV, or Parquet.
        root: Folder of the images; None takes absolute paths as they are, and others below the
            folder of `file`.
        strip: Leading folder of the paths, which `root` replaces.
        path_column: Column of the images' paths.
        label_column: Column of their labels.
        split_column: Column with ``train``, ``val`` (or ``valid``, ``validation``) or ``test``.
            ``split`` need not be there, and may be spelled ``Split``.
        group_column: Column of what must stay together, for example a patient.
        class_names: Of class 0, 1, ...: a file with a name per line, or the names.

    Returns:
        Samples whose ids are the paths below `root`.

    Raises:
        ConfigError: The file cannot be read, a column or a value is missing, an image is missing
            or listed twice, or a split is unknown.
    """
    path = Path(file).expanduser()
    check_file("data.file", path, "a table")
    kind = path.suffix.lower()
    if kind not in (*_DELIMITERS, *_PARQUET):
        allowed = ", ".join((*_DELIMITERS, *_PARQUET))
        raise ConfigError(f"data.file is {str(file)!r}, but must end in one of {allowed}")
    columns = {
        "path_column": path_column,
        "label_column": label_column,
        "split_column": split_column,
        "group_column": group_column,
    }
    read = _parquet if kind in _PARQUET else _text
    entries = [_entry(place, cells) for place, cells in read(path, columns)]
    if not entries:
        raise ConfigError(f"data.file is {str(file)!r}, which has no rows; add some")
    names = read_class_names(class_names)
    return samples_of(
        "table", entries, root=root, beside=path.parent, strip=strip, class_names=names
    )


def parse(text: str, delimiters: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that is not empty, and the number of the row's last line.

    Args:
        text: Of a CSV file, header included.
        delimiters: That of them which the first line has most often stands between cells.

    Raises:
        csv.Error: The quotes do not match.
    """
    header = text.partition("\n")[0]
    delimiter = max(delimiters, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield reader.line_num, stripped


def _text(path: Path, columns: Columns) -> Iterator[Row]:
    rows = parse(read_text("data.file", path), _DELIMITERS[path.suffix.lower()])
    number = 0
    try:
        number, header = next(rows, (0, []))
        if not header:
            raise ConfigError(f"{path} is empty; write a header and a row per image")
        taken = _taken(columns, header)
        for number, cells in rows:
            if len(cells) != len(header):
                raise ConfigError(
                    f"{path}:{number} has {len(cells)} cells, but the header has {len(header)}; "
                    "put cells that hold a delimiter in quotes"
                )
            yield f"{path}:{number}", {key: cells[place] for key, place in taken.items()}
    except csv.Error as error:
        raise ConfigError(f"{path} is no table below line {number} ({error}); repair it") from error


def _parquet(path: Path, columns: Columns) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"data.file is {str(path)!r}, but Parquet files need pyarrow; run "
            "pip install 'warmstart[datasets]'"
        ) from error
    try:
        file = parquet.ParquetFile(path)
        taken = _taken(columns, file.schema_arrow.names)
        names = {key: file.schema_arrow.names[place] for key, place in taken.items()}
        rows = file.read(columns=sorted(set(names.values()))).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be read as Parquet ({reason}); write it again") from error
    for number, row in enumerate(rows, 1):
        place = f"row {number} of {path}"
        yield place, {key: _cell(row[name], name, place) for key, name in names.items()}


def _cell(value: object, column: str, place: str) -> str:
    if isinstance(value, dict | list | bytes):
        raise ConfigError(
            f"the column {column!r} holds no text in {place}; images inside Parquet files are read "
            "by data=huggingface with data.name=FOLDER"
        )
    return "" if value is None or value != value else str(value).strip()  # NaN is not itself


def _taken(columns: Columns, header: Sequence[str]) -> dict[str, int]:
    """Return the place of each wanted column.

    Raises:
        ConfigError: A column is not there, there twice, or needed but null.
    """
    taken = {}
    for key, given in columns.items():
        name = given
        if key == "split_column" and given == _SPLIT and given not in header:
            name = _split_spelled(set(header) - set(columns.values()))
        if name is None and key in ("path_column", "label_column"):
            raise ConfigError(
                f"data.{key} is null, but must be the name of a column: {', '.join(header)}"
            )
        if name is None:
            continue
        if name not in header:
            raise choose(f"data.{key}", name, header)
        if header.count(name) > 1:
            raise ConfigError(f"data.{key} is {name!r}, but two columns are called so; rename one")
        taken[key] = header.index(name)
    return taken


def _split_spelled(names: set[str]) -> str | None:
    """Return the name that is ``split`` but for case and spaces around it, if there is one."""
    found = sorted(name for name in names if name.strip().casefold() == _SPLIT)
    if len(found) > 1:
        raise ConfigError(
            f"data.split_column is {_SPLIT!r}, which the columns {' and '.join(map(repr, found))} "
            "could be; give the name of one of them, or null"
        )
    return found[0] if found else None


def _entry(place: str, cells: Mapping[str, str]) -> Entry:
    for key, cell in cells.items():
        if not cell and key != "split_column":
            raise ConfigError(f"{_EMPTY[key]} in {place}; fill in the cell or remove the row")
    split = cells.get("split_column", OPEN)
    if "split_column" in cells:
        if split.lower() not in SPLIT_NAMES:
            raise choose(f"the split in {place}", split, SPLIT_NAMES)
        split = SPLIT_NAMES[split.lower()]
    return Entry(
        place, cells["path_column"], cells["label_column"], split, cells.get("group_column")
    )
