"""Image files to uint8 arrays with Pillow; what cannot be read is collected, not skipped."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

T = TypeVar("T")

VERSION = 1
"""Raise when the same file would give other pixels."""

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_GRAY_MODES = {"1", "L", "LA", "La", "I"}
_SIXTEEN_BITS = 65535
_CHUNK = 16  # files
_PROGRESS_AFTER_SECONDS = 2.0


@dataclass(frozen=True)
class Header:
    """What a file says about its image: upright height and width in pixels, and its colour."""

    height: int
    width: int
    gray: bool


@dataclass(frozen=True)
class Bad:
    """Why a file cannot be used."""

    reason: str


def read_header(path: Path) -> Header:
    """Return the header of an image file without decoding its pixels."""
    with Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(0x0112, 1) >= 5:  # the orientations that lie on their side
            width, height = height, width
        return Header(height, width, image.mode in _GRAY_MODES or image.mode.startswith("I;16"))


def decode(path: Path, *, gray: bool, size: int | None) -> np.ndarray:
    """Return the first frame of an image file, upright, as uint8 [height, width, channels].

    16-bit gray is rescaled to 8 bits, transparent parts lie on white (the paper under most
    drawings with transparency), palettes, CMYK and others are converted to colours.

    Args:
        path: The file.
        gray: One channel instead of three.
        size: See `fit`; None leaves the image's own size.
    """
    with Image.open(path) as opened:
        image: Image.Image = opened
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):
            image = _eight_bits(image)
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers")
        if image.has_transparency_data:
            paper = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(paper, image.convert("RGBA"))
        image = image.convert("L" if gray else "RGB")
        pixels = np.asarray(image if size is None else fit(image, size))
    return pixels.reshape(*pixels.shape[:2], 1 if gray else 3)


def fit(image: Image.Image, size: int) -> Image.Image:
    """Return the middle `size` x `size` pixels of the image, scaled with antialiasing.

    The shorter side becomes 256/224 of `size` before the cut, as in torchvision's evaluation
    transforms; exactly `size` below 64 pixels, where no margin can be spared. An image that has
    the right size is returned as it is.
    """
    if image.size == (size, size):
        return image
    short = round(size * 256 / 224) if size >= 64 else size
    shortest = min(image.size)
    width, height = (int(short * side / shortest) for side in image.size)
    if width * height > (Image.MAX_IMAGE_PIXELS or width * height):
        raise ValueError(f"it is too elongated ({image.width}x{image.height}) to be scaled")
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + size, top + size))


def each_file(work: Callable[[Path], T], paths: Sequence[Path], *, title: str) -> Iterator[T | Bad]:
    """Yield ``work(path)`` of every file in order, or why it failed, from one thread per core.

    Pillow's warning of a decompression bomb counts as a failure. On a terminal a progress bar
    appears when it takes long.
    """

    def attempt(chunk: Sequence[Path]) -> list[T | Bad]:
        return [_attempt(work, path) for path in chunk]

    # In chunks, since handing over one small image costs as much as decoding it.
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with warnings.catch_warnings(), ThreadPoolExecutor(_cores()) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        results = chain.from_iterable(pool.map(attempt, chunks))
        yield from _progress(results, len(paths), title=title)


def _attempt(work: Callable[[Path], T], path: Path) -> T | Bad:
    try:
        return work(path)
    except Exception as error:  # a decoder may raise anything on foreign bytes
        return Bad(_reason(path, error))


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _SIXTEEN_BITS:
        raise ValueError("its values do not fit into 16 bits")
    return Image.fromarray(np.rint(values * (255 / _SIXTEEN_BITS)).astype(np.uint8))


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty" if path.stat().st_size == 0 else "it is not an image"
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _progress(items: Iterable[T], total: int, *, title: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import Progress

    start, bar = time.monotonic(), None
    try:
        for done, item in enumerate(items, 1):
            yield item
            slow = time.monotonic() - start > _PROGRESS_AFTER_SECONDS
            if bar is None and slow and sys.stderr.isatty():
                bar = Progress(console=Console(stderr=True), transient=True)
                task = bar.add_task(title, total=total)
                bar.start()
            if bar is not None:
                bar.update(task, completed=done)
    finally:
        if bar is not None:
            bar.stop()
