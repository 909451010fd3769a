"""All images of a source, decoded once into the store, or read from their files each time."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from warmstart.data import resize
from warmstart.data.decode import Bad, each
from warmstart.data.images import Pictures
from warmstart.data.index import Headers, Index, IndexWriter, entry_key, fingerprint, read_index
from warmstart.data.samples import Samples
from warmstart.errors import ConfigError, RunError
from warmstart.store import opened, trim

_IDENTITY = (1, resize.VERSION)  # the first number rises when an entry's form changes

_NOTHING = np.empty(0, np.uint8)

Decode = Callable[[int], np.ndarray]


class Originals:
    """Images of all sizes in one memory-mapped array.

    Args:
        flat: uint8 of shape [sum of height x width x channels].
        heights: int32 of shape [n]; 0 for a damaged image.
        widths: int32 of shape [n].
        channels: Of every image.
    """

    def __init__(
        self, flat: np.ndarray, heights: np.ndarray, widths: np.ndarray, channels: int
    ) -> None:
        self._flat = flat
        self._shapes = np.stack([heights, widths], axis=1)
        self._channels = channels
        counts = heights.astype(np.int64) * widths * channels
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts

    def __getitem__(self, row: int) -> np.ndarray:
        height, width = self._shapes[row]
        flat = self._flat[self._starts[row] : self._ends[row]]
        return flat.reshape(height, width, self._channels)

    def as_pictures(self) -> Pictures:
        """Return images that all have one size as one array."""
        height, width = self._shapes.max(axis=0)
        return self._flat.reshape(-1, height, width, self._channels)


class Streamed:
    """Images of all sizes that are decoded whenever they are asked for."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode

    def __getitem__(self, row: int) -> np.ndarray:
        return self._decode(row)


class StreamedPictures:
    """Images that are decoded and brought to one size whenever they are asked for."""

    def __init__(self, decode: Decode, shape: tuple[int, int, int, int]) -> None:
        self._decode = decode
        self.shape: tuple[int, ...] = shape

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([self._image(int(row)) for row in rows])

    def _image(self, row: int) -> np.ndarray:
        pixels = self._decode(row)
        return pixels if pixels.shape == self.shape[1:] else resize.fit(pixels, self.shape[1])


class Pool:
    """Makes the forms of a source's images that a run needs, each once for all runs.

    Args:
        samples: Of the source.
        headers: Of all its images.
        channels: That every image is brought to.
        shrink: Shorter side to which larger images are brought, or None.
        store: The store's folder.
        limit: Bytes of decoded images that the store may hold.
    """

    def __init__(
        self,
        samples: Samples,
        headers: Headers,
        *,
        channels: int,
        shrink: int | None,
        store: Path,
        limit: int,
    ) -> None:
        self.samples = samples
        self.headers = headers
        self.channels = channels
        self.shrink = shrink
        self.store = store
        self.limit = limit
        self._originals: tuple[Index, Originals] | None = None
        shapes = [resize.shrunk_shape(h, w, shrink) for h, w in _sizes(headers)]
        # Where all others have one size, a damaged image takes as much room, and rows stay places.
        common = shapes[good[0]] if (good := np.flatnonzero(headers.good)).size else (0, 0)
        if any(shapes[row] != common for row in good):
            common = (0, 0)
        shapes = [shape if shape[0] else common for shape in shapes]
        self.heights = np.array([height for height, _ in shapes], np.int32)
        self.widths = np.array([width for _, width in shapes], np.int32)

    @property
    def original_bytes(self) -> int:
        """Bytes of all decoded images at their own sizes."""
        return int((self.heights.astype(np.int64) * self.widths).sum()) * self.channels

    def picture_bytes(self, size: int) -> int:
        """Return the bytes of all images at one size."""
        return len(self.samples) * size * size * self.channels

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images have which height and width."""
        good = self.headers.good
        return Counter(zip(self.heights[good].tolist(), self.widths[good].tolist(), strict=True))

    def decode(self, row: int) -> np.ndarray:
        """Return an image at its own size, or shrunk: uint8 [height, width, channels].

        Raises:
            RunError: Its file has gone or changed since it was looked at.
        """
        if self._originals:
            return self._originals[1][row]
        try:
            return self._brought(self.samples.reader.image(row))
        except Exception as error:  # a decoder may raise anything
            raise RunError(
                f"{self.samples.ids[row]} cannot be read any more ({error}); put it back, and the "
                "same command goes on"
            ) from error

    def _brought(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[2] != self.channels:
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], self.channels))
        return resize.shrink(np.ascontiguousarray(pixels), self.shrink)

    def originals(self) -> tuple[Index, Originals]:
        """Return all images at their own sizes, in the store."""
        index, flat = self._entry("whole", self._write_originals, need=self.original_bytes)
        self._originals = index, Originals(flat, self.heights, self.widths, self.channels)
        return self._originals

    def pictures(self, size: int) -> tuple[Index, Pictures]:
        """Return all images at one size (see `resize.fit`), in the store.

        They are taken from `originals`, where these have been asked for before.
        """
        make = functools.partial(self._write_pictures, size=size)
        return self._entry(str(size), make, need=self.picture_bytes(size))

    def index(self) -> Index:
        """Return what all images are, without keeping their pixels."""
        return self._entry("index", self._write_index, need=0)[0]

    def _entry(
        self, form: str, make: Callable[[Path], None], *, need: int
    ) -> tuple[Index, np.ndarray]:
        """Return index and pixels of an entry, for whose bytes older entries may have to go."""
        name = form if self.shrink is None else f"{form}-of-{self.shrink}"
        key = entry_key(self.samples, name, (_IDENTITY, self.channels))
        folder = self.store / "images"
        if need and not (folder / key).is_dir():
            trim(folder, limit=self.limit, need=need, keep=[key])
        return opened(folder, key, make, self._read)

    def _read(self, folder: Path) -> tuple[Index, np.ndarray]:
        path = folder / "pixels.npy"
        pixels = np.load(path, mmap_mode="r") if path.is_file() else np.empty(0, np.uint8)
        return read_index(folder, self.headers), pixels

    def _write_originals(self, folder: Path) -> None:
        shape = (self.original_bytes,)
        flat = _allocated(folder / "pixels.npy", shape)
        originals = Originals(flat, self.heights, self.widths, self.channels)

        def keep(row: int, pixels: np.ndarray) -> None:
            originals[row][...] = pixels

        self._write(folder, keep, lambda pixels: pixels)

    def _write_pictures(self, folder: Path, *, size: int) -> None:
        shape = (len(self.samples), size, size, self.channels)
        array = _allocated(folder / "pixels.npy", shape)

        def keep(row: int, pixels: np.ndarray) -> None:
            array[row] = pixels

        self._write(folder, keep, functools.partial(resize.fit, size=size))

    def _write_index(self, folder: Path) -> None:
        self._write(folder, lambda row, pixels: None, lambda pixels: _NOTHING)

    def _write(
        self,
        folder: Path,
        keep: Callable[[int, np.ndarray], None],
        form: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Decode every image once; keep its form and what it is."""
        known = self._originals
        index = IndexWriter(known[0] if known else self.headers)

        def work(row: int) -> tuple[np.ndarray, tuple[bytes, int | None] | None]:
            if row in index.bad:
                raise ValueError(index.bad[row])
            if known:
                return form(known[1][row]), None
            pixels = self.samples.reader.image(row)
            wanted = self.headers.heights[row], self.headers.widths[row]
            if pixels.shape[:2] != wanted:
                raise ValueError(f"it is {pixels.shape[1]}x{pixels.shape[0]}, its header differs")
            return form(self._brought(pixels)), fingerprint(pixels)

        title = f"Decoding {self.samples.name}"
        for row, seen in enumerate(each(work, len(self.samples), title=title)):
            if isinstance(seen, Bad):
                index.bad[row] = seen.reason
                continue
            pixels, found = seen
            keep(row, pixels)
            if found is not None:
                index.add(row, *found)
        index.write(folder)


def _allocated(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return a new mapped uint8 array, whose room on the disk is taken.

    Raises:
        ConfigError: There is not enough.
    """
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # else a disk that is full would kill the process later
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise ConfigError(
                f"{path.parent.parent} has no room for {array.nbytes / 2**20:,.0f} MiB of decoded "
                f"images ({error.strerror}); free some, give another store=, or lower cache_gib"
            ) from error
    return array


def _sizes(headers: Headers) -> list[tuple[int, int]]:
    return list(zip(headers.heights.tolist(), headers.widths.tolist(), strict=True))
