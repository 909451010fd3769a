"""From a source to the images of a run: decoded, checked, cut, without duplicates."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from pathlib import Path

import numpy as np

from warmstart.data import duplicates, findings, splits
from warmstart.data.images import Images, Originals, Pictures, Split, Vault
from warmstart.data.index import Index, common_channels, read_headers
from warmstart.data.pool import Pool, Streamed, StreamedPictures
from warmstart.data.preparation import Preparation
from warmstart.data.samples import Samples
from warmstart.errors import ConfigError

_GIB = 2**30

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A source's images as a run gets them, and what was found on the way.

    Attributes:
        samples: As the source lists them.
        index: What all its images are; a row is an image's place in `samples`.
        images: Cut into splits, without damaged images and dropped duplicates.
        cut: The rows of each split before duplicates were dropped.
        exact: Rows of images with equal pixels, two or more each.
        near: Rows of two images of different splits that look alike, and the distance of their
            hashes in bits.
        dropped: Row and reason of each image that was left out of its split.
        warnings: What makes figures of this data doubtful, one sentence each.
        streamed: Whether pixels are read from the files in every pass.
    """

    samples: Samples
    index: Index
    images: Images
    cut: dict[str, np.ndarray]
    exact: list[np.ndarray]
    near: list[tuple[int, int, int]]
    dropped: dict[int, str]
    warnings: tuple[str, ...]
    streamed: bool

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over class names, and the name, label and pixels of every image."""
        digest = hashlib.sha256(repr((self.samples.classes, self.samples.ids)).encode())
        digest.update(np.ascontiguousarray(self.samples.labels).data)
        digest.update(np.ascontiguousarray(self.index.digests).data)
        return digest.hexdigest()

    def notes(self) -> dict[str, object]:
        """Return what the record keeps."""
        ids = self.samples.ids
        return {
            "skipped": {ids[row]: reason for row, reason in self.index.bad.items()},
            "dropped": {ids[row]: reason for row, reason in self.dropped.items()},
            "near_duplicates": len(self.near),
            "warnings": list(self.warnings),
        }


def assemble(
    samples: Samples,
    preparation: Preparation,
    *,
    store: Path,
    cache_gib: float,
    size: int | None,
    originals: bool,
    fallback: int | None = None,
) -> Dataset:
    """Decode, check and cut the images of a source.

    Args:
        samples: Of the source.
        preparation: What is done to them.
        store: The store's folder.
        cache_gib: Decoded images that the store may hold; sets that need more are streamed.
        size: Height and width in pixels that the model wants, unless `preparation` says another;
            None takes the images' own.
        originals: Keep the images at their own sizes too, for crops out of them.
        fallback: Height and width where the sizes differ and none is given.

    Raises:
        ConfigError: Images are damaged and ``on_bad`` is ``error``, sizes differ and none is
            given, a split is empty, ...
    """
    pool = _pool(samples, preparation, store=store, limit=int(cache_gib * _GIB))
    size = preparation.size or size or (fallback if len(pool.sizes) > 1 else None)
    index, pictures, whole = _forms(pool, size, originals=originals)
    if index.bad and preparation.on_bad == "error":
        raise ConfigError(findings.damaged(index.bad, samples.ids))
    usable = np.ones(len(samples), bool)
    usable[list(index.bad)] = False
    groups = splits.groups_of(samples.ids, samples.groups, preparation.group_pattern)
    cut = splits.cut(
        samples.labels, samples.splits, groups=groups, usable=usable, preparation=preparation
    )
    exact = duplicates.exact(index.digests, np.flatnonzero(usable))
    findings.check_near(preparation, index)
    near = duplicates.near(index.hashes, index.hashed, cut, exact=exact)
    parts, dropped = duplicates.resolve(cut, exact, near, preparation)

    findings.check_trained(samples, cut, parts)

    def split(name: str) -> Split:
        rows = parts[name]
        ids = tuple(samples.ids[row] for row in rows)
        return Split(pictures, rows, samples.labels[rows], ids, whole)

    images = Images(samples.classes, split("train"), split("val"), Vault(split("test")))
    streamed = isinstance(pictures, StreamedPictures) or isinstance(whole, Streamed)
    warnings = splits.warnings(
        samples.classes,
        parts,
        labels=samples.labels,
        groups=groups,
        conflicts=duplicates.conflicts(exact, samples.labels),
    )
    if preparation.duplicates == "keep":
        warnings = (*warnings, *findings.kept(cut, exact))
    for sentence in (*warnings, *findings.left_out(samples, index, near, dropped, preparation)):
        _log.warning(sentence)
    return Dataset(samples, index, images, cut, exact, near, dropped, warnings, streamed)


def _pool(samples: Samples, preparation: Preparation, *, store: Path, limit: int) -> Pool:
    """Return what decodes the images, whose headers have been read."""
    headers = read_headers(samples, store=store)
    if not headers.good.any():
        raise ConfigError(findings.damaged(headers.bad, samples.ids))
    findings.check_shrink(preparation, headers)
    channels = common_channels(headers, samples.ids)
    shrink = preparation.shrink
    return Pool(samples, headers, channels=channels, shrink=shrink, store=store, limit=limit)


def _forms(
    pool: Pool, size: int | None, *, originals: bool
) -> tuple[Index, Pictures, Originals | None]:
    """Return the index, the images at one size, and those at their own sizes where needed."""
    sizes = pool.sizes
    if size is None and len(sizes) > 1:
        (height, width), (other_height, other_width) = (shape for shape, _ in sizes.most_common(2))
        raise ConfigError(
            f"the images have {len(sizes)} different sizes, such as {width}x{height} and "
            f"{other_width}x{other_height} pixels; set data.size, for example "
            f"data.size={min(224, *min(sizes, key=min))}"
        )
    common = next(iter(sizes)) if len(sizes) == 1 else None
    shape = common if size is None or common is None else (size, size)
    if common is not None and common == shape:
        if pool.original_bytes > pool.limit:
            return pool.index(), _streamed(pool, common), None
        index, whole = pool.originals()
        return index, whole.as_pictures(), None
    assert size is not None
    kept: Originals | None = None
    room = pool.limit
    if originals and pool.original_bytes <= room:
        kept = pool.originals()[1]
        room -= pool.original_bytes
    elif originals:
        _say_streamed(pool, pool.original_bytes)
        kept = Streamed(pool.decode)
    if pool.picture_bytes(size) > room:
        return pool.index(), _streamed(pool, (size, size)), kept
    return *pool.pictures(size), kept


def _streamed(pool: Pool, shape: tuple[int, int]) -> StreamedPictures:
    count = len(pool.samples)
    _say_streamed(pool, count * shape[0] * shape[1] * pool.channels)
    return StreamedPictures(pool.decode, (count, *shape, pool.channels))


def _say_streamed(pool: Pool, need: int) -> None:
    _log.warning(
        "the decoded images would need %s, but cache_gib=%g allows %s: "
        "they are read from their files in every pass",
        _size(need),
        pool.limit / _GIB,
        _size(pool.limit),
    )


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 2**20:,.1f} MiB"
