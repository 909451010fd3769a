"""The store: made once, whoever asks and whoever dies."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from warmstart import store

# Writes to a log what it does, so that the test can count.
_ASKING = """
import sys, time
from pathlib import Path
from warmstart.store import once

folder, log, start = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])

def make(part):
    with log.open("a") as file:
        file.write("made\\n")
    (part / "a.txt").write_text("half")
    time.sleep(0.2)
    (part / "b.txt").write_text("whole")

with log.open("a") as file:
    file.write("ready\\n")
while not start.exists():
    time.sleep(0.001)
path = once(folder, "key", make)
assert sorted(f.name for f in path.iterdir()) == ["SHA256SUMS", "a.txt", "b.txt"]
assert (path / "b.txt").read_text() == "whole"
"""

_DYING = """
import sys, time
from pathlib import Path
from warmstart.store import once

def make(part):
    (part / "a.txt").write_text("half")
    Path(sys.argv[2]).touch()
    time.sleep(600)

once(Path(sys.argv[1]), "key", make)
"""


class Maker:
    """Fills an entry and counts how often it is asked to."""

    def __init__(self, text="content"):
        self.text = text
        self.calls = 0

    def __call__(self, part):
        assert list(part.iterdir()) == []
        self.calls += 1
        (part / "a.bin").write_bytes(bytes(1000))
        (part / "b.txt").write_text(self.text)


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for two minutes"
        time.sleep(0.005)


def test_an_entry_is_made_once(tmp_path):
    make = Maker()
    path = store.once(tmp_path / "store", "key", make)
    assert path == tmp_path / "store" / "key"
    assert (path / "b.txt").read_text() == "content"
    assert store.once(tmp_path / "store", "key", make) == path
    assert make.calls == 1
    store.once(tmp_path / "store", "other", make)
    assert make.calls == 2


def test_the_sums_are_those_of_sha256sum(tmp_path):
    path = store.once(tmp_path, "key", Maker())
    lines = (path / "SHA256SUMS").read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256(bytes(1000)).hexdigest()}  a.bin",
        f"{hashlib.sha256(b'content').hexdigest()}  b.txt",
    ]
    assert store.sha256(path / "a.bin") == hashlib.sha256(bytes(1000)).hexdigest()


@pytest.mark.slow
def test_eight_processes_make_it_once(tmp_path):
    log, start = tmp_path / "log", tmp_path / "start"
    log.touch()
    command = [sys.executable, "-c", _ASKING, tmp_path / "store", log, start]
    processes = [subprocess.Popen(command) for _ in range(8)]
    wait_for(lambda: log.read_text().count("ready") == 8)
    start.touch()
    assert [process.wait(timeout=120) for process in processes] == [0] * 8
    assert log.read_text().count("made") == 1


@pytest.mark.slow
def test_a_killed_maker_leaves_nothing(tmp_path):
    folder, marker = tmp_path / "store", tmp_path / "making"
    process = subprocess.Popen([sys.executable, "-c", _DYING, folder, marker])
    try:
        wait_for(marker.exists)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "key").exists()

    make = Maker()
    path = store.once(folder, "key", make)  # the lock is free
    assert make.calls == 1
    assert sorted(file.name for file in path.iterdir()) == ["SHA256SUMS", "a.bin", "b.txt"]
    # What the dead one had begun is gone too.
    assert sorted(file.name for file in folder.iterdir()) == ["key", "key.lock"]


def test_a_maker_that_fails_leaves_nothing(tmp_path):
    def fail(part):
        (part / "a.txt").write_text("half")
        raise RuntimeError("no more images")

    with pytest.raises(RuntimeError, match="no more images"):
        store.once(tmp_path, "key", fail)
    assert [file.name for file in tmp_path.iterdir()] == ["key.lock"]
    make = Maker()
    store.once(tmp_path, "key", make)
    assert make.calls == 1


def test_the_work_of_others_under_way_stays(tmp_path):
    # Half-made entries of keys that start alike.
    others = [tmp_path / ".key.more.abcdefgh.part", tmp_path / ".key2.abcdefgh.part"]
    for other in others:
        other.mkdir()
    dead = tmp_path / ".key.abcdefgh.part"
    dead.mkdir()
    store.once(tmp_path, "key", Maker())
    assert all(other.is_dir() for other in others)
    assert not dead.exists()


def truncate(path):
    (path / "a.bin").write_bytes(bytes(999))


def flip(path):
    (path / "a.bin").write_bytes(bytes(999) + b"\x01")


def lose(path):
    (path / "a.bin").unlink()


def lose_sums(path):
    (path / "SHA256SUMS").unlink()


def empty_sums(path):
    (path / "SHA256SUMS").write_text("")


def garble_sums(path):
    (path / "SHA256SUMS").write_bytes(b"\xff\xfe nonsense")


def lose_one_sum(path):
    first, _ = (path / "SHA256SUMS").read_text().splitlines(keepends=True)
    (path / "SHA256SUMS").write_text(first)


def add(path):
    (path / "stray.txt").write_text("not of the maker")


@pytest.mark.parametrize(
    "damage", [truncate, flip, lose, lose_sums, empty_sums, garble_sums, lose_one_sum, add]
)
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    make = Maker()
    path = store.once(tmp_path, "key", make)
    damage(path)
    assert store.once(tmp_path, "key", make) == path
    assert make.calls == 2
    assert (path / "a.bin").read_bytes() == bytes(1000)
    store.once(tmp_path, "key", make)
    assert make.calls == 2


def test_publish_replaces_a_file_in_one_piece(tmp_path):
    path = tmp_path / "deep" / "result.json"
    store.publish(path, lambda part: part.write_text("old"))
    assert path.read_text() == "old"

    def check_and_write(part):
        assert part.parent == path.parent  # one file system
        assert path.read_text() == "old"
        part.write_text("new")

    store.publish(path, check_and_write)
    assert path.read_text() == "new"
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_publish_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail(part):
        part.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        store.publish(path, fail)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_lock_is_freed_by_the_death_of_its_owner(tmp_path):
    code = (
        "import sys, os, signal; from pathlib import Path; from warmstart.store import lock\n"
        "lock(Path(sys.argv[1])).acquire()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], check=False)
    assert done.returncode == -signal.SIGKILL
    with store.lock(tmp_path / "run").acquire(timeout=5):
        pass
