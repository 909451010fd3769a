"""Locks for file systems without any: a folder, with a file that its owner keeps touching."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

BEAT_SECONDS = 5.0
"""The owner touches its file so often."""
SILENT_SECONDS = 60.0
"""An owner that has not done so for so long is dead. File servers may well pause for half of it."""

_log = logging.getLogger("warmstart")


class FolderLock(BaseFileLock):
    """A lock that needs nothing of a file system but that names change in one step.

    A folder with its owner's file in it is renamed to the lock's name, which fails while there is
    such a folder that is not empty. To give it back, or to take it from a dead owner, is to delete
    the file, whose name nobody else uses: so no third one's lock can be hit.

    An owner that was only stopped for longer than `SILENT_SECONDS` has lost the lock, and logs so.
    """

    def __init__(self, lock_file: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        super().__init__(lock_file, *args, **options)
        self._folder = Path(lock_file)
        self._held: tuple[Path, int, threading.Event] | None = None
        # The file of another owner, when it was touched, and since when that has not changed.
        self._seen: tuple[str, int, float] = ("", 0, 0.0)

    def owner(self) -> str:
        """Return who holds the lock, for a person; empty where that is not known."""
        for path in self._owners():
            who = _read(path)
            if who:
                return f"process {who.get('pid')} on {who.get('host')}"
        return ""

    def _acquire(self) -> None:
        alive = [path for path in self._owners() if not self._dead(path)]
        if alive:
            return
        with contextlib.suppress(OSError):  # not empty any more, or there is none
            self._folder.rmdir()
        path = _put(self._folder)
        if path is None:
            return
        stop = threading.Event()
        self._held = path, os.getpid(), stop
        # The library takes it for held while there is a descriptor, and closes it in forks.
        self._context.lock_file_fd = os.open(os.devnull, os.O_RDONLY)
        arguments = (path, self._folder, stop)
        threading.Thread(target=_beat, args=arguments, name="lock", daemon=True).start()

    def _release(self) -> None:
        descriptor, self._context.lock_file_fd = self._context.lock_file_fd, None
        if descriptor is not None:
            os.close(descriptor)
        held, self._held = self._held, None
        if held is None or held[1] != os.getpid():  # a forked child owns nothing
            return
        held[2].set()
        held[0].unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another one has it already
            self._folder.rmdir()

    def _owners(self) -> list[Path]:
        """Return the file of the owner, if there is one."""
        try:
            # NFS leaves files with such names for those who have one open that was deleted.
            return [path for path in self._folder.iterdir() if not path.name.startswith(".nfs")]
        except FileNotFoundError:
            return []

    def _dead(self, path: Path) -> bool:
        """Delete the file of a dead owner; return whether it is gone."""
        try:
            # Opened, since NFS may answer a mere stat from a memory that is a minute old.
            with path.open("rb") as file:
                touched = os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return True
        now = time.monotonic()
        if self._seen[:2] != (path.name, touched):
            self._seen = path.name, touched, now
        # By the own clock alone: those of machines differ.
        if now - self._seen[2] < SILENT_SECONDS and not _gone(_read(path)):
            return False
        path.unlink(missing_ok=True)
        return True


def _put(folder: Path) -> Path | None:
    """Put a folder with a file of this process in place; return the file, None if it was taken."""
    token = uuid.uuid4().hex
    part = folder.with_name(f".{folder.name}.{token[:8]}.part")
    part.mkdir()
    try:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
        (part / token).write_text(json.dumps(owner))
        part.rename(folder)
    except OSError as error:
        # A file server whose answer got lost was asked again, and says no to what it has done.
        if not (folder / token).exists():
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return None
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder / token


def _beat(path: Path, folder: Path, stop: threading.Event) -> None:
    """Touch the owner's file until it stops or somebody else has the lock."""
    while not stop.wait(BEAT_SECONDS):
        try:
            os.utime(path)
        except FileNotFoundError:
            if not stop.is_set():
                _log.warning(
                    "%s was taken over by another process, since this one was silent for more than "
                    "%g s; what both make at the same time is made twice",
                    folder,
                    SILENT_SECONDS,
                )
            return
        except OSError as error:
            _log.debug("%s cannot be touched now: %s", path, error)


def _read(path: Path) -> dict[str, Any]:
    """Return what an owner has written; nothing where that cannot be read."""
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _gone(owner: dict[str, Any]) -> bool:
    """Return whether an owner is known to be dead; who is elsewhere is not."""
    if owner.get("machine") != _machine():
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except (KeyError, ValueError, OSError):
        return False
    return False


@functools.cache
def _machine() -> str:
    """Return what tells apart places where the same process number means different processes."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)
