"""A folder of images without labels, decoded once into the store."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from warmstart.data.folder import refuse, stamp
from warmstart.data.images import check_size
from warmstart.errors import ConfigError
from warmstart.store import once, sha256


def unlabelled_folder(root: Path, *, store: Path, size: int) -> tuple[np.ndarray, str]:
    """Return all images under `root`, in folders or not, whatever these are called.

    Args:
        root: The folder; hidden files and files with other extensions are left out.
        store: The store's folder, where the decoded images are kept.
        size: Height and width in pixels to bring the images to (see `decode.fit`).

    Returns:
        The pixels, uint8 [n, size, size, channels] in the order of the files' names, a read-only
        memory map with 3 channels, or 1 when all files are gray; and their SHA-256 sum, which
        depends on nothing but them and their order.

    Raises:
        ConfigError: There is no such folder, it has no images, or a file cannot be read.
    """
    from PIL import __version__ as pillow

    from warmstart.data import decode

    check_size(size)
    files = _image_files(root, decode.EXTENSIONS)
    identity = (decode.VERSION, pillow, size, [(file, *stamp(root / file)) for file in files])
    key = f"unlabelled-{size}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}"
    folder = once(store / "images", key, partial(_decode_all, root=root, files=files, size=size))
    path = folder / "pixels.npy"
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


def _decode_all(folder: Path, *, root: Path, files: list[str], size: int) -> None:
    from warmstart.data.decode import Bad, decode, each_file, read_header

    paths = [root / file for file in files]
    bad: dict[str, str] = {}
    gray = True
    for file, header in zip(files, each_file(read_header, paths, title="Reading"), strict=True):
        if isinstance(header, Bad):
            bad[file] = header.reason
        else:
            gray = gray and header.gray
    shape = (len(files), size, size, 1 if gray else 3)
    array = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)
    work = partial(decode, gray=gray, size=size)
    for row, pixels in enumerate(each_file(work, paths, title="Decoding unlabelled")):
        if isinstance(pixels, Bad):
            bad[files[row]] = pixels.reason
        else:
            array[row] = pixels
    refuse(bad, files, root)
