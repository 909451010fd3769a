"""Features as files for other programs: ``.npz`` or Parquet, in parts where they are large."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.errors import ConfigError
from warmstart.exporting import Export, GroupFeatures
from warmstart.store import publish

ENDINGS = (".npz", ".parquet")

_FILE_BYTES = 2**30
_BLOCK_ROWS = 4096

Piece = tuple[str, range]  # a split, and some of its rows


def check_place(path: Path) -> None:
    """Refuse a file that could not be written once the features are there.

    Raises:
        ConfigError: It has another ending, it is a folder, or its library is not installed.
    """
    if path.suffix not in ENDINGS or path.is_dir():
        raise ConfigError(f"--out is {path}, but must be a file *{' or *'.join(ENDINGS)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"--out is {path}, but Parquet files need pyarrow; run "
                "pip install 'warmstart[datasets]', or write *.npz"
            ) from error


def write(export: Export, path: Path) -> list[Path]:
    """Write all features, and return the files.

    Those of more than a GiB go into several files, ``NAME-00000-of-00003.npz`` and so on, which
    have the images in the order of train, val, test.

    Args:
        export: One feature of each image, or several.
        path: Ending in ``.npz``: for each split S the arrays ``S_features`` [n, d] (of several
            groups ``S_features_GROUP``), ``S_labels`` and ``S_ids``; and ``classes``. Ending in
            ``.parquet``: a row per image with ``id``, ``label``, ``split`` and ``feature`` (or
            ``feature_GROUP``); names of the classes in the metadata of its schema.
    """
    parts = list(_parts(export))
    files = [path]
    if len(parts) > 1:
        form = "{0.stem}-{1:05d}-of-{2:05d}{0.suffix}"
        files = [path.with_name(form.format(path, i, len(parts))) for i in range(len(parts))]
    make = _npz if path.suffix == ".npz" else _parquet
    for file, pieces in zip(files, parts, strict=True):
        publish(file, lambda part, pieces=pieces: make(part, export, pieces))  # type: ignore[misc]
    return files


def _parts(export: Export) -> Iterator[list[Piece]]:
    """Cut the images into parts whose features fit into a file."""
    width = sum(next(iter(group.splits.values())).shape[1] for group in export.groups)
    most = max(1, _FILE_BYTES // (width * (2 if export.half else 4)))
    pieces: list[Piece] = []
    room = most
    for split, labels in export.labels.items():
        start = 0
        while start < len(labels):
            stop = min(len(labels), start + room)
            pieces.append((split, range(start, stop)))
            room -= stop - start
            start = stop
            if not room:
                yield pieces
                pieces, room = [], most
    if pieces:
        yield pieces


def _blocks(export: Export, group: GroupFeatures, piece: Piece) -> Iterator[np.ndarray]:
    """Yield the features of a piece in their order: float16 or float32 [b, d]."""
    split, rows = piece
    kind = np.float16 if export.half else np.float32
    for start in range(rows.start, rows.stop, _BLOCK_ROWS):
        block = np.arange(start, min(start + _BLOCK_ROWS, rows.stop))
        yield np.ascontiguousarray(group.splits[split][block].float().numpy(), kind)


def _named(export: Export, name: str) -> list[tuple[str, GroupFeatures]]:
    if len(export.groups) == 1:
        return [(name, export.groups[0])]
    return [(f"{name}_{group.group}", group) for group in export.groups]


def _npz(path: Path, export: Export, pieces: list[Piece]) -> None:
    """Write what `numpy.load` reads, without all features in memory at once."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:

        def add(name: str, array: np.ndarray) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)

        for split, rows in pieces:
            for name, group in _named(export, f"{split}_features"):
                _add_features(archive, f"{name}.npy", export, group, (split, rows))
            add(f"{split}_labels", export.labels[split][rows.start : rows.stop])
            add(f"{split}_ids", np.array(export.ids[split][rows.start : rows.stop]))
        add("classes", np.array(export.classes))


def _add_features(
    archive: zipfile.ZipFile, name: str, export: Export, group: GroupFeatures, piece: Piece
) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.float16 if export.half else np.float32)),
        "fortran_order": False,
        "shape": (len(piece[1]), group.splits[piece[0]].shape[1]),
    }
    with archive.open(name, "w", force_zip64=True) as entry:
        np.lib.format.write_array_header_1_0(entry, header)
        for block in _blocks(export, group, piece):
            entry.write(block.data)


def _parquet(path: Path, export: Export, pieces: list[Piece]) -> None:
    import pyarrow
    from pyarrow import parquet

    named = _named(export, "feature")
    number = pyarrow.float16() if export.half else pyarrow.float32()
    fields = [("id", pyarrow.string()), ("label", pyarrow.int64()), ("split", pyarrow.string())]
    for name, group in named:
        width = next(iter(group.splits.values())).shape[1]
        fields.append((name, pyarrow.list_(number, width)))
    schema = pyarrow.schema(fields, metadata={"classes": json.dumps(export.classes)})
    with parquet.ParquetWriter(path, schema) as writer:
        for split, rows in pieces:
            start = rows.start
            groups = [_blocks(export, group, (split, rows)) for _, group in named]
            for blocks in zip(*groups, strict=True):
                place = slice(start, start := start + len(blocks[0]))
                columns: list[Any] = [
                    # Names of files may be odd.
                    [
                        name.encode("utf-8", "backslashreplace").decode()
                        for name in export.ids[split][place]
                    ],
                    export.labels[split][place],
                    [split] * len(blocks[0]),
                ]
                columns += [
                    pyarrow.FixedSizeListArray.from_arrays(block.ravel(), block.shape[1])
                    for block in blocks
                ]
                writer.write_table(pyarrow.table(columns, schema=schema))
