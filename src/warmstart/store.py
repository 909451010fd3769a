"""The one place where something shared is computed: once, by whoever comes first."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def sha256(path: Path) -> str:
    """Return the SHA-256 sum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(path: Path) -> FileLock:
    """Return the lock of `path`; the system frees it when its owner dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(path.name + ".lock"))


def publish(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
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
    under the final name. The sums of all files are checked whenever the entry is opened; a damaged
    entry is dropped and made again.

    Args:
        folder: The store.
        key: A name that changes whenever the content would.
        make: Called with an empty folder to fill.

    Returns:
        The folder with the finished entry.
    """
    path = folder / key
    with lock(path):
        if path.is_dir():
            if _intact(path):
                return path
            shutil.rmtree(path)
        for dead in folder.glob(f".{glob.escape(key)}.????????.part"):  # of a killed owner
            shutil.rmtree(dead)
        part = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".part", dir=folder))
        try:
            make(part)
            sums = {file.name: sha256(file) for file in sorted(part.iterdir())}
            lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
            (part / "SHA256SUMS").write_text(lines)
            for file in part.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            part.chmod(0o755)
            os.replace(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return path


def _intact(path: Path) -> bool:
    try:
        lines = (path / "SHA256SUMS").read_text().splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        files = {file.name for file in path.iterdir()} - {"SHA256SUMS"}
        return sums.keys() == files and all(sha256(path / name) == sums[name] for name in files)
    except (OSError, ValueError):
        return False
