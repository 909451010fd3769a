"""From images that a file lists to samples: where they lie, what their labels mean."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warmstart.data.readers import ImageFiles
from warmstart.data.samples import OPEN, Samples, check_classes
from warmstart.data.sources.files import check_exists, exists
from warmstart.errors import ConfigError, choose, nearest

SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What a split may be called in a folder, a table or a data set of others."""

_ABSOLUTE = re.compile(r"/|[A-Za-z]:/")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
_NEGATIVE_NUMBER = re.compile(r"-[0-9]+")


@dataclass(frozen=True)
class Entry:
    """An image that a file lists.

    Attributes:
        place: Of the entry, for messages: ``train.txt:17``.
        path: Of the image file, as it is listed.
        label: A class's name or its number.
        split: ``train``, ``val``, ``test`` or `OPEN`.
        group: What must stay together, or None.
    """

    place: str
    path: str
    label: str
    split: str = OPEN
    group: str | None = None


def samples_of(
    name: str,
    entries: Sequence[Entry],
    *,
    root: str | Path | None,
    beside: Path,
    strip: str | None,
    class_names: Sequence[str] | None = None,
) -> Samples:
    """Return the samples that the entries list; their ids are the paths below the root.

    Args:
        name: Of the source.
        entries: At least one; all or none of them have groups.
        root: See `located`.
        beside: See `located`.
        strip: See `located`.
        class_names: See `class_labels`.

    Raises:
        ConfigError: An image is missing or listed twice, a label has no class, or val or test
            have a class that train lacks.
    """
    folder, files = located([entry.path for entry in entries], root, beside=beside, strip=strip)
    _check_once(entries, files)
    _check_there(entries, files, folder)
    classes, labels = class_labels(
        [entry.label for entry in entries], class_names, place=lambda row: entries[row].place
    )
    splits = tuple(entry.split for entry in entries)
    check_trained(classes, labels, splits, files)
    groups = tuple(entry.group for entry in entries if entry.group is not None) or None
    return Samples(name, classes, tuple(files), labels, splits, ImageFiles(folder, files), groups)


def located(
    paths: Sequence[str], root: str | Path | None, *, beside: Path, strip: str | None
) -> tuple[Path, list[str]]:
    """Return the folder of listed images and their names below it, with slashes.

    With `strip`, this leading folder of every path is replaced by `root`. Else the paths are taken
    as they are listed: below `root`, or absolute where they lie in it. If none of the images is
    there, the deepest folder that all paths have in common is replaced by `root`.

    Args:
        paths: Relative, or absolute on any machine; with slashes, or all with backslashes.
        root: Folder of the images; None takes absolute paths as they are, others below `beside`.
        beside: Folder of the list.
        strip: Leading folder of the paths; None finds it.

    Raises:
        ConfigError: A path does not begin with `strip`, or `root` is missing.
    """
    plain = [_plain(path) for path in paths]
    if root is None and any(map(_ABSOLUTE.match, plain)) and strip is None:
        plain = [_plain(str(beside.absolute() / path)) for path in plain]
        common = _common_folder(plain)
        return Path(common), _without(plain, common)
    folder = beside if root is None else Path(root).expanduser()
    check_exists("data.root", folder, "the folder of the images")
    if strip is not None:
        prefix = _plain(str(strip))
        for path, given in zip(plain, paths, strict=True):
            if not path.startswith(prefix.rstrip("/") + "/"):
                raise ConfigError(
                    f"data.strip is {strip!r}, but the listed path {given!r} does not begin with "
                    "this folder; give a folder that all listed paths begin with, or null"
                )
        return folder, _without(plain, prefix)
    as_listed = [_below(path, folder) for path in plain]
    replaced = _without(plain, _common_folder(plain))
    elsewhere = any(map(_ABSOLUTE.match, as_listed))
    if elsewhere or (not _any_in(folder, as_listed) and _any_in(folder, replaced)):
        return folder, replaced
    return folder, as_listed


def class_labels(
    labels: Sequence[str],
    class_names: Sequence[str] | None,
    *,
    place: Callable[[int], str],
    named: str = "data.class_names",
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the classes and the index of each label's class.

    If all labels are whole numbers, they are indices of `class_names`; without these, the numbers
    that occur are the classes, in order. Other labels are names of classes, which are sorted.

    Args:
        labels: A number or a name per image.
        class_names: Of class 0, 1, ..., or None.
        place: From an image's row to the words that say where its label stands.
        named: Where `class_names` stand, in words.

    Returns:
        Class names, and int64 of shape [n].

    Raises:
        ConfigError: A label is negative or none of `class_names`.
    """
    distinct = set(labels)

    def where(label: str) -> str:
        return f"the label in {place(labels.index(label))}"

    for label in sorted(filter(_NEGATIVE_NUMBER.fullmatch, distinct)):
        raise ConfigError(
            f"{where(label)} is {label}, but labels count from 0; remove images without a label"
        )
    numbers = all(map(_WHOLE_NUMBER.fullmatch, distinct))
    if class_names is None:
        order = sorted({int(label) for label in distinct}) if numbers else sorted(distinct)
        classes = tuple(map(str, order))
        index = {name: row for row, name in enumerate(classes)}
        of = {label: index[str(int(label)) if numbers else label] for label in distinct}
    else:
        classes = tuple(class_names)
        index = {name: row for row, name in enumerate(classes)}
        of = {label: int(label) if numbers else index.get(label, -1) for label in distinct}
        for label in sorted(label for label in distinct if not 0 <= of[label] < len(classes)):
            if not numbers:
                raise choose(where(label), label, classes)
            raise ConfigError(
                f"{where(label)} is {label}, but {named} has {len(classes)} names, for the labels "
                f"0 ... {len(classes) - 1}; name every class"
            )
    return classes, np.array([of[label] for label in labels], np.int64)


def check_trained(
    classes: Sequence[str], labels: np.ndarray, splits: Sequence[str], ids: Sequence[str]
) -> None:
    """Raise if val or test have a class of which no image trains, or the classes are unusable."""
    check_classes(classes)  # before a second spelling seems to be a class that train lacks
    held = np.isin(splits, ("val", "test"))
    extra = sorted(set(labels[held].tolist()) - set(labels[~held].tolist()))
    if extra and not held.all():
        row = int(np.flatnonzero(held & (labels == extra[0]))[0])
        trained = [classes[label] for label in sorted(set(labels[~held].tolist()))]
        raise ConfigError(
            f"{splits[row]} has the class {classes[extra[0]]!r} that train lacks ({len(extra)} "
            f"such), for example {ids[row]}; add training images of it or remove it"
            f"{nearest(classes[extra[0]], trained)}"
        )


def _check_once(entries: Sequence[Entry], files: Sequence[str]) -> None:
    first: dict[str, Entry] = {}
    for entry, file in zip(entries, files, strict=True):
        if file in first:
            raise ConfigError(
                f"the image {file!r} is listed twice, in {first[file].place} and {entry.place}; "
                "list every image once"
            )
        first[file] = entry


def _check_there(entries: Sequence[Entry], files: Sequence[str], folder: Path) -> None:
    missing = [row for row, file in enumerate(files) if not _is_file(folder / file)]
    if missing:
        entry, file = entries[missing[0]], folder / files[missing[0]]
        raise ConfigError(
            f"{len(missing)} of {len(files)} listed images do not exist, the first is "
            f"{entry.path!r} in {entry.place}, a label with no image: there is no file {file}; "
            "set data.root to the folder of the images, or data.strip to what it replaces"
        )


def _plain(path: str) -> str:
    """Return a path of any machine with slashes, and without parts such as ``./``."""
    return posixpath.normpath(path if "/" in path else path.replace("\\", "/"))


def _common_folder(paths: Sequence[str]) -> str:
    folders = {posixpath.dirname(path) for path in paths}
    if len({path.startswith("/") for path in paths}) > 1:
        return ""
    return posixpath.commonpath(folders)


def _without(paths: Sequence[str], folder: str) -> list[str]:
    return [path[len(folder) :].lstrip("/") for path in paths]


def _below(path: str, folder: Path) -> str:
    prefix = _plain(str(folder.absolute())).rstrip("/") + "/"
    return path.removeprefix(prefix)


def _any_in(folder: Path, files: Sequence[str]) -> bool:
    return any(_is_file(folder / file) for file in files)


def _is_file(path: Path) -> bool:
    return exists(path) and path.is_file()
