"""Image files to uint8 arrays with Pillow; what cannot be read is collected, not skipped."""

from __future__ import annotations

import errno
import os
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from warmstart.data.bar import Bar
from warmstart.data.samples import Header
from warmstart.errors import ConfigError

T = TypeVar("T")

VERSION = 2
"""Raise when the same file would give other pixels."""

EXTENSIONS = (
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_GRAY_MODES = {"1", "L", "LA", "La", "I"}
_SIXTEEN_BITS = 65535
_TRIED = 16  # images, by whose time the way of the others is chosen
_SMALL_SECONDS = 0.001
_AHEAD = 4  # images per thread that may wait to be taken


@dataclass(frozen=True)
class Bad:
    """Why an image cannot be used."""

    reason: str


def read_header(path: Path) -> Header:
    """Return the header of an image file without decoding its pixels."""
    with _opened(path) as image:
        return header_of(image)


def header_of(image: Image.Image) -> Header:
    """Return the header of an image that Pillow has opened."""
    width, height = image.size
    # The orientations that lie on their side; of a TIFF, Pillow has turned the size already.
    if image.getexif().get(0x0112, 1) >= 5 and image.format != "TIFF":
        width, height = height, width
    gray = image.mode in _GRAY_MODES or image.mode.startswith("I;16")
    mode = " ".join(filter(None, [image.format, image.mode]))
    return Header(height, width, 1 if gray else 3, mode)


def decode(path: Path) -> np.ndarray:
    """Return the first frame of an image file: see `to_pixels`."""
    with _opened(path) as image:
        return to_pixels(image)


def to_pixels(image: Image.Image) -> np.ndarray:
    """Return an image upright, as uint8 [height, width, 1] when it is gray, else [..., 3].

    16-bit gray is rescaled to 8 bits, transparent parts lie on white (the paper under most
    drawings with transparency), palettes, CMYK and others are converted to colours.

    Raises:
        ValueError: The pixels have no range that is known.
    """
    channels = header_of(image).channels
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def each(work: Callable[[int], T], count: int, *, title: str) -> Iterator[T | Bad]:
    """Yield ``work(row)`` of each row in order, or why it failed, from one thread per core.

    Pillow's warning of a decompression bomb counts as a failure. On a terminal a progress bar
    appears when it takes long.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(_cores()) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Bar(title, total=count) as bar:
            for done, item in enumerate(_all(work, count, pool), 1):
                yield item
                bar.update(done)


def _all(work: Callable[[int], T], count: int, pool: ThreadPoolExecutor) -> Iterator[T | Bad]:
    rest = range(min(_TRIED, count), count)
    seconds = []
    for row in range(rest.start):
        start = time.thread_time()
        result = _attempt(work, row)
        seconds.append(time.thread_time() - start)
        yield result
    # The median, since the first image pays for imports.
    if not seconds or statistics.median(seconds) < _SMALL_SECONDS:
        # Threads would wait for one another: on small images most of the work is Python's.
        yield from (_attempt(work, row) for row in rest)
        return
    # A few at a time, since images that nobody has taken yet fill the memory.
    waiting: deque[Future[T | Bad]] = deque()
    for row in rest:
        waiting.append(pool.submit(_attempt, work, row))
        if len(waiting) >= _AHEAD * _cores():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _opened(path: Path) -> Image.Image:
    try:
        # No others: some of them are given to programs outside.
        return Image.open(path, formats=_FORMATS)
    except FileNotFoundError as error:
        raise ValueError("there is no such file, or a broken link") from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        raise ValueError("the file is empty" if empty else "it is not an image") from error


def _attempt(work: Callable[[int], T], row: int) -> T | Bad:
    try:
        return work(row)
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything on foreign bytes
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            # The system's fault, not the file's: it may be gone the next time.
            raise ConfigError(
                f"{error.filename} cannot be read ({error.strerror}); allow it, or remove it"
            ) from error
        return Bad((str(error) or type(error).__name__).splitlines()[0].rstrip("."))


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _SIXTEEN_BITS:
        raise ValueError("its values do not fit into 16 bits")
    return Image.fromarray(np.rint(values * (255 / _SIXTEEN_BITS)).astype(np.uint8))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
