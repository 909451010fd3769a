"""The one place where something shared is computed: once, by whoever comes first."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import Timeout

from warmstart.errors import ConfigError
from warmstart.locks import lock as lock  # part of what the store offers

T = TypeVar("T")

SUMS = "SHA256SUMS"
"""The file of an entry that its maker does not write."""

# From here on one flush of everything is quicker than one per file.
_MANY_FILES = 100
# Clocks of file systems are coarser than nanoseconds.
_TICK_NS = 100_000_000
_PART = re.compile(r"\.(?P<key>.+)\.[^.]{8}\.part")

Stamp = tuple[int, int]  # bytes, time of change in ns


def sha256(path: Path) -> str:
    """Return the SHA-256 sum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def opened(folder: Path, key: str, make: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """Return what `read` returns for the entry of `once`.

    Nobody can trim the entry before `read` has returned: what it has opened or mapped by then
    stays readable.
    """
    path = folder / key
    with lock(path):
        if not path.is_dir() or not _intact(path):
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
        stamps = _stamps(part)
        _write_sums(part, {name: (stamp, sha256(part / name)) for name, stamp in stamps.items()})
        _flush([part / SUMS, *(part / name for name in stamps)])
        part.chmod(0o755)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _intact(path: Path) -> bool:
    try:
        known, stamps = _read_sums(path), _stamps(path)
        if known.keys() != stamps.keys():
            return False
        changed = [name for name, stamp in stamps.items() if stamp != known[name][0]]
        if any(sha256(path / name) != known[name][1] for name in changed):
            return False
    except (OSError, ValueError):
        return False
    if changed:  # copied or touched: the next opening is quick again
        with contextlib.suppress(OSError):
            made = (path / SUMS).stat().st_mtime_ns
            _write_sums(path, {name: (stamps[name], known[name][1]) for name in stamps})
            os.utime(path / SUMS, ns=(made, made))
    return True


def _write_sums(path: Path, files: dict[str, tuple[Stamp, str]]) -> None:
    """Write what ``sha256sum --check`` reads, with size and time of change in comments.

    A file that has just been written gets no comment: another change could bear the same time.
    """
    settled = time.time_ns() - _TICK_NS
    text = "".join(
        (f"# {stamp[0]} {stamp[1]}\n" if stamp[1] < settled else "") + f"{digest}  {name}\n"
        for name, (stamp, digest) in files.items()
    )
    # Beside the entry: who has opened it and lists its files now must not find another one.
    publish(path / SUMS, lambda part: part.write_bytes(os.fsencode(text)), parts=path.parent)


def _read_sums(path: Path) -> dict[str, tuple[Stamp | None, str]]:
    files: dict[str, tuple[Stamp | None, str]] = {}
    stamp: Stamp | None = None
    for line in os.fsdecode((path / SUMS).read_bytes()).split("\n")[:-1]:
        if line.startswith("# "):
            size, changed = line[2:].split(" ")
            stamp = int(size), int(changed)
        else:
            digest, name = line.split("  ", 1)
            files[name], stamp = (stamp, digest), None
    return files


def _stamps(path: Path) -> dict[str, Stamp]:
    """Return size and time of change of all files of an entry, by their sorted names in it."""
    stamps = {}
    for file in _walk(path):
        name = os.path.relpath(file.path, path)
        if not file.is_file(follow_symlinks=False) or "\n" in name:
            raise ConfigError(
                f"{name!r} is a link, no plain file, or has a line break in its name; the store "
                "keeps none of these, so leave it out"
            )
        if name != SUMS:
            status = file.stat(follow_symlinks=False)
            stamps[name] = status.st_size, status.st_mtime_ns
    return dict(sorted(stamps.items()))


def _walk(path: str | Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as items:
        for item in items:
            if item.is_dir(follow_symlinks=False):
                yield from _walk(item.path)
            else:
                yield item


def _flush(files: list[Path]) -> None:
    if len(files) > _MANY_FILES:
        os.sync()
    else:
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())


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
        files = (file for file in _walk(path) if file.name != SUMS)
        sizes = [file.stat(follow_symlinks=False).st_size for file in files]
    guard = path.with_name(name)
    return Entry(kind, name, (path,), guard, sum(sizes), len(sizes), used, finished)


def folders(path: Path) -> list[Path]:
    """Return the folders in a folder, sorted; none where there is no such folder."""
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as items:
        return sorted(Path(item) for item in items if item.is_dir(follow_symlinks=False))
    return []


def trim(folder: Path, *, limit: int, need: int = 0, keep: str = "") -> int:
    """Delete least recently used entries until `need` more bytes fit under `limit`.

    Entries that somebody is making or opening stay; a memory map of a deleted one stays readable.

    Args:
        folder: That of a kind, for example ``STORE/images``.
        limit: In bytes.
        need: Bytes that are about to be written.
        keep: The key of an entry that stays.

    Returns:
        The bytes that were freed.
    """
    found = sorted(entries_in(folder), key=lambda entry: entry.used)
    total, freed = sum(entry.bytes for entry in found), 0
    for entry in found:
        if total - freed + need <= limit:
            break
        if entry.name != keep and remove(entry):
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
