"""Data sets that torchvision knows, in their original layouts, read by its own classes."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.data.readers import Arrays, ImageFiles, stamp
from warmstart.data.samples import Samples
from warmstart.data.sources.torchvision_sets import SETS, ImageSet, Take
from warmstart.errors import ConfigError, RunError, choose
from warmstart.fetch import fetch
from warmstart.store import lock


def torchvision_set(*, name: str, root: str | Path, download: bool = False) -> Samples:
    """Return a data set of torchvision's from its original files below `root`.

    The splits are those of the set's authors; what they left undivided is `OPEN`. torchvision
    compares what it fetches, and the files of some sets whenever they are read, with their
    published MD5 sums (docs/datasets.md); SHA-256 sums of them are not published.

    Args:
        name: One of `torchvision_sets.SETS`.
        root: The folder that holds what torchvision keeps there, such as ``cifar-10-batches-py``.
        download: Fetch the set if it is missing.

    Returns:
        Samples with ids like ``train/00017``, or with paths of files relative to `root`.

    Raises:
        ConfigError: There is no such set, or it is missing or cannot be read.
        RunError: The download failed.
    """
    if name not in SETS:
        raise choose("data.name", name, SETS)
    root = Path(root).expanduser().absolute()
    if _missing(SETS[name], root):
        _provide(name, root, download=download)
    try:
        return _read(name, root)
    except MemoryError:
        raise
    except Exception as error:  # a parser may raise anything on foreign bytes
        held = " and ".join(str(root / file) for file in SETS[name].files)
        raise ConfigError(
            f"{name} cannot be read ({_reason(error)}); if it is damaged or not complete, delete "
            f"{held}, then {SETS[name].by_hand or 'set data.download=true'}"
        ) from error


def _read(name: str, root: Path) -> Samples:
    image_set = SETS[name]
    ids: list[str] = []
    splits: list[str] = []
    arrays, labels, classes = [], [], set()
    for split, arguments in image_set.parts.items():
        data = _instance(image_set, root, arguments)
        images, numbers = _images_and_labels(data, image_set)
        if isinstance(images, list):
            ids += [Path(file).relative_to(root).as_posix() for file in images]
        else:
            ids += [f"{split}/{row:05d}".lstrip("/") for row in range(len(images))]
            arrays.append(np.asarray(images))
        splits += [split] * len(images)
        labels.append(numbers)
        classes.add(tuple(_take(data, image_set.classes)))
    if len(classes) > 1:
        raise ValueError("its parts have different classes")
    names, every = classes.pop(), np.concatenate(labels)
    if not 0 <= every.min() <= every.max() < len(names):
        raise ValueError(f"its labels are not those of {len(names)} classes")
    groups = tuple(_group(image_set.group, file) for file in ids) if image_set.group else None
    reader = _array(arrays, _identity(name, root)) if arrays else ImageFiles(root, ids)
    return Samples(name, names, tuple(ids), every, tuple(splits), reader, groups)


def _images_and_labels(data: Any, image_set: ImageSet) -> tuple[Any, np.ndarray]:
    """Return an array of images or a list of files, and labels from 0, of a part of a set."""
    images = _column(_take(data, image_set.images), 0)
    labels = _column(_take(data, image_set.labels), 1)
    if len(images) != len(labels):
        raise ValueError(f"it has {len(images)} images, but {len(labels)} labels")
    return images, np.asarray(labels, np.int64) - image_set.first


def _array(parts: list[np.ndarray], identity: object) -> Arrays:
    # Image by image, in whatever order the files hold the axes.
    pixels = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.uint8)
    return Arrays(np.concatenate(parts, out=pixels), identity=identity)


def _instance(
    image_set: ImageSet, root: Path, arguments: Mapping[str, object], **more: bool
) -> Any:
    from torchvision import datasets

    if not image_set.by_hand:  # else its class may know of no downloads
        more.setdefault("download", False)
    return getattr(datasets, image_set.kind)(root, **arguments, **more)


def _take(data: Any, take: Take | Sequence[str]) -> Any:
    if callable(take):
        return take(data)
    return getattr(data, take) if isinstance(take, str) else take


def _column(entries: Any, place: int) -> Any:
    pairs = isinstance(entries, list) and entries and isinstance(entries[0], tuple)
    return [entry[place] for entry in entries] if pairs else entries


def _group(pattern: str, file: str) -> str:
    found = re.search(pattern, file)
    return found[0] if found else file


def _identity(name: str, root: Path) -> object:
    from torchvision import __version__ as torchvision

    places = [root / file for file in SETS[name].files]
    inner = [path for place in places if place.is_dir() for path in sorted(place.rglob("*"))]
    files = [path for path in (*places, *inner) if path.is_file()]
    stamps = tuple((path.relative_to(root).as_posix(), *stamp(path)) for path in files)
    return torchvision, name, stamps


def _missing(image_set: ImageSet, root: Path) -> list[str]:
    return [file for file in image_set.files if not (root / file).exists()]


def _provide(name: str, root: Path, *, download: bool) -> None:
    """Fetch a set of which something is missing, or say how to get it."""
    image_set = SETS[name]
    missing = root / _missing(image_set, root)[0]
    if image_set.by_hand:
        raise ConfigError(
            f"{name} is not in data.root={root} ({missing} is missing), and torchvision cannot "
            f"fetch it: {image_set.by_hand}"
        )
    if not download:
        raise ConfigError(
            f"{name} is not in data.root={root} ({missing} is missing); give the folder that "
            f"holds {image_set.files[0]}, or data.download=true"
        )
    work = root / f".{name}.download"
    try:
        with lock(work):
            if _missing(image_set, root):  # nobody else has fetched it meanwhile
                _download(image_set, root, work)
    except Exception as error:  # of the network, the disk, or an archive
        raise RunError(
            f"{name} could not be downloaded to {root}: {_reason(error)}; what is whole or can be "
            f"resumed is kept in {work}, and the next attempt goes on from there"
        ) from error


def _download(image_set: ImageSet, root: Path, work: Path) -> None:
    """Fetch and unpack a set in `work`, and move it to `root` when it is whole.

    torchvision takes what a killed process has left of an unpacked archive for the data set.
    """
    tree = work / "unpacked"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    try:
        with _fetching(work, tree, root):
            for arguments in image_set.parts.values():
                _instance(image_set, tree, arguments, download=True)
        for file in _missing(image_set, root):
            os.replace(tree / file, root / file)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    shutil.rmtree(work)


@contextmanager
def _fetching(work: Path, tree: Path, root: Path) -> Iterator[None]:
    """Let torchvision take files from `work`, where `fetch` puts them, while the block runs.

    A file that lies in `root` already is not fetched.
    """
    from torchvision.datasets import utils

    given: list[Path] = []

    def retrieve(url: str, filename: str | Path, *_: object) -> None:
        target = Path(filename)
        source = root / target.relative_to(tree)
        if not source.is_file():
            source = work / target.name
            if source in given:  # and had another sum than the published one
                source.unlink()
            try:
                fetch(url, source)
            except OSError as error:  # for which torchvision would try http in place of https
                raise RunError(f"{url}: {error}") from error
        given.append(source)
        target.unlink(missing_ok=True)
        _same_file(source, target)

    replaced = utils._urlretrieve, utils._get_redirect_url
    utils._urlretrieve, utils._get_redirect_url = retrieve, lambda url, **_: url
    try:
        yield
    except RuntimeError as error:
        if "corrupted" in str(error) and given[-1].parent == work:
            given[-1].unlink(missing_ok=True)
        raise
    finally:
        utils._urlretrieve, utils._get_redirect_url = replaced


def _same_file(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not on every file system
        shutil.copyfile(source, target)


def _reason(error: Exception) -> str:
    if isinstance(error, RuntimeError) and "Dataset" in str(error):
        return "a file is missing, or its MD5 sum is not the published one"
    return " ".join(str(error).split())[:300] or type(error).__name__
