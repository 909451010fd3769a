"""Features in the store: computed once, kept in shards, mapped into memory."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from warmstart.data.bar import Bar
from warmstart.errors import ConfigError
from warmstart.features.forms import KEPT, Form, as_kept
from warmstart.features.forms import Features as Features  # what entries are read as
from warmstart.store import opened, trim

VERSION = 1
"""Raise when an entry of the same key would hold other numbers."""

KIND = "features"
"""The folder in a store that holds them."""

_FILE, _META = "features.bin", "meta.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# The features of some rows, int64 [n], in pieces: one tensor [b, *shape] for each of the forms
# whose numbers are given.
Compute = Callable[[np.ndarray, Sequence[int]], Iterator[Sequence[Tensor]]]


def stored(
    folder: Path,
    key: str,
    *,
    count: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    compute: Callable[[np.ndarray], Iterator[Tensor]],
    limit: int,
    title: str,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Return features that the store holds, or compute what is missing of them.

    Who is killed goes on with the shard that was under way. Of several processes one computes.
    Damaged shards and those of another `VERSION` are named in the log and made again; damage
    that leaves size and time of change of a file as they were is not looked for.

    Args:
        folder: That of the kind, ``STORE/features``.
        key: Changes whenever a number could.
        count: Of all rows.
        shape: Of one row.
        dtype: float32, float16 or bfloat16, as which they are kept.
        compute: Yields the features of some rows, int64 [n], in their order: [b, *shape] each.
        limit: Bytes that the folder may hold; what was used least recently has to go.
        title: Of the progress bar, and for messages: ``features of cifar10/train``.
        batch: Rows that `compute` takes at once: its rows begin at a multiple of it.
        progress: Called with the rows that are done, and all rows; None shows a bar.

    Raises:
        ConfigError: The features do not fit under the limit or on the disk, or a number does not
            fit into `dtype`.
    """

    def pieces(rows: np.ndarray, _: Sequence[int]) -> Iterator[Sequence[Tensor]]:
        return ([piece] for piece in compute(rows))

    forms = [Form(key, shape, dtype)]
    return stored_all(
        folder,
        forms,
        count=count,
        compute=pieces,
        limit=limit,
        title=title,
        batch=batch,
        progress=progress,
    )[0]


def stored_all(
    folder: Path,
    forms: Sequence[Form],
    *,
    count: int,
    compute: Compute,
    limit: int,
    title: str,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Features]:
    """Return several forms of the same rows, where each row is computed once for all of them.

    See `stored`. Forms of one key are one entry.
    """
    _make_room(folder, forms, count=count, batch=batch, limit=limit, title=title)
    with Bar(title, total=count) as bar:

        def tell(done: int) -> None:
            if progress is None:
                bar.update(done)
            else:
                progress(done, count)

        return _Work(folder, forms, batch, compute, title, tell).features(count)


class _Work:
    """Opens all shards of some forms, and makes those that are missing."""

    def __init__(
        self,
        folder: Path,
        forms: Sequence[Form],
        batch: int,
        compute: Compute,
        title: str,
        tell: Callable[[int], None],
    ) -> None:
        self._folder, self._forms, self._compute = folder, forms, compute
        self._title, self._tell = title, tell
        self._sizes = [form.shard_rows(batch) for form in forms]
        self._shards: list[list[np.ndarray]] = [[] for _ in forms]

    def features(self, count: int) -> list[Features]:
        """Return the features of rows 0 ... ``count - 1``, by form."""
        first = {form.key: number for number, form in reversed([*enumerate(self._forms)])}
        # Large shards around small ones; the same order everywhere, so that no two processes can
        # wait for each other.
        order = sorted(
            first.values(), key=lambda number: (-self._sizes[number], self._forms[number].key)
        )
        self._fill(order, {}, range(count))
        return [
            Features(self._shards[first[form.key]], (count, *form.shape), form.dtype, size=size)
            for form, size in zip(self._forms, self._sizes, strict=True)
        ]

    def _fill(self, order: Sequence[int], files: dict[int, IO[bytes]], rows: range) -> None:
        """Open the shards of the forms in `order`; write these rows of all that are missing.

        Args:
            order: Numbers of forms.
            files: Of the shards under way that these rows are part of, by number of form.
            rows: A shard of the form before the first one in `order`.
        """
        if not order:
            self._write(files, rows)
            return
        number, *rest = order
        size = self._sizes[number]
        for start in range(rows.start, rows.stop, size):
            self._open(number, rest, files, range(start, min(start + size, rows.stop)))

    def _open(
        self, number: int, rest: Sequence[int], files: dict[int, IO[bytes]], rows: range
    ) -> None:
        form, made = self._forms[number], False
        meta = {
            "version": VERSION,
            "dtype": str(form.dtype).removeprefix("torch."),
            "shape": [len(rows), *form.shape],
            "first": rows.start,
        }

        def make(part: Path) -> None:
            nonlocal made
            made = True
            with (part / _FILE).open("wb") as file:
                _take_room(file, len(rows) * form.row_bytes)
                self._fill(rest, {**files, number: file}, rows)
            (part / _META).write_text(json.dumps(meta), encoding="utf-8")

        def read(path: Path) -> np.ndarray:
            kept, shape = KEPT[form.dtype], (len(rows), *form.shape)
            return np.asarray(np.memmap(path / _FILE, kept, mode="r", shape=shape))

        name = form.name(rows.start // self._sizes[number])
        with _full_disk_is_told(self._folder, self._title):
            shard = opened(self._folder, name, make, read, fault=lambda path: _other(path, meta))
        self._shards[number].append(shard)
        if not made:
            self._fill(rest, files, rows)

    def _write(self, files: dict[int, IO[bytes]], rows: range) -> None:
        """Compute rows and append them to the files of the forms that want them."""
        if not files:
            self._tell(rows.stop)
            return
        numbers, done = sorted(files), rows.start
        for pieces in self._compute(np.arange(rows.start, rows.stop), numbers):
            for number, piece in zip(numbers, pieces, strict=True):
                form = self._forms[number]
                if piece.shape[1:] != form.shape:
                    raise ValueError(f"features are {tuple(piece.shape[1:])}, not {form.shape}")
                files[number].write(as_kept(piece, form.dtype, self._title).data)
            done += len(pieces[0])
            self._tell(done)
        if done != rows.stop:
            raise ValueError(f"{done - rows.start} rows were computed, not {len(rows)}")


def _other(path: Path, meta: dict[str, object]) -> str:
    """Return whether an entry holds anything else than it should, in words; nothing if not."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads((path / _META).read_text(encoding="utf-8")) == meta:
            return ""
    return "was made by another version"


def _make_room(
    folder: Path, forms: Sequence[Form], *, count: int, batch: int, limit: int, title: str
) -> None:
    """Let old entries go, so that what is missing fits under the limit."""
    forms = list({form.key: form for form in forms}.values())
    need, names, total = 0, [], count * sum(form.row_bytes for form in forms)
    if total > limit:
        halve = any(form.dtype is torch.float32 for form in forms)
        raise ConfigError(
            f"{title} take {total / 2**30:.3g} GiB, but features.gib={limit / 2**30:g} allows no "
            f"more; give features.gib={math.ceil(total / 2**30)}"
            f"{', or features.dtype=float16' if halve else ''}"
        )
    for form in forms:
        size = form.shard_rows(batch)
        for shard, start in enumerate(range(0, count, size)):
            names.append(form.name(shard))
            if not (folder / names[-1]).is_dir():
                need += min(size, count - start) * form.row_bytes
    if need:
        trim(folder, limit=limit, need=need, keep=names)


def _take_room(file: IO[bytes], size: int) -> None:
    if size and hasattr(os, "posix_fallocate"):  # else a full disk is noticed after the work
        os.posix_fallocate(file.fileno(), 0, size)


@contextlib.contextmanager
def _full_disk_is_told(folder: Path, title: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ConfigError(
            f"the disk of {folder} has no room for {title} ({error.strerror}); free some, give "
            "another store=, or features.cache=off"
        ) from error
