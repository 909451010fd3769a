"""Locks between real processes, with file locks and where the file system has none."""

import contextlib
import fcntl
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from filelock import Timeout

from warmstart import folder_locks, locks, store
from warmstart.errors import ConfigError

CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture(autouse=True)
def _forget_what_is_known_of_mounts(monkeypatch):
    monkeypatch.setattr(locks, "_mounts", {})


@pytest.fixture(params=["auto", "mkdir"])
def kind(request, monkeypatch):
    monkeypatch.setenv("WARMSTART_LOCKS", request.param)
    return request.param


@pytest.fixture
def mkdir(monkeypatch):
    monkeypatch.setenv("WARMSTART_LOCKS", "mkdir")


def start(kind, target, *args):
    process = CONTEXT.Process(target=_as, args=(kind, target, *args))
    process.start()
    return process


def _as(kind, target, *args):
    os.environ["WARMSTART_LOCKS"] = kind
    locks._mounts.clear()
    target(*args)


def await_file(path: Path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.005)


def count_up(folder, times):
    """Read, wait, write: without exclusion of the others counts get lost."""
    for _ in range(times):
        with locks.lock(folder / "key").acquire(poll_interval=0.002):
            value = int((folder / "value").read_text())
            time.sleep(0.001)
            (folder / "value").write_text(str(value + 1))


def hold(folder, fork=False):
    with locks.lock(folder / "key") as held:
        if fork and os.fork() == 0:  # as a loader worker does, which outlives a killed parent
            del held
            time.sleep(5)
            os._exit(0)
        (folder / "ready").write_text("")
        time.sleep(60)


def put_foreign(folder: Path):
    """Put a lock of another machine in place and return its owner's file."""
    place = folder / "key.mkdir.lock"
    place.mkdir()
    (place / "token").write_text(json.dumps({"host": "node7", "pid": 4711, "machine": "other"}))
    return place / "token"


@pytest.mark.slow
def test_eight_processes_exclude_each_other(tmp_path, kind):
    (tmp_path / "value").write_text("0")
    processes = [start(kind, count_up, tmp_path, 25) for _ in range(8)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 8
    assert (tmp_path / "value").read_text() == "200"
    left = {path.name for path in tmp_path.iterdir()} - {"value"}
    assert left == ({"key.lock"} if kind == "auto" else set())


@pytest.mark.slow
@pytest.mark.parametrize("fork", [False, True], ids=["alone", "with a forked child"])
def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path, kind, fork):
    owner = start(kind, hold, tmp_path, fork)
    await_file(tmp_path / "ready")
    with pytest.raises(Timeout):
        locks.lock(tmp_path / "key").acquire(timeout=0.1)
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    killed = time.monotonic()
    with locks.lock(tmp_path / "key").acquire(timeout=4):
        assert time.monotonic() - killed < 1


def test_a_lock_is_free_after_its_block_and_can_be_taken_again(tmp_path, kind):
    one, two = locks.lock(tmp_path / "key"), locks.lock(tmp_path / "key")
    with one:
        with pytest.raises((Timeout, RuntimeError)):
            two.acquire(timeout=0)
        assert one.is_locked
        assert not two.is_locked
    with two, pytest.raises((Timeout, RuntimeError)):
        one.acquire(timeout=0)
    with one.acquire(timeout=0):
        assert one.is_locked


def test_a_forked_child_neither_owns_nor_frees_the_lock(tmp_path, kind):
    held = locks.lock(tmp_path / "key")
    with held:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                held.release()
            taken = True
            try:
                locks.lock(tmp_path / "key").acquire(timeout=0)
            except Timeout:
                taken = False
            os._exit(int(taken))
        assert os.waitpid(child, 0)[1] == 0
        assert held.is_locked
        if kind == "mkdir":
            assert len(list((tmp_path / "key.mkdir.lock").iterdir())) == 1


def test_the_store_works_with_folder_locks(tmp_path, mkdir):
    entry = store.once(tmp_path, "key", lambda path: (path / "file").write_text("made"))
    assert (entry / "file").read_text() == "made"
    assert [found.name for found in store.entries_in(tmp_path)] == ["key"]
    assert store.remove(store.entries_in(tmp_path)[0])
    assert store.entries_in(tmp_path) == []


def test_a_silent_owner_on_another_machine_loses_the_lock(tmp_path, mkdir, monkeypatch):
    monkeypatch.setattr(folder_locks, "SILENT_SECONDS", 0.5)
    put_foreign(tmp_path)
    asked = time.monotonic()
    with locks.lock(tmp_path / "key").acquire(timeout=4):
        assert 0.5 <= time.monotonic() - asked < 2


def test_an_owner_on_another_machine_that_still_beats_is_respected(tmp_path, mkdir, monkeypatch):
    monkeypatch.setattr(folder_locks, "SILENT_SECONDS", 0.5)
    owner, stop = put_foreign(tmp_path), threading.Event()

    def beat():
        while not stop.wait(0.05):
            os.utime(owner)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(Timeout):
            locks.lock(tmp_path / "key").acquire(timeout=1.5)
    finally:
        stop.set()
        thread.join()
    assert owner.exists()


def test_the_clocks_of_machines_need_not_agree(tmp_path, mkdir, monkeypatch):
    """An owner whose clock is a year behind is alive until it was watched to be silent."""
    monkeypatch.setattr(folder_locks, "SILENT_SECONDS", 60)
    owner = put_foreign(tmp_path)
    os.utime(owner, (time.time() - 3e7, time.time() - 3e7))
    with pytest.raises(Timeout):
        locks.lock(tmp_path / "key").acquire(timeout=0.3)


def test_the_owner_touches_its_file_and_notices_its_loss(tmp_path, mkdir, monkeypatch, caplog):
    monkeypatch.setattr(folder_locks, "BEAT_SECONDS", 0.05)
    with locks.lock(tmp_path / "key"):
        (owner,) = (tmp_path / "key.mkdir.lock").iterdir()
        os.utime(owner, (0, 0))
        deadline = time.monotonic() + 10
        while owner.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        owner.unlink()
        put_by_another = owner.with_name("another")
        put_by_another.write_text("{}")
        while "was taken over by another process" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert put_by_another.exists(), "the end of the block has freed another owner's lock"


def test_what_a_dead_process_left_half_made_hinders_nobody(tmp_path, mkdir):
    (tmp_path / "key.mkdir.lock").mkdir()  # killed between deleting its file and the folder
    (tmp_path / ".key.mkdir.lock.12345678.part").mkdir()
    with locks.lock(tmp_path / "key").acquire(timeout=1) as held:
        assert held.is_locked


def test_an_owner_that_cannot_be_read_counts_as_alive_until_it_is_silent(
    tmp_path, mkdir, monkeypatch
):
    put_foreign(tmp_path).write_text("{")
    with pytest.raises(Timeout):
        locks.lock(tmp_path / "key").acquire(timeout=0.1)
    monkeypatch.setattr(folder_locks, "SILENT_SECONDS", 0.2)
    with locks.lock(tmp_path / "key").acquire(timeout=4):
        pass


def refuse(*_):
    raise OSError(37, "No locks available")


@pytest.mark.parametrize(
    ("flock", "options", "sentence"),
    [
        (refuse, "rw", "file locks do not work here (No locks available)"),
        (lambda *_: None, "rw", "file locks exclude nobody here"),
        (fcntl.flock, "rw,vers=3,nolock,proto=tcp", "are mounted so that other machines do not"),
        (fcntl.flock, "rw,vers=4.2,local_lock=all,addr=", "are mounted so that other machines"),
    ],
    ids=["refused", "without effect", "nolock", "local_lock"],
)
def test_file_locks_that_do_not_work_are_said_once_and_replaced(
    tmp_path, monkeypatch, caplog, flock, options, sentence
):
    monkeypatch.delenv("WARMSTART_LOCKS", raising=False)
    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_mount_options", lambda _: options)
    with locks.lock(tmp_path / "one"), locks.lock(tmp_path / "two"):
        assert (tmp_path / "one.mkdir.lock").is_dir()
    (line,) = [line for line in caplog.messages if "locks in" in line]
    assert sentence in line
    assert line.endswith("touches every 5 s; a dead one's are free after 60 s")


@pytest.mark.parametrize("options", ["rw,relatime", "rw,vers=4.2,local_lock=none", "rw,mylock=all"])
def test_file_locks_that_work_are_used(tmp_path, monkeypatch, caplog, options):
    monkeypatch.delenv("WARMSTART_LOCKS", raising=False)
    monkeypatch.setattr(locks, "_mount_options", lambda _: options)
    with locks.lock(tmp_path / "one"):
        assert [path.name for path in tmp_path.iterdir()] == ["one.lock"]
    assert not caplog.messages


def test_the_options_of_a_mount_are_found():
    assert "rw" in locks._mount_options(Path("/proc")).split(",")


def test_an_unknown_kind_of_locks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WARMSTART_LOCKS", "mkdr")
    with pytest.raises(ConfigError, match=r"WARMSTART_LOCKS is 'mkdr'.*did you mean 'mkdir'"):
        locks.lock(tmp_path / "key")


@pytest.mark.slow
def test_a_long_wait_says_for_whom(tmp_path, kind, monkeypatch, caplog):
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.3)
    caplog.set_level(logging.INFO, logger="warmstart")
    owner = start(kind, hold, tmp_path)
    await_file(tmp_path / "ready")
    with pytest.raises(Timeout):
        locks.lock(tmp_path / "key").acquire(timeout=0.1)
    assert "waiting" not in caplog.text
    threading.Timer(1.0, owner.kill).start()
    with locks.lock(tmp_path / "key"):
        pass
    owner.join()
    (line,) = [line for line in caplog.messages if "waiting" in line]
    assert line.startswith(f"waiting for process {owner.pid}")
    assert line.endswith(f"which is at {tmp_path.name}/key")
