"""Locks of paths between processes, also where the file system has no locks that work."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, BaseFileLock, FileLock, Timeout

from warmstart.errors import choose
from warmstart.folder_locks import BEAT_SECONDS, SILENT_SECONDS, FolderLock

PATIENCE_SECONDS = 5.0
"""Whoever waits longer for a lock says what for."""

_SUFFIX = re.compile(r"(\.mkdir)?\.lock$")
_VARIABLE = "WARMSTART_LOCKS"
# Mounts with these options have locks that other machines do not see.
_LOCAL = re.compile(r"(^|,)(nolock|localflock|local_lock=(all|flock))(,|$)")

_log = logging.getLogger("warmstart")
_mounts: dict[int, bool] = {}  # device number: whether its file locks work


def lock(path: Path) -> BaseFileLock:
    """Return the lock of `path`, a name that need not exist; it is free again when its owner dies.

    Raises:
        ConfigError: WARMSTART_LOCKS has a value that there is not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if _file_locks_work(path.parent):
        return _PatientFileLock(path.with_name(path.name + ".lock"))
    return _PatientFolderLock(path.with_name(path.name + ".mkdir.lock"))


class _Patient(BaseFileLock):
    """Says once what it waits for."""

    _poll_seconds = 0.05

    def acquire(
        self, timeout: float | None = None, poll_interval: float | None = None, **options: Any
    ) -> AcquireReturnProxy[Any]:
        limit = self.timeout if timeout is None else timeout
        pause = self._poll_seconds if poll_interval is None else poll_interval
        if options.get("blocking") is False or 0 <= limit <= PATIENCE_SECONDS:
            return super().acquire(limit, pause, **options)
        try:
            return super().acquire(PATIENCE_SECONDS, pause, **options)
        except Timeout:
            path = Path(self.lock_file)
            name = f"{path.parent.name}/{_SUFFIX.sub('', path.name)}"
            _log.info("waiting for %s, which is at %s", self.owner() or "another process", name)
        return super().acquire(limit - PATIENCE_SECONDS if limit > 0 else limit, pause, **options)

    @abstractmethod
    def owner(self) -> str:
        """Return who holds the lock, for a person; empty where that is not known."""


class _PatientFileLock(_Patient, FileLock):
    """A lock that the system frees when its owner dies."""

    def owner(self) -> str:
        with contextlib.suppress(OSError):
            status = Path(self.lock_file).stat()
            device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
            for line in Path("/proc/locks").read_text().splitlines():
                # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF, with "->" for those who wait
                if held := re.search(rf": FLOCK .* ([1-9]\d*) {device}:{status.st_ino} ", line):
                    return f"process {held[1]}"
        return ""


class _PatientFolderLock(FolderLock, _Patient):
    """A lock that is free when its owner was silent for long."""

    _poll_seconds = 0.25  # each look is a question to a file server


def _file_locks_work(folder: Path) -> bool:
    chosen = os.environ.get(_VARIABLE) or "auto"
    if chosen not in ("auto", "mkdir"):
        raise choose(_VARIABLE, chosen, ("auto", "mkdir"))
    device = -1 if chosen == "mkdir" else folder.stat().st_dev
    if device not in _mounts:
        why = f"{_VARIABLE} is mkdir" if chosen == "mkdir" else _failure(folder)
        _mounts[device] = not why
        if why:
            _log.warning(
                "%s: locks in %s are folders that their owner touches every %g s; a dead one's are "
                "free after %g s",
                *(why, folder, BEAT_SECONDS, SILENT_SECONDS),
            )
    return _mounts[device]


def _failure(folder: Path) -> str:
    """Lock a file in `folder` twice; return what is wrong with that, or nothing."""
    if sys.platform == "win32":  # has other locks, and filelock knows them
        return ""
    import fcntl

    if _LOCAL.search(_mount_options(folder)):
        return "file locks are mounted so that other machines do not see them"
    try:
        handle, name = tempfile.mkstemp(prefix=".", suffix=".lock", dir=folder)
    except OSError:  # nobody can write here: what follows says so better
        return ""
    try:
        with os.fdopen(handle, "w") as first, Path(name).open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # as some systems say "taken"
                return ""
            return "file locks exclude nobody here"
    except OSError as error:
        return f"file locks do not work here ({error.strerror})"
    finally:
        Path(name).unlink(missing_ok=True)


def _mount_options(folder: Path) -> str:
    """Return the options of the file system that `folder` is on; empty where they are unknown."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[2] == number:
                return f"{fields[5]},{fields[-1]}"
    return ""
