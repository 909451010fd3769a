"""What is known of every image of a source before any of them trains."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warmstart.data.decode import Bad, each
from warmstart.data.phash import perceptual_hash
from warmstart.data.samples import Samples
from warmstart.errors import ConfigError
from warmstart.store import opened

VERSION = 1
"""Raise when the same images would give another index."""

_DIGEST_BYTES = 16
# Sides of an image, beyond which its shorter one cannot be scaled to anything useful.
_ELONGATED = 100


@dataclass(frozen=True, eq=False)
class Headers:
    """What the images say about themselves; zeros for damaged ones.

    Attributes:
        heights: int32 of shape [n], in pixels, upright.
        widths: int32 of shape [n].
        channels: int32 of shape [n].
        modes: In the words of the image's format.
        bad: Row and reason of each image that has no header.
    """

    heights: np.ndarray
    widths: np.ndarray
    channels: np.ndarray
    modes: tuple[str, ...]
    bad: Mapping[int, str]

    @property
    def good(self) -> np.ndarray:
        """bool of shape [n]."""
        return self.heights > 0

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images have which height and width, damaged ones left out."""
        pairs = zip(self.heights[self.good].tolist(), self.widths[self.good].tolist(), strict=True)
        return Counter(pairs)


@dataclass(frozen=True, eq=False)
class Index(Headers):
    """What all decoded images were found to be; zeros for damaged ones.

    Attributes:
        digests: uint8 of shape [n, 16]: of the decoded pixels at their own size.
        hashes: uint64 of shape [n]: see `phash.perceptual_hash`.
        hashed: bool of shape [n]: whether there is such a hash.
    """

    digests: np.ndarray
    hashes: np.ndarray
    hashed: np.ndarray


def read_headers(samples: Samples, *, store: Path) -> Headers:
    """Return the headers of all images, read once for all runs."""
    key = entry_key(samples, "headers", (VERSION,))
    make = functools.partial(_write_headers, samples=samples)
    return opened(store / "images", key, make, _read_headers)


def entry_key(samples: Samples, form: str, identity: object) -> str:
    """Return the name of a store entry that holds something of all images of a source."""
    content = repr((samples.reader.identity, form, identity)).encode()
    return f"{samples.name}-{form}-{hashlib.sha256(content).hexdigest()[:16]}"


class IndexWriter:
    """Collects what the images are while they go by.

    Attributes:
        bad: Row and reason of each damaged image, to be added to.
    """

    def __init__(self, known: Headers) -> None:
        self.bad = dict(known.bad)
        if isinstance(known, Index):
            self._digests, self._hashes, self._hashed = known.digests, known.hashes, known.hashed
        else:
            count = len(known.modes)
            self._digests = np.zeros((count, _DIGEST_BYTES), np.uint8)
            self._hashes, self._hashed = np.zeros(count, np.uint64), np.zeros(count, bool)

    def add(self, row: int, digest: bytes, perceptual: int | None) -> None:
        """Take the `fingerprint` of an image."""
        self._digests[row] = np.frombuffer(digest, np.uint8)
        if perceptual is not None:
            self._hashes[row], self._hashed[row] = perceptual, True

    def write(self, folder: Path) -> None:
        """Write ``index.npz`` and ``bad.json``."""
        arrays = {"digests": self._digests, "hashes": self._hashes, "hashed": self._hashed}
        np.savez(folder / "index.npz", **arrays)  # type: ignore[arg-type]
        text = json.dumps({str(row): self.bad[row] for row in sorted(self.bad)})
        (folder / "bad.json").write_text(text, encoding="utf-8")


def read_index(folder: Path, headers: Headers) -> Index:
    """Return what an `IndexWriter` wrote."""
    with np.load(folder / "index.npz") as file:
        arrays = dict(file)
    bad = json.loads((folder / "bad.json").read_text(encoding="utf-8"))
    sizes = {name: getattr(headers, name).copy() for name in ("heights", "widths", "channels")}
    for array in sizes.values():
        array[[int(row) for row in bad]] = 0
    reasons = {int(row): reason for row, reason in bad.items()}
    return Index(**sizes, modes=headers.modes, bad=reasons, **arrays)


def fingerprint(pixels: np.ndarray) -> tuple[bytes, int | None]:
    """Return the digest of an image's pixels and shape, and its perceptual hash where it has one.

    Args:
        pixels: uint8 [height, width, channels].
    """
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=_DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest(), perceptual_hash(pixels)


def _read_headers(folder: Path) -> Headers:
    with np.load(folder / "headers.npz") as file:
        arrays = dict(file)
    words = json.loads((folder / "headers.json").read_text(encoding="utf-8"))
    bad = {int(row): reason for row, reason in words["bad"].items()}
    return Headers(**arrays, modes=tuple(words["modes"]), bad=bad)


def _write_headers(folder: Path, *, samples: Samples) -> None:
    count = len(samples)
    table = np.zeros((3, count), np.int32)
    modes, bad = [""] * count, {}
    for row, header in enumerate(each(samples.reader.header, count, title="Reading headers")):
        if isinstance(header, Bad):
            bad[str(row)] = header.reason
        elif max(header.height, header.width) > _ELONGATED * min(header.height, header.width):
            bad[str(row)] = f"it is too elongated ({header.width}x{header.height})"
        else:
            table[:, row] = header.height, header.width, header.channels
            modes[row] = header.mode
    np.savez(folder / "headers.npz", heights=table[0], widths=table[1], channels=table[2])
    text = json.dumps({"modes": modes, "bad": bad})
    (folder / "headers.json").write_text(text, encoding="utf-8")


def common_channels(headers: Headers, ids: Sequence[str]) -> int:
    """Return the channels of the set: 1 if all images are gray, 3 if some have colours.

    Raises:
        ConfigError: Arrays of other numbers of channels are mixed.
    """
    found = set(headers.channels[headers.good].tolist())
    if found <= {1, 3}:
        return max(found, default=3)
    if len(found) > 1:
        row = int(np.flatnonzero(headers.channels == max(found))[0])
        raise ConfigError(
            f"the images have {sorted(found)} channels, {ids[row]} has {max(found)}; "
            "give all of them one number of channels"
        )
    return int(next(iter(found)))
