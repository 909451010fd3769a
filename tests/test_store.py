"""The store: made once, whoever asks and whoever dies."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from warmstart import ConfigError, store

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


def settled(path):
    """Return an entry whose files were written a minute ago."""
    moment = time.time() - 60
    for file in path.iterdir():
        os.utime(file, (moment, moment))
    return path


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
    path = settled(store.once(tmp_path, "key", Maker()))
    store.once(tmp_path, "key", Maker())
    stamp = (path / "a.bin").stat().st_mtime_ns
    lines = (path / "SHA256SUMS").read_text().splitlines()
    assert lines[:2] == [f"# 1000 {stamp}", f"{hashlib.sha256(bytes(1000)).hexdigest()}  a.bin"]
    assert lines[3:] == [f"{hashlib.sha256(b'content').hexdigest()}  b.txt"]
    assert store.sha256(path / "a.bin") == hashlib.sha256(bytes(1000)).hexdigest()
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, check=True)


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
    with (path / "a.bin").open("r+b") as file:
        file.seek(500)
        file.write(b"\x01")


def lose(path):
    (path / "a.bin").unlink()


def lose_sums(path):
    (path / "SHA256SUMS").unlink()


def empty_sums(path):
    (path / "SHA256SUMS").write_text("")


def garble_sums(path):
    (path / "SHA256SUMS").write_bytes(b"\xff\xfe nonsense")


def lose_one_sum(path):
    *others, _ = (path / "SHA256SUMS").read_text().splitlines(keepends=True)
    (path / "SHA256SUMS").write_text("".join(others))


def add(path):
    (path / "stray.txt").write_text("not of the maker")


def link(path):
    text = (path / "b.txt").read_bytes()
    (path / "b.txt").unlink()
    (path.parent / "elsewhere.txt").write_bytes(text)
    (path / "b.txt").symlink_to(path.parent / "elsewhere.txt")


@pytest.mark.parametrize(
    "damage", [truncate, flip, lose, lose_sums, empty_sums, garble_sums, lose_one_sum, add, link]
)
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    make = Maker()
    path = settled(store.once(tmp_path, "key", make))
    store.once(tmp_path, "key", make)
    damage(path)
    assert store.once(tmp_path, "key", make) == path
    assert make.calls == 2
    assert (path / "a.bin").read_bytes() == bytes(1000)
    store.once(tmp_path, "key", make)
    assert make.calls == 2


def test_a_damaged_entry_is_named(tmp_path, caplog):
    path = settled(store.once(tmp_path / "images", "key", Maker()))
    store.once(tmp_path / "images", "key", Maker())
    assert caplog.text == ""
    truncate(path)
    store.once(tmp_path / "images", "key", Maker())
    assert "images/key is damaged: it is made again" in caplog.text


def test_an_entry_that_cannot_be_used_is_named_and_made_again(tmp_path, caplog):
    def fault(path):
        return "" if (path / "b.txt").read_text() == "new" else "is of old"

    path = store.once(tmp_path, "key", Maker("old"))
    for _ in range(2):
        store.opened(tmp_path, "key", Maker("new"), lambda path: path, fault=fault)
    assert (path / "b.txt").read_text() == "new"
    assert caplog.text.count(f"{tmp_path.name}/key is of old: it is made again") == 1


@pytest.fixture
def summed(monkeypatch):
    """Return the names of the files whose sums are computed from now on."""
    names, real = [], store.sha256

    def noting(path):
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(store, "sha256", noting)
    return names


def test_only_what_was_touched_is_summed_again_and_once(tmp_path, summed):
    make = Maker()
    path = settled(store.once(tmp_path, "key", make))
    store.once(tmp_path, "key", make)
    made = (path / "SHA256SUMS").stat().st_mtime_ns
    summed.clear()
    store.once(tmp_path, "key", make)
    assert summed == []
    os.utime(path / "b.txt", (1, 1))
    store.once(tmp_path, "key", make)
    assert summed == ["b.txt"]
    store.once(tmp_path, "key", make)
    assert summed == ["b.txt"]
    assert make.calls == 1
    assert (path / "SHA256SUMS").stat().st_mtime_ns == made


def test_the_time_of_a_file_just_written_is_not_trusted(tmp_path):
    make = Maker()
    path = store.once(tmp_path, "key", make)
    before = (path / "a.bin").stat()
    flip(path)  # within one tick of a coarse clock
    os.utime(path / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    store.once(tmp_path, "key", make)
    assert make.calls == 2


def test_who_lists_an_entry_while_another_opens_it_sees_its_files_alone(tmp_path, monkeypatch):
    folder = store.once(tmp_path, "key", lambda part: (part / "a.txt").write_text("a"))
    os.utime(folder / "a.txt", (1, 1))  # the next opening writes the times of all files anew
    replace, seen = os.replace, []

    def listing(source, target):
        seen.append(sorted(path.name for path in folder.iterdir()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", listing)
    store.once(tmp_path, "key", lambda part: None)
    assert seen == [["SHA256SUMS", "a.txt"]]


def test_an_entry_without_times_is_summed_once(tmp_path, summed):
    # As earlier versions wrote it.
    make = Maker()
    path = settled(store.once(tmp_path, "key", make))
    lines = (path / "SHA256SUMS").read_text().splitlines(keepends=True)
    (path / "SHA256SUMS").write_text("".join(line for line in lines if line[0] != "#"))
    summed.clear()
    store.once(tmp_path, "key", make)
    assert summed == ["a.bin", "b.txt"]
    store.once(tmp_path, "key", make)
    assert summed == ["a.bin", "b.txt"]
    assert make.calls == 1


class Tree:
    """Makes an entry with folders and odd names."""

    def __init__(self, count=3):
        self.count = count
        self.calls = 0

    def __call__(self, part):
        self.calls += 1
        for number in range(self.count):
            folder = part / "photos" / f"class {number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"caf\N{LATIN SMALL LETTER E WITH ACUTE}\u2028 {number}").write_bytes(b"x")
        (part / "photos" / "SHA256SUMS").write_text("of the archive")
        (part / "photos" / os.fsdecode(b"\xff.png")).write_bytes(b"not UTF-8")


@pytest.mark.parametrize("count", [3, 150], ids=["few files", "many files"])
def test_an_entry_may_hold_folders(tmp_path, count):
    make = Tree(count)
    path = store.once(tmp_path, "key", make)
    store.once(tmp_path, "key", make)
    assert make.calls == 1
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=path, check=True)
    (path / "photos" / "class 1" / "new.txt").touch()
    store.once(tmp_path, "key", make)
    assert make.calls == 2
    (path / "photos" / "SHA256SUMS").write_text("of the ARCHIVE")
    store.once(tmp_path, "key", make)
    assert make.calls == 3


def leave_link(part):
    (part / "a").symlink_to("/etc/passwd")


def leave_link_to_folder(part):
    (part / "a").symlink_to("/etc")


def leave_pipe(part):
    os.mkfifo(part / "a")


def leave_line_break(part):
    (part / "a\nb").touch()


@pytest.mark.parametrize("make", [leave_link, leave_link_to_folder, leave_pipe, leave_line_break])
def test_what_is_no_plain_file_is_refused(tmp_path, make):
    with pytest.raises(ConfigError, match=r"'a.*' is a link, no plain file, or has a line"):
        store.once(tmp_path, "key", make)
    assert [file.name for file in tmp_path.iterdir()] == ["key.lock"]


def test_the_name_of_the_sums_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="key holds a file SHA256SUMS, the store's own"):
        store.once(tmp_path, "key", lambda part: (part / "SHA256SUMS").touch())


def filling(count):
    return lambda part: (part / "data").write_bytes(bytes(count))


def fill(folder, *ages, size=100):
    """Make entries a, b, c, ... which were used so many seconds ago."""
    for name, age in zip("abcdef", ages, strict=False):
        path = store.once(folder, name, filling(size))
        os.utime(path, (time.time() - age, time.time() - age))


def held(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


class TestTrim:
    def test_deletes_the_least_recently_used(self, tmp_path):
        fill(tmp_path, 10, 40, 20, 30)
        assert store.trim(tmp_path, limit=400) == 0
        assert store.trim(tmp_path, limit=399) == 100
        assert held(tmp_path) == ["a", "c", "d"]
        assert store.trim(tmp_path, limit=400, need=250) == 200
        assert held(tmp_path) == ["a"]
        assert store.trim(tmp_path, limit=0) == 100
        assert held(tmp_path) == []

    def test_opening_counts_as_use(self, tmp_path):
        fill(tmp_path, 20, 10)
        store.once(tmp_path, "a", filling(100))
        store.trim(tmp_path, limit=100)
        assert held(tmp_path) == ["a"]

    def test_keeps_what_it_is_told_to(self, tmp_path):
        fill(tmp_path, 30, 20, 10)
        assert store.trim(tmp_path, limit=100, keep=["a"]) == 200
        assert held(tmp_path) == ["a"]
        assert store.trim(tmp_path, limit=10, keep=["a"]) == 0

    def test_leaves_what_somebody_is_at(self, tmp_path):
        fill(tmp_path, 30, 20)
        with store.lock(tmp_path / "a"):
            assert store.trim(tmp_path, limit=100) == 100
        assert held(tmp_path) == ["a"]

    def test_an_entry_under_way_stays_and_a_dead_one_goes(self, tmp_path):
        def make(part):
            dead = tmp_path / ".dead.abcdefgh.part"
            dead.mkdir()
            (dead / "half").write_bytes(bytes(100))
            (part / "data").write_bytes(bytes(100))
            assert store.trim(tmp_path, limit=0) == 100
            assert not dead.exists()

        path = store.once(tmp_path, "key", make)
        assert (path / "data").stat().st_size == 100

    def test_an_open_map_stays_readable(self, tmp_path):
        path = store.once(tmp_path, "a", lambda part: np.save(part / "x.npy", np.arange(5000)))
        mapped = np.load(path / "x.npy", mmap_mode="r")
        assert store.trim(tmp_path, limit=0) > 0
        assert not path.exists()
        assert mapped.sum() == 4999 * 5000 // 2

    def test_nobody_trims_what_is_being_read(self, tmp_path):
        def read(path):
            assert store.trim(tmp_path, limit=0) == 0
            return (path / "data").read_bytes()

        assert store.opened(tmp_path, "key", filling(3), read) == bytes(3)

    def test_of_a_folder_that_is_not_there(self, tmp_path):
        assert store.trim(tmp_path / "none", limit=0) == 0
        assert not (tmp_path / "none").exists()

    def test_leaves_what_is_no_entry(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("of a person")
        assert store.trim(tmp_path, limit=0) == 0
        assert held(tmp_path) == ["mine"]


@pytest.mark.slow
def test_makers_and_trimmers_at_the_same_time(tmp_path):
    code = """
import sys
from pathlib import Path
from warmstart import store

folder, start = Path(sys.argv[1]), int(sys.argv[2])
for turn in range(60):
    key = f"key{(start + turn) % 3}"
    make = lambda part: (part / "data").write_text(key)
    assert store.opened(folder, key, make, lambda path: (path / "data").read_text()) == key
    store.trim(folder, limit=5)
"""
    command = [sys.executable, "-c", code, tmp_path]
    processes = [subprocess.Popen([*command, str(start)]) for start in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    assert store.trim(tmp_path, limit=0) >= 0
    assert held(tmp_path) == []


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
