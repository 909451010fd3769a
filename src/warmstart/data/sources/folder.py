"""One's own images in class folders, with or without split folders above them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from warmstart.data.archives import unpacked
from warmstart.data.decode import EXTENSIONS
from warmstart.data.readers import ImageFiles
from warmstart.data.samples import OPEN, Samples
from warmstart.data.sources.listing import SPLIT_NAMES, check_exists, check_trained
from warmstart.errors import ConfigError

# "Training", "test_set", "val2017", but no class such as "trainers", "valve" or "test strip".
_LIKE_A_SPLIT = re.compile(r"(train|val|valid|test)(ing|ation)?([_\-.\d].*)?")
_ACCEPTED = f"accepted are {', '.join(EXTENSIONS)}"


def image_folder(*, root: str | Path, store: Path) -> Samples:
    """Return the images in ``root/{train,val,test}/CLASS/*`` or ``root/CLASS/*``.

    `valid` and `validation` are taken for `val`, in upper case too. Folders inside a class belong
    to the class. Hidden files and files with other extensions than those of images are left out.

    Args:
        root: The folder, or an archive of it: a file or an address (see `archives.unpacked`).
        store: The store's folder, where archives are unpacked.

    Returns:
        Samples whose ids are the files' paths relative to `root`.

    Raises:
        ConfigError: The folder is missing or not arranged like this, a class has no image, an
            image no class, or val or test a class that train lacks.
    """
    if "://" not in str(root):
        check_exists("data.root", Path(root).expanduser(), "a folder or an archive of images")
    folder = unpacked(root, store=store)
    try:
        found = {
            (split, name): files
            for split, place in _split_folders(folder).items()
            for name, files in _class_files(place, folder).items()
        }
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be read ({error.strerror}); allow it or remove it"
        ) from error
    classes = tuple(sorted({name for _, name in found}))
    counts = [len(files) for files in found.values()]
    labels = np.repeat([classes.index(name) for _, name in found], counts).astype(np.int64)
    given = tuple(np.repeat([split for split, _ in found], counts).tolist())
    ids = tuple(file for files in found.values() for file in files)
    check_trained(classes, labels, given, ids)
    name = re.sub(r"[^\w.-]+", "-", Path(str(root).partition("#")[0]).stem) or "folder"
    return Samples(name, classes, ids, labels, given, ImageFiles(folder, ids))


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split that is there, the root as `OPEN` if none is."""
    inner = {folder: {path.name for path in _subfolders(folder)} for folder in _subfolders(root)}
    # A class may be called "train" as well: a split holds folders, a class holds images.
    splits: dict[str, Path] = {}
    for folder in filter(inner.get, inner):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in splits:
            raise ConfigError(
                f"{root} has both {splits[split].name!r} and {folder.name!r}; keep one of them"
            )
        if split:
            splits[split] = folder
    _check_names(root, inner, splits)
    if not splits:
        _check_order(root, inner)
        return {OPEN: root}
    if "train" not in splits:
        raise ConfigError(f"{root} has {', '.join(splits)} but no train folder; add root/train")
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _check_names(root: Path, inner: dict[Path, set[str]], splits: dict[str, Path]) -> None:
    """Raise if a folder looks like a split but would not be read as one."""
    trained = inner[splits["train"]] if "train" in splits else set()
    for folder in sorted(inner.keys() - set(splits.values())):
        name = folder.name.lower()
        if splits and name in SPLIT_NAMES:
            _check_labelled(folder, _files_in(folder))
            raise ConfigError(f"{folder} holds no class folders; add them or remove it")
        if inner[folder] and (_LIKE_A_SPLIT.fullmatch(name) or trained & inner[folder]):
            raise ConfigError(
                f"{root} has the folder {folder.name!r}, which looks like a split, but splits are "
                f"called {', '.join(SPLIT_NAMES)}; rename it or move it elsewhere"
            )


def _check_order(root: Path, inner: dict[Path, set[str]]) -> None:
    """Raise if the splits lie inside the classes, where they would be read as one."""
    for folder, names in inner.items():
        held = sorted(name for name in names if name.lower() in SPLIT_NAMES)
        if len({SPLIT_NAMES[name.lower()] for name in held}) > 1:
            raise ConfigError(
                f"{folder} has the folders {' and '.join(map(repr, held))}, but splits lie above "
                f"the classes; move their images to {root / held[0] / folder.name} and so on"
            )


def _class_files(folder: Path, root: Path) -> dict[str, list[str]]:
    """Return the sorted image files of each class folder, relative to `root`."""
    found = {inner.name: _images_in(inner, root) for inner in _subfolders(folder)}
    _check_labelled(folder, _files_in(folder))
    if not any(found.values()):
        raise ConfigError(f"{folder} holds no images in class folders ({_ACCEPTED}); add some")
    for name, files in found.items():
        if not files:
            raise ConfigError(
                f"the class folder {folder / name} holds no images ({_ACCEPTED}), so it is a label "
                "with no image; add some or remove the folder"
            )
    return found


def _check_labelled(folder: Path, loose: Sequence[str]) -> None:
    if loose:
        raise ConfigError(
            f"{folder} holds {len(loose)} images with no label, the first is {loose[0]}; put the "
            "images of each class into a folder with the class's name, and others elsewhere"
        )


def _files_in(folder: Path) -> list[str]:
    return _images(path.name for path in folder.iterdir() if not path.is_dir())


def _images_in(folder: Path, root: Path) -> list[str]:
    """Return the sorted images at any depth below `folder`, relative to `root`."""
    files: list[str] = []
    for place, inner, names in os.walk(folder, onerror=_raise, followlinks=True):
        here = Path(place)
        inner[:] = [name for name in inner if _counts(name) and not _leads_back(here / name)]
        prefix = here.relative_to(root).as_posix()
        files += [f"{prefix}/{name}" for name in _images(names)]
    return sorted(files)


def _images(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(EXTENSIONS) and _counts(name))


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _counts(entry.name) and entry.is_dir()]
    return [folder / name for name in sorted(names)]


def _counts(name: str) -> bool:
    """Return whether a file or folder is no hidden one, nor what macOS adds to archives."""
    return name[0] != "." and name != "__MACOSX"


def _raise(error: OSError) -> None:
    raise error


def _leads_back(folder: Path) -> bool:
    here = folder.parent.resolve()
    return folder.is_symlink() and folder.resolve() in (here, *here.parents)
