"""One's own images, named by text files with a path and a label per line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.data.decode import EXTENSIONS
from warmstart.data.samples import Samples
from warmstart.data.sources.files import read_class_names, read_lines
from warmstart.data.sources.listing import Entry, samples_of
from warmstart.errors import ConfigError


def list_files(
    *,
    train_file: str | Path,
    val_file: str | Path | None = None,
    test_file: str | Path | None = None,
    root: str | Path | None = None,
    strip: str | None = None,
    class_names: str | Path | Sequence[str] | None = None,
    separator: str | None = None,
) -> Samples:
    """Return the images that text files list, ``PATH LABEL`` per line, as Caffe reads them.

    Empty lines and those that begin with ``#`` are left out. If all labels are whole numbers,
    they count from 0 and stand for the `class_names`; without these, the numbers that occur are
    the classes. Other labels are the names of classes.

    The lists may come from another machine: `root` takes the place of `strip`, the folder that
    their paths begin with. Where `strip` is None, the paths are tried as they are listed, below
    `root`; if none of the images is there, or the paths are absolute and lead elsewhere, `root`
    takes the place of the deepest folder that the paths of all lists have in common.

    Args:
        train_file: List of the images for training.
        val_file: List of the images for validation; None cuts them from train.
        test_file: List of the images for the test; None cuts them from train.
        root: Folder of the images; None takes absolute paths as they are, and others below the
            folder of `train_file`.
        strip: Leading folder of the listed paths.
        class_names: Of class 0, 1, ...: a file with a name per line, or the names.
        separator: What stands between path and label, such as ``","``; None takes the last white
            space, so that a path may hold spaces.

    Returns:
        Samples whose ids are the paths below `root`.

    Raises:
        ConfigError: A list is missing, a line has no label, an image is missing or listed twice,
            or a label has no class.
    """
    if separator == "":
        raise ConfigError("data.separator is empty; give what stands before a label, or null")
    files = {"train": train_file, "val": val_file, "test": test_file}
    entries = [
        entry
        for split, file in files.items()
        if file is not None
        for entry in _entries(f"data.{split}_file", file, split=split, separator=separator)
    ]
    beside = Path(train_file).expanduser().parent
    names = read_class_names(class_names)
    return samples_of("list", entries, root=root, beside=beside, strip=strip, class_names=names)


def parse(line: str, separator: str | None) -> tuple[str, str] | None:
    """Return the path and the label of a line; None where there are not both.

    Args:
        line: Neither empty nor a comment.
        separator: See `list_files`.
    """
    path, _, label = map(str.strip, _cut(line.strip(), separator))
    if not path or not label or label.lower().endswith(EXTENSIONS):
        return None
    return path, label


def _cut(line: str, separator: str | None) -> tuple[str, str, str]:
    if separator is not None:
        return line.rpartition(str(separator))
    words = line.rsplit(maxsplit=1)
    return (words[0], " ", words[1]) if len(words) == 2 else ("", "", line)


def _entries(key: str, file: str | Path, *, split: str, separator: str | None) -> Iterator[Entry]:
    """Yield the images of one list.

    Raises:
        ConfigError: The list holds no images, or a line no label.
    """
    empty = True
    for number, line in enumerate(read_lines(key, file), 1):
        if not line or line.startswith("#"):
            continue
        place = f"{file}:{number}"
        found = parse(line, separator)
        if found is None:
            raise ConfigError(
                f"{place} is {line!r}, an image with no label; write the path, "
                f"{'a space' if separator is None else repr(separator)} and the label"
            )
        empty = False
        yield Entry(place, *found, split=split)
    if empty:
        raise ConfigError(f"{key} is {str(file)!r}, which lists no images; add some")
