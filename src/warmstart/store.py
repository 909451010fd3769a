"""The one place where something shared is computed: once, by whoever comes first."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import Timeout

from warmstart.errors import ConfigError
from warmstart.locks import lock as lock  # part of what the store offers
from warmstart.sums import SUMS as SUMS  # likewise
from warmstart.sums import Stamp, as_text, flush, read_sums, stamps, walk
from warmstart.sums import sha256 as sha256  # likewise

T = TypeVar("T")

_log = logging.getLogger("warmstart")
_PART = re.compile(r"\.(?P<key>.+)\.[^.]{8}\.part")


def publish(path: Path, write: Callable[[Path], object], *, parts: Path | None = None) -> None:
    """Let `write` fill a temporary file, then put it in place as `path` atomically.

    Args:
        path: The finished file.
        write: Gets the path to write to.
        parts: The folder of the temporary file, on the same file system; by default that of `path`.
    """
    parts = parts or path.parent
    parts.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=parts)
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def once(folder: Path, key: str, make: Callable[[Path], None]) -> Path:
    """Return ``folder/key``, a folder that `make` has filled, made at most once.

    Eight processes that ask at the same time make it once; an owner that is killed leaves nothing
    under the final name. Whenever the entry is opened, files whose size or time of change is not
    as it was are checked against their sums; a damaged entry is dropped and made again.

    Args:
        folder: The store.
        key: A name that changes whenever the content would.
        make: Called with an empty folder to fill with files, in folders or not.

    Returns:
        The folder with the finished entry.

    Raises:
        ConfigError: `make` leaves something that is no plain file.
    """
    return opened(folder, key, make, lambda path: path)


def opened(
    folder: Path,
    key: str,
    make: Callable[[Path], None],
    read: Callable[[Path], T],
    *,
    fault: Callable[[Path], str] | None = None,
) -> T:
    """Return what `read` returns for the entry of `once`.

    Nobody can trim the entry before `read` has returned: what it has opened or mapped by then
    stays readable.

    Args:
        folder: The store.
        key: See `once`.
        make: Likewise.
        read: Called with the folder of the entry.
        fault: Says why an entry whose files are intact cannot be used, or nothing; such a one is
            made again too.
    """
    path = folder / key
    with lock(path):
        wrong = path.is_dir() and (_damage(path) or (fault(path) if fault else ""))
        if wrong:
            _log.warning("%s/%s %s: it is made again", folder.name, key, wrong)
        if wrong or not path.is_dir():
            killed = folder.glob(f".{glob.escape(key)}.????????.part")
            for old in filter(Path.exists, (path, *killed)):
                shutil.rmtree(old)
            _make(path, make)
        with contextlib.suppress(OSError):  # an entry that another user has made
            os.utime(path)
        return read(path)


def _make(path: Path, make: Callable[[Path], None]) -> None:
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        make(part)
        if (part / SUMS).exists():
            raise ConfigError(f"{path.name} holds a file {SUMS}, the store's own; rename it")
        written = stamps(part)
        _write_sums(part, {name: (stamp, sha256(part / name)) for name, stamp in written.items()})
        flush([part / SUMS, *(part / name for name in written)])
        part.chmod(0o755)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _damage(path: Path) -> str:
    """Return what is wrong with the files of an entry, or nothing."""
    damage = "is damaged"
    try:
        known, found = read_sums(path), stamps(path)
        if known.keys() != found.keys():
            return damage
        changed = [name for name, stamp in found.items() if stamp != known[name][0]]
        if any(sha256(path / name) != known[name][1] for name in changed):
            return damage
    except (OSError, ValueError):
        return damage
    if changed:  # copied or touched: the next opening is quick again
        with contextlib.suppress(OSError):
            made = (path / SUMS).stat().st_mtime_ns
            _write_sums(path, {name: (found[name], known[name][1]) for name in found})
            os.utime(path / SUMS, ns=(made, made))
    return ""


def _write_sums(path: Path, files: dict[str, tuple[Stamp, str]]) -> None:
    text = as_text(files)
    # Beside the entry: who has opened it and lists its files now must not find another one.
    publish(path / SUMS, lambda part: part.write_bytes(text), parts=path.parent)


@dataclass(frozen=True)
class Entry:
    """Something that a store holds.

    Attributes:
        kind: ``images``, ``weights``, ``runs``, ...
        name: Within its kind.
        paths: Its folder; or the files of a download that has broken off.
        guard: Whoever makes or opens it holds the `lock` of this path.
        bytes: Of all its files.
        files: Their number.
        used: Last opened, in seconds since 1970.
        finished: False while it is being made, or when that was killed.
    """

    kind: str
    name: str
    paths: tuple[Path, ...]
    guard: Path
    bytes: int
    files: int
    used: float
    finished: bool


def entries_in(folder: Path) -> list[Entry]:
    """Return the entries of `once` in a folder, also unfinished ones; what is no entry is not."""
    return [
        entry_of(folder.name, path, finished=not _PART.fullmatch(path.name))
        for path in folders(folder)
        if (path / SUMS).is_file() or _PART.fullmatch(path.name)
    ]


def entry_of(kind: str, path: Path, *, finished: bool) -> Entry:
    """Return what is to be said about the folder `path`."""
    part = _PART.fullmatch(path.name)
    name = part["key"] if part else path.name
    sizes, used = [], 0.0
    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
        used = path.stat().st_mtime
        files = (file for file in walk(path) if file.name != SUMS)
        sizes = [file.stat(follow_symlinks=False).st_size for file in files]
    guard = path.with_name(name)
    return Entry(kind, name, (path,), guard, sum(sizes), len(sizes), used, finished)


def folders(path: Path) -> list[Path]:
    """Return the folders in a folder, sorted; none where there is no such folder."""
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as items:
        return sorted(Path(item) for item in items if item.is_dir(follow_symlinks=False))
    return []


def trim(folder: Path, *, limit: int, need: int = 0, keep: Collection[str] = ()) -> int:
    """Delete least recently used entries until `need` more bytes fit under `limit`.

    Entries that somebody is making or opening stay; a memory map of a deleted one stays readable.

    Args:
        folder: That of a kind, for example ``STORE/images``.
        limit: In bytes.
        need: Bytes that are about to be written.
        keep: Keys of entries that stay.

    Returns:
        The bytes that were freed.
    """
    found = sorted(entries_in(folder), key=lambda entry: entry.used)
    total, freed = sum(entry.bytes for entry in found), 0
    for entry in found:
        if total - freed + need <= limit:
            break
        if entry.name not in keep and remove(entry):
            freed += entry.bytes
    return freed


def remove(entry: Entry) -> bool:
    """Delete an entry unless somebody holds its lock; return whether it is gone."""
    try:
        with lock(entry.guard).acquire(timeout=0):
            for path in entry.paths:
                _delete(path, entry.guard)
    except Timeout:
        return False
    return True


def _delete(path: Path, guard: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    # Renamed first: who is killed here leaves no half of an entry under its name.
    gone = Path(tempfile.mkdtemp(prefix=f".{guard.name}.", suffix=".part", dir=guard.parent))
    with contextlib.suppress(FileNotFoundError):  # by another process
        os.replace(path, gone)
    shutil.rmtree(gone)
