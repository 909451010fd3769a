"""Data sets of the Hugging Face hub, and folders in their formats."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from warmstart.data.readers import stamp
from warmstart.data.samples import OPEN, SPLITS, Header, Samples
from warmstart.data.sources.files import check_exists
from warmstart.data.sources.listing import SPLIT_NAMES, check_trained, class_labels
from warmstart.errors import ConfigError, choose

if TYPE_CHECKING:
    from PIL import Image

Table = Any
"""A ``datasets.Dataset``, whose library has no types."""

_LABEL_TYPES = ("int", "uint", "string", "large_string", "bool")


def huggingface(
    *,
    name: str,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    splits: Mapping[str, str] | None = None,
) -> Samples:
    """Return a data set of the Hugging Face hub, or of a folder that its library reads.

    The library ``datasets`` (Lhoest et al. 2021, https://arxiv.org/abs/2109.02846) fetches and
    lists; it decodes nothing, and never runs code of a data set.

    Args:
        name: ``OWNER/NAME`` on the hub; a folder of images, Parquet files and the like; or one
            that ``save_to_disk`` has written.
        config: Name of one of the data set's configurations.
        revision: Commit or tag on the hub; None takes the newest.
        image_column: None takes the first column of images.
        label_column: None takes the only column of classes, or else ``label``.
        group_column: What must stay together, for example a patient; None for nothing.
        splits: From ``train``, ``val`` and ``test`` to the data set's names of them, to choose
            some; None takes all.

    Returns:
        Samples whose ids are row numbers, like ``train/00017``.

    Raises:
        ConfigError: The data set cannot be loaded, a column or split is missing or has another
            content, or an image has no label.
    """
    loaded = _loaded(str(name), config, revision)
    theirs = _split_names(loaded, splits)
    found = {split: loaded[own] for split, own in theirs.items()} or {OPEN: loaded}
    parts = {split: part.with_format(None) for split, part in found.items()}
    features = next(iter(parts.values())).features
    image = _image_column(features, image_column)
    label = _label_column(features, label_column)
    if group_column is not None and group_column not in features:
        raise choose("data.group_column", group_column, features)
    classes, labels = _labels(parts, label, theirs)
    groups = tuple(_values(parts, group_column, "group")) if group_column else None
    given = tuple(split for split, part in parts.items() for _ in range(len(part)))
    ids = tuple(_ids(parts))
    check_trained(classes, labels, given, ids)
    reader = _Rows(tuple(parts.values()), image)
    return Samples("huggingface", classes, ids, labels, given, reader, groups)


def _loaded(name: str, config: str | None, revision: str | None) -> Table:
    """Return a ``Dataset`` or a ``DatasetDict``."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "data=huggingface needs the library datasets; run pip install 'warmstart[datasets]'"
        ) from error
    folder = Path(name).expanduser()
    local = folder.is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1
    if local:
        check_exists("data.name", folder, "a folder, or OWNER/NAME on the hub")
    saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    for key, value, useless in (("config", config, saved), ("revision", revision, local)):
        if value is not None and useless:
            raise ConfigError(
                f"data.{key} is {value!r}, but the folder {name!r} has only one; leave it at null"
            )
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        if saved:
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder) if local else name, config, revision=revision)
    except Exception as error:  # a library that reads many formats may raise anything
        reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"data.name is {name!r}, which the library datasets cannot load ({reason}); give "
            "OWNER/NAME of a data set on the hub, or the path of a folder"
        ) from error


def _split_names(loaded: Table, splits: Mapping[str, str] | None) -> dict[str, str]:
    """Return the data set's names of the splits by ours; none for one table without a split."""
    if not hasattr(loaded, "items"):
        if splits is not None:
            raise ConfigError(
                f"data.splits is {dict(splits)}, but the data have no splits; leave it at null"
            )
        return {}
    if splits is None:
        unknown = [name for name in loaded if name.lower() not in SPLIT_NAMES]
        splits = {SPLIT_NAMES[name.lower()]: name for name in loaded if name not in unknown}
        if unknown or len(splits) < len(loaded):
            raise ConfigError(
                f"the data have the splits {', '.join(loaded)}; say which are taken with "
                f"data.splits, for example {{train: {next(iter(loaded))}}}"
            )
    for split, theirs in splits.items():
        if split not in SPLITS:
            raise choose("a key of data.splits", split, SPLITS)
        if theirs not in loaded:
            raise choose(f"data.splits.{split}", theirs, loaded)
    if not splits or len(set(splits.values())) < len(splits):
        raise ConfigError(f"data.splits is {dict(splits)}, but must name each split once")
    return {split: splits[split] for split in SPLITS if split in splits}


def _image_column(features: Mapping[str, Any], given: str | None) -> str:
    found = [name for name, feature in features.items() if _kind(feature) == "Image"]
    if not found:
        raise ConfigError(
            f"the data have no column of images, but {_listed(features)}; choose other data"
        )
    if given is not None and given not in found:
        raise choose("data.image_column", given, found)
    return given or found[0]


def _label_column(features: Mapping[str, Any], given: str | None) -> str:
    found = [name for name, feature in features.items() if _kind(feature) == "ClassLabel"]
    if given is None:
        given = found[0] if len(found) == 1 else "label"
        if given not in features:
            raise ConfigError(
                f"which column holds the labels is not clear among {_listed(features)}; set "
                "data.label_column"
            )
    if given not in features:
        raise choose("data.label_column", given, features)
    feature = features[given]
    dtype = str(getattr(feature, "dtype", ""))
    if _kind(feature) not in ("ClassLabel", "Value") or not dtype.startswith(_LABEL_TYPES):
        raise ConfigError(
            f"the column {given!r} holds {_kind(feature)} {dtype}, but must hold one class per "
            f"image, by number or name; set data.label_column to another of {_listed(features)}"
        )
    return given


def _labels(
    parts: Mapping[str, Table], column: str, theirs: Mapping[str, str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return class names, and all labels as int64 [n]."""
    names = {split: getattr(part.features[column], "names", None) for split, part in parts.items()}
    first = next(iter(names))
    for split, own in names.items():
        if own != names[first]:
            raise ConfigError(
                f"the classes of {split} are not those of {first}; choose with data.splits which "
                "splits are taken"
            )
    words = {split: list(_values({split: part}, column, "label")) for split, part in parts.items()}
    without = [split for split, own in words.items() if set(own) == {"-1"}]
    if 0 < len(without) < len(words):
        rest = ", ".join(f"{split}: {theirs[split]}" for split in words if split not in without)
        raise ConfigError(
            f"all labels of {' and '.join(theirs[split] for split in without)} are -1, which is no "
            f"class; leave its images out with data.splits={{{rest}}}"
        )
    ids = list(_ids(parts))
    return class_labels(
        [word for own in words.values() for word in own],
        names[first],
        place=lambda row: ids[row],
        named=f"the column {column!r}",
    )


def _values(parts: Mapping[str, Table], column: str, what: str) -> Iterator[str]:
    """Yield the values of a column of labels or groups as text.

    Raises:
        ConfigError: A value is missing.
    """
    values = (value for part in parts.values() for value in part[column][:])
    for name, value in zip(_ids(parts), values, strict=True):
        word = str(int(value) if isinstance(value, bool) else value).strip()
        if value is None or not word:
            raise ConfigError(
                f"{name} is an image with no {what}; choose with data.splits which splits are "
                "taken, or remove it"
            )
        yield word


class _Rows:
    """The images in a column of several tables, one after another."""

    def __init__(self, parts: Sequence[Table], column: str) -> None:
        import datasets
        from PIL import __version__ as pillow

        from warmstart.data import decode

        self._parts = [
            part.select_columns([column]).cast_column(column, datasets.Image(decode=False))
            for part in parts
        ]
        self._starts = [0, *accumulate(len(part) for part in parts)]
        self._column = column
        files = [stamp(Path(path)) for part in self._parts for path in _files(part, column)]
        tables = [part._fingerprint for part in parts]  # its only name, though private
        self.identity: object = (
            decode.VERSION,
            pillow,
            datasets.__version__,
            column,
            tables,
            files,
        )

    def header(self, row: int) -> Header:
        from warmstart.data.decode import header_of

        with self._opened(row) as image:
            return header_of(image)

    def image(self, row: int) -> np.ndarray:
        from warmstart.data.decode import to_pixels

        with self._opened(row) as image:
            return to_pixels(image)

    @contextmanager
    def _opened(self, row: int) -> Iterator[Image.Image]:
        from PIL import Image, UnidentifiedImageError

        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        value = self._parts[part][row - self._starts[part]][self._column]
        if value is None:
            raise ValueError("the table has no image here")
        try:
            content = value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])
            image = Image.open(content)
        except UnidentifiedImageError as error:
            raise ValueError("it is not an image") from error
        with image:
            yield image


def _files(part: Table, column: str) -> Iterator[str]:
    """Yield the paths of the images that lie in files of their own."""
    for chunk in part.with_format("arrow")[:].column(column).chunks:
        paths, content = chunk.field("path"), chunk.field("bytes")
        yield from paths.filter(content.is_null()).drop_null().to_pylist()


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())


def _ids(parts: Mapping[str, Table]) -> Iterator[str]:
    for split, part in parts.items():
        yield from (f"{split}/{row:05d}" if split else f"{row:05d}" for row in range(len(part)))
