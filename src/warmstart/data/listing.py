"""Which image files a folder holds: class folders, with or without split folders above them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warmstart.data.subsets import stratified_split
from warmstart.errors import ConfigError, nearest

_SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Listing:
    """The image files of a data set.

    Attributes:
        classes: Sorted names of the class folders.
        files: Each split's files as paths relative to the root, with slashes.
        labels: Each split's class indices, aligned with `files`.
    """

    classes: tuple[str, ...]
    files: dict[str, list[str]]
    labels: dict[str, list[int]]


def list_images(
    root: Path,
    extensions: tuple[str, ...],
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
) -> Listing:
    """Return the image files under `root`, and cut val and test from train where they are absent.

    Hidden files and files with other extensions are left out.

    Raises:
        ConfigError: The folder is missing or holds no classes of images, or the splits disagree
            on the classes.
    """
    _check_folder(root)
    folders = _split_folders(root)
    found = {split: _class_files(folder, root, extensions) for split, folder in folders.items()}
    classes = sorted(found["train"])
    if len(classes) < 2:
        raise ConfigError(
            f"{folders['train']} holds one class only ({classes[0]!r}), but a comparison needs at "
            "least two; add a folder with the images of another class"
        )
    for split, folder in folders.items():
        _check_same(found["train"], found[split], folder)
    files = {split: [file for name in classes for file in found[split][name]] for split in folders}
    labels = {
        split: [label for label, name in enumerate(classes) for _ in found[split][name]]
        for split in folders
    }
    listing = Listing(tuple(classes), files, labels)
    fractions = {"val": val_fraction, "test": test_fraction}
    absent = {split: share for split, share in fractions.items() if split not in folders}
    return _cut(listing, absent, seed=split_seed) if absent else listing


def _check_folder(root: Path) -> None:
    """Raise unless `root` is a folder; name the first missing part and what is like it."""
    if root.is_dir():
        return
    if root.exists():
        raise ConfigError(f"data.root is {str(root)!r}, a file, but must be a folder of images")
    missing = root
    while not missing.parent.is_dir():
        missing = missing.parent
    siblings = [path.name for path in missing.parent.iterdir() if path.is_dir()]
    raise ConfigError(
        f"data.root is {str(root)!r}, but {str(missing.parent)!r} has no folder "
        f"{missing.name!r}{nearest(missing.name, siblings) or '; give the path of an image folder'}"
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split that is there; the root itself as train if none is."""
    # A class may be called "train" as well: a split holds folders, a class holds images.
    with_classes = [folder for folder in _subfolders(root) if _subfolders(folder)]
    splits: dict[str, Path] = {}
    for folder in with_classes:
        split = _SPLIT_NAMES.get(folder.name)
        if split in splits:
            raise ConfigError(
                f"{root} has both {splits[split].name!r} and {folder.name!r}; keep one of them"
            )
        if split:
            splits[split] = folder
    if not splits:
        return {"train": root}
    if "train" not in splits:
        raise ConfigError(f"{root} has {', '.join(splits)} but no train folder; add root/train")
    classes = {folder.name for folder in _subfolders(splits["train"])}
    for folder in with_classes:
        known = folder.name in _SPLIT_NAMES
        if not known and classes & {inner.name for inner in _subfolders(folder)}:
            raise ConfigError(
                f"{root} has the folder {folder.name!r} beside 'train', but splits are called "
                f"{', '.join(_SPLIT_NAMES)}; rename it or move it elsewhere"
            )
    return splits


def _class_files(folder: Path, root: Path, extensions: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the sorted image files of each class folder, relative to `root`."""
    found = {inner.name: _images_in(inner, root, extensions) for inner in _subfolders(folder)}
    accepted = f"accepted are {', '.join(extensions)}"
    if not any(found.values()):
        loose = _images_in(folder, root, extensions)
        if loose:
            raise ConfigError(
                f"{folder} holds {len(loose)} images but no class folders; put the images of each "
                "class into a folder with the class's name"
            )
        raise ConfigError(f"{folder} holds no images in class folders ({accepted}); add some")
    for name, files in found.items():
        if not files:
            raise ConfigError(
                f"the class folder {folder / name} holds no images ({accepted}); "
                "add some or remove the folder"
            )
    return found


def _images_in(folder: Path, root: Path, extensions: tuple[str, ...]) -> list[str]:
    files = []
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        prefix = Path(place).relative_to(root).as_posix()
        files += [
            f"{prefix}/{name}"
            for name in names
            if name.lower().endswith(extensions) and not name.startswith(".")
        ]
    return sorted(files)


def _check_same(train: dict[str, list[str]], other: dict[str, list[str]], folder: Path) -> None:
    missing, extra = sorted(train.keys() - other.keys()), sorted(other.keys() - train.keys())
    if missing:
        raise ConfigError(
            f"{folder} lacks the class {missing[0]!r} that train has ({len(missing)} such); "
            "every split needs the same class folders"
        )
    if extra:
        raise ConfigError(
            f"{folder} has the class {extra[0]!r} that train lacks ({len(extra)} such); "
            "every split needs the same class folders"
        )


def _cut(listing: Listing, fractions: dict[str, float], *, seed: int) -> Listing:
    """Return the listing with the splits in `fractions` cut from train, stratified."""
    labels = np.array(listing.labels["train"])
    parts = stratified_split(labels, list(fractions.values()), seed=seed)
    files, new_labels = dict(listing.files), dict(listing.labels)
    for split, rows in zip([*fractions, "train"], parts, strict=True):
        files[split] = [listing.files["train"][row] for row in rows]
        new_labels[split] = [listing.labels["train"][row] for row in rows]
    return Listing(listing.classes, files, new_labels)


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    return [folder / name for name in sorted(names)]
