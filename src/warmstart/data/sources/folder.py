"""One's own images in class folders, with or without split folders above them."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from warmstart.data.archives import innermost, unpacked
from warmstart.data.decode import EXTENSIONS
from warmstart.data.readers import ImageFiles
from warmstart.data.samples import OPEN, Samples
from warmstart.data.sources.files import check_exists, is_visible
from warmstart.data.sources.listing import SPLIT_NAMES, check_trained
from warmstart.errors import ConfigError

# "Training", "test_set", "val2017", but no class such as "trainers", "valve" or "test strip".
_LIKE_A_SPLIT = re.compile(r"(train|val|valid|test)(ing|ation)?([_\-.\d].*)?")
_ACCEPTED = f"accepted are {', '.join(EXTENSIONS)}"
_KINDS = (
    ".arw .avif .cr2 .cr3 .dcm .dng .exr .heic .heif .j2k .jfif .jp2 .jpe .jxl .nef .orf .pbm .pnm "
    ".psd .raf .raw .rw2 .svg .tga"
)
_NOT_READ = tuple(kind for kind in _KINDS.split() if kind not in EXTENSIONS)
_log = logging.getLogger(__name__)


def image_folder(*, root: str | Path, store: Path) -> Samples:
    """Return the images in ``root/{train,val,test}/CLASS/*`` or ``root/CLASS/*``.

    `valid` and `validation` are taken for `val`, in upper case too. Folders inside a class belong
    to the class. Hidden files and files with other extensions than those of images are left out;
    a warning counts images of kinds that are not read.

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
    others: Counter[str] = Counter()
    try:
        found = {
            (split, name): files
            for split, place in _split_folders(folder).items()
            for name, files in _class_files(place, folder, others).items()
        }
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be read ({error.strerror}); allow it or remove it"
        ) from error
    if others:
        _log.warning(
            "%d files of kinds that are not read are left out (%s): convert them to PNG or JPEG",
            others.total(),
            ", ".join(f"{kind} {count}" for kind, count in sorted(others.items())),
        )
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
        _check_depth(root, inner)
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


def _check_depth(root: Path, inner: dict[Path, set[str]]) -> None:
    """Raise if all classes lie in one folder, which would be read as the only class."""
    place = innermost(root)
    if place != root and not _files_in(next(iter(inner))):
        raise ConfigError(
            f"the only folder in {root} is {next(iter(inner)).name!r}, which holds folders and no "
            f"images; give data.root={place}, the place that has the class folders"
        )


def _class_files(folder: Path, root: Path, others: Counter[str]) -> dict[str, list[str]]:
    """Return the sorted image files of each class folder, relative to `root`.

    Images of other kinds are counted in `others`.
    """
    found = {inner.name: _images_in(inner, root, others) for inner in _subfolders(folder)}
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
    return sorted(_of(EXTENSIONS, (path.name for path in folder.iterdir() if not path.is_dir())))


def _images_in(folder: Path, root: Path, others: Counter[str]) -> list[str]:
    """Return the sorted images at any depth below `folder`, relative to `root`."""
    files: list[str] = []
    for place, inner, names in os.walk(folder, onerror=_raise, followlinks=True):
        here = Path(place)
        inner[:] = [name for name in inner if is_visible(name) and not _leads_back(here / name)]
        prefix = here.relative_to(root).as_posix()
        files += [f"{prefix}/{name}" for name in _of(EXTENSIONS, names)]
        others.update(Path(name).suffix.lower() for name in _of(_NOT_READ, names))
    return sorted(files)


def _of(kinds: tuple[str, ...], names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(kinds) and is_visible(name)]


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if is_visible(entry.name) and entry.is_dir()]
    return [folder / name for name in sorted(names)]


def _raise(error: OSError) -> None:
    raise error


def _leads_back(folder: Path) -> bool:
    here = folder.parent.resolve()
    return folder.is_symlink() and folder.resolve() in (here, *here.parents)
