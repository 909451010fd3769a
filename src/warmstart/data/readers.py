"""Readers of a source's images: files, or an array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from warmstart.data.samples import Header


class ImageFiles:
    """Image files, decoded by Pillow.

    Args:
        root: The folder that the names are relative to.
        files: Names with slashes.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        from PIL import __version__ as pillow

        from warmstart.data import decode

        self.root = root
        self.files = tuple(files)
        stamps = tuple((file, *stamp(root / file)) for file in self.files)
        self.identity: object = (decode.VERSION, pillow, str(root.resolve()), stamps)

    def header(self, row: int) -> Header:
        from warmstart.data.decode import read_header

        return read_header(self.root / self.files[row])

    def image(self, row: int) -> np.ndarray:
        from warmstart.data.decode import decode

        return decode(self.root / self.files[row])


class Arrays:
    """Images of one size in an array.

    Args:
        pixels: uint8 [n, height, width] or [n, height, width, channels].
        identity: Changes whenever a pixel does.
    """

    def __init__(self, pixels: np.ndarray, *, identity: object) -> None:
        self.pixels: np.ndarray = pixels if pixels.ndim == 4 else pixels[..., None]
        self.identity = identity

    def header(self, row: int) -> Header:
        height, width, channels = self.pixels.shape[1:]
        return Header(height, width, channels, f"array with {channels} channels")

    def image(self, row: int) -> np.ndarray:
        pixels: np.ndarray = self.pixels[row]
        return pixels


def stamp(path: Path) -> tuple[int, int, int]:
    """Return a file's size in bytes, and its times of change in nanoseconds; -1 where it is gone.

    The second is the system's own, which no copying program sets back.
    """
    try:
        status = path.stat()
    except OSError:
        return -1, -1, -1
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
