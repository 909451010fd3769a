"""The queue for devices on disk: one file for each request, locked while its process lives.

The lock is a POSIX record lock: the kernel frees it when the process dies, however it dies, and
processes that it has forked do not keep it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from warmstart.launch.placement import Claim

_MUTEX = "mutex"
_SUFFIX = ".claim"

# A POSIX lock is lost as soon as its process closes ANY descriptor of the file: what this process
# has claimed itself must never be opened again.
_own: dict[str, Claim] = {}
_threads = threading.Lock()


def _forget() -> None:
    """In a forked child: the claims are its parent's, and the mutex may be a lost thread's."""
    global _threads
    _own.clear()
    _threads = threading.Lock()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def mutex(folder: Path) -> Iterator[None]:
    """Let one thread of one process in at a time; claims are looked at and given only in here."""
    folder.mkdir(parents=True, exist_ok=True)
    with _threads, (folder / _MUTEX).open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


class ClaimFile:
    """A claim that stands as long as this process lives and has not removed it.

    Args:
        folder: Of all claims; the caller is under its mutex.
        wish: Gets the last place in the queue.

    Attributes:
        claim: As it stands in the file.
    """

    def __init__(self, folder: Path, wish: Claim) -> None:
        number = max((_number(path) for path in _files(folder)), default=0) + 1
        # A process number is no name: containers that share the folder count each their own.
        self._path = folder / f"{number:012d}-{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        self._pid = os.getpid()
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.write(dataclasses.replace(wish, number=number))
        except BaseException:
            self.remove()
            raise

    def write(self, claim: Claim) -> None:
        """Replace the claim; the caller is under the mutex."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(dataclasses.asdict(claim)).encode(), 0)
        self.claim = _own[self._path.name] = claim

    def remove(self) -> None:
        """Give up the claim, under the mutex or not; in a forked child nothing happens."""
        if self._descriptor < 0 or self._pid != os.getpid():
            return
        descriptor, self._descriptor = self._descriptor, -1
        # In this order another thread finds it gone, or still its own; it never opens it.
        self._path.unlink(missing_ok=True)
        os.close(descriptor)
        _own.pop(self._path.name, None)


def living(folder: Path) -> list[Claim]:
    """Return all claims whose process lives, oldest first; delete the others.

    The caller is under the mutex.
    """
    claims = (_living(path) for path in _files(folder))
    return [claim for claim in claims if claim is not None]


def own(folder: Path) -> set[int]:
    """Return the numbers of this process's claims."""
    return {_number(path) for path in _files(folder) if path.name in _own}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX)


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _living(path: Path) -> Claim | None:
    if (known := _own.get(path.name)) is not None:
        return known
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # removed just now
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        return Claim.read(json.loads(text))
    else:
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(descriptor)
