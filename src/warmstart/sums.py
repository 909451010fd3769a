"""Checksums of the files of a folder, as ``sha256sum`` writes them, with sizes and times."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from warmstart.errors import ConfigError

SUMS = "SHA256SUMS"
"""The file of an entry that its maker does not write."""

# From here on one flush of everything is quicker than one per file.
_MANY_FILES = 100
# Clocks of file systems are coarser than nanoseconds.
_TICK_NS = 100_000_000

Stamp = tuple[int, int]  # bytes, time of change in ns


def sha256(path: Path) -> str:
    """Return the SHA-256 sum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_text(files: dict[str, tuple[Stamp, str]]) -> bytes:
    """Return what ``sha256sum --check`` reads, with size and time of change in comments.

    A file that has just been written gets no comment: another change could bear the same time.
    """
    settled = time.time_ns() - _TICK_NS
    text = "".join(
        (f"# {stamp[0]} {stamp[1]}\n" if stamp[1] < settled else "") + f"{digest}  {name}\n"
        for name, (stamp, digest) in files.items()
    )
    return os.fsencode(text)


def read_sums(path: Path) -> dict[str, tuple[Stamp | None, str]]:
    """Return stamp, where there is one, and sum of each file of an entry."""
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


def stamps(path: Path) -> dict[str, Stamp]:
    """Return size and time of change of all files of an entry, by their sorted names in it."""
    found = {}
    for file in walk(path):
        name = os.path.relpath(file.path, path)
        if not file.is_file(follow_symlinks=False) or "\n" in name:
            raise ConfigError(
                f"{name!r} is a link, no plain file, or has a line break in its name; the store "
                "keeps none of these, so leave it out"
            )
        if name != SUMS:
            status = file.stat(follow_symlinks=False)
            found[name] = status.st_size, status.st_mtime_ns
    return dict(sorted(found.items()))


def walk(path: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield all that is no folder, in the folder `path` and those in it."""
    with os.scandir(path) as items:
        for item in items:
            if item.is_dir(follow_symlinks=False):
                yield from walk(item.path)
            else:
                yield item


def flush(files: list[Path]) -> None:
    """Wait until files are on the disk."""
    if len(files) > _MANY_FILES:
        os.sync()
    else:
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
