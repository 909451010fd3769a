"""A folder of images without labels, decoded once into the store."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from warmstart.data.readers import ImageFiles
from warmstart.errors import ConfigError
from warmstart.store import once, sha256


def unlabelled_folder(root: Path, *, store: Path, size: int) -> tuple[np.ndarray, str]:
    """Return all images under `root`, in folders or not, whatever these are called.

    Args:
        root: The folder; hidden files and files with other extensions are left out.
        store: The store's folder, where the decoded images are kept.
        size: Height and width in pixels to bring the images to (see `resize.fit`).

    Returns:
        The pixels, uint8 [n, size, size, channels] in the order of the files' names, a read-only
        memory map with 3 channels, or 1 when all files are gray; and their SHA-256 sum, which
        depends on nothing but them and their order.

    Raises:
        ConfigError: There is no such folder, it has no images, or a file cannot be read.
    """
    from warmstart.data.decode import EXTENSIONS

    reader = ImageFiles(root, _image_files(root, EXTENSIONS))
    identity = hashlib.sha256(repr((reader.identity, size)).encode()).hexdigest()[:16]
    make = partial(_decode_all, reader=reader, size=size)
    path = once(store / "images", f"unlabelled-{size}-{identity}", make) / "pixels.npy"
    return np.load(path, mmap_mode="r"), sha256(path)


def _image_files(root: Path, extensions: tuple[str, ...]) -> list[str]:
    """Return the image files under `root` as sorted paths relative to it, with slashes."""
    if not root.is_dir():
        raise ConfigError(
            f"init.unlabelled is {str(root)!r}, but there is no such folder; give the path of a "
            "folder of images"
        )
    paths = (path.relative_to(root) for path in root.rglob("*") if not path.is_dir())
    files = sorted(
        path.as_posix()
        for path in paths
        if path.name.lower().endswith(extensions)
        and not any(part.startswith(".") for part in path.parts)
    )
    if not files:
        raise ConfigError(
            f"init.unlabelled is {str(root)!r}, but it holds no images (accepted are "
            f"{', '.join(extensions)}); add some"
        )
    return files


def _decode_all(folder: Path, *, reader: ImageFiles, size: int) -> None:
    from warmstart.data.decode import Bad, each
    from warmstart.data.resize import fit

    count = len(reader.files)
    headers = list(each(reader.header, count, title="Reading headers"))
    bad = {row: header.reason for row, header in enumerate(headers) if isinstance(header, Bad)}
    gray = all(isinstance(header, Bad) or header.channels == 1 for header in headers)
    shape = (count, size, size, 1 if gray else 3)
    array = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)

    def work(row: int) -> np.ndarray:
        return fit(reader.image(row), size)

    for row, pixels in enumerate(each(work, count, title="Decoding unlabelled")):
        if isinstance(pixels, Bad):
            bad.setdefault(row, pixels.reason)
        else:
            array[row] = pixels
    if bad:
        row = min(bad)
        raise ConfigError(
            f"{len(bad)} of {count} images in {reader.root} cannot be read, the first is "
            f"{reader.files[row]} ({bad[row]}); replace or remove them"
        )
