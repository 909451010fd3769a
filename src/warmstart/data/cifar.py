"""CIFAR-10 in its original layout, read by torchvision."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from warmstart.data.folder import stamp
from warmstart.data.images import Images, check_size
from warmstart.data.stored import pixels_path, stored_images, write_index
from warmstart.data.subsets import stratified_split
from warmstart.errors import ConfigError, RunError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

_NATIVE = 32


def cifar10(
    *,
    root: str | Path,
    store: Path,
    size: int | None = None,
    download: bool = False,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> Images:
    """Return CIFAR-10 from ``root/cifar-10-batches-py``; val is cut from train, class by class.

    torchvision compares the MD5 sums of the files with the published ones before it opens them.

    Source: "Learning Multiple Layers of Features from Tiny Images", Krizhevsky 2009.

    Args:
        root: The folder that holds ``cifar-10-batches-py``.
        store: The store's folder, where the arrays are kept.
        size: Height and width to bring the images to (see `decode.fit`); None leaves 32.
        download: Fetch the files when they are missing.
        val_fraction: Share of the training images that becomes val.
        split_seed: Of this cut, not of the run.

    Returns:
        Images of shape [n, size, size, 3]; ids like ``train/00017``.

    Raises:
        ConfigError: The files are missing or damaged.
        RunError: The download failed.
    """
    check_size(size)
    root = Path(root).expanduser()
    size = _NATIVE if size is None else size
    files = _present(root, download=download)
    identity = (size, val_fraction, split_seed, [(path.name, *stamp(path)) for path in files])
    make = partial(_read, root=root, size=size, val_fraction=val_fraction, split_seed=split_seed)
    return stored_images(store, f"cifar10-{size}", identity, make)


def _present(root: Path, *, download: bool) -> list[Path]:
    """Return the data set's files, fetched if some are missing and `download` is set."""
    from torchvision.datasets import CIFAR10

    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    files = [root / CIFAR10.base_folder / name for name in [*names, CIFAR10.meta["filename"]]]
    missing = [path for path in files if not path.is_file()]
    if missing and not download:
        raise ConfigError(
            f"CIFAR-10 is not in data.root={root} ({missing[0]} is missing); give the folder that "
            f"holds {CIFAR10.base_folder}, or data.download=true"
        )
    if missing:
        _download(root)
    return files


def _download(root: Path) -> None:
    from torchvision.datasets import CIFAR10

    try:
        CIFAR10(root, download=True)
    except (OSError, RuntimeError) as error:
        raise RunError(f"CIFAR-10 could not be downloaded to {root}: {error}") from error


def _read(folder: Path, *, root: Path, size: int, val_fraction: float, split_seed: int) -> None:
    train, test = _load(root, train=True), _load(root, train=False)
    targets = np.array(train.targets)
    val_rows, train_rows = stratified_split(targets, (val_fraction,), seed=split_seed)
    everything = np.arange(len(test.targets))
    parts = {
        "train": (train, "train", train_rows),
        "val": (train, "train", val_rows),
        "test": (test, "test", everything),
    }
    labels, ids = {}, {}
    for split, (source, prefix, rows) in parts.items():
        _write(pixels_path(folder, split), source.data, rows, size)
        labels[split] = [source.targets[row] for row in rows]
        ids[split] = [f"{prefix}/{row:05d}" for row in rows]
    write_index(folder, train.classes, labels, ids)


def _load(root: Path, *, train: bool) -> CIFAR10:
    from torchvision.datasets import CIFAR10

    try:
        return CIFAR10(root, train=train)
    except RuntimeError as error:
        raise ConfigError(
            f"a file in {root / CIFAR10.base_folder} is damaged (its MD5 sum is not the published "
            "one); delete that folder and set data.download=true"
        ) from error


def _write(path: Path, pixels: np.ndarray, rows: np.ndarray, size: int) -> None:
    from PIL import Image

    from warmstart.data.decode import fit

    shape = (len(rows), size, size, 3)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    for place, row in enumerate(rows):
        array[place] = np.asarray(fit(Image.fromarray(pixels[row]), size))
