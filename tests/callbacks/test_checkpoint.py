"""Checkpoints of a run under way: atomic, two kept, the older one as fallback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from warmstart.callbacks import checkpoint


def state(step):
    return {"step": step, "model": {"weight": torch.full((64,), float(step))}, "rows": [[1, 0.5]]}


def test_what_is_saved_is_loaded(tmp_path):
    folder = tmp_path / "runs" / "key"
    path = checkpoint.save(folder, 12, state(12))
    loaded = checkpoint.load_newest(folder)
    assert path.parent == folder
    assert loaded["step"] == 12
    assert loaded["rows"] == [[1, 0.5]]
    assert torch.equal(loaded["model"]["weight"], state(12)["model"]["weight"])
    assert [file.name for file in folder.iterdir()] == [path.name]


def test_nothing_saved_is_nothing_loaded(tmp_path):
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "absent") is None


def test_the_two_newest_stay(tmp_path):
    # 1000 comes after 999, though not in the order of letters without leading zeros.
    paths = [checkpoint.save(tmp_path, step, state(step)) for step in (5, 999, 1000)]
    assert set(tmp_path.iterdir()) == set(paths[1:])
    assert checkpoint.load_newest(tmp_path)["step"] == 1000


def tear(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    # One bit in the middle of the numbers, which torch would load without a word.
    content = bytearray(path.read_bytes())
    content[content.find(torch.full((4,), 20.0).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [tear, empty, flip])
def test_a_damaged_newest_falls_back_to_the_older(tmp_path, damage):
    checkpoint.save(tmp_path, 10, state(10))
    damage(checkpoint.save(tmp_path, 20, state(20)))
    assert checkpoint.load_newest(tmp_path)["step"] == 10


def test_a_flipped_bit_is_not_seen_by_torch_itself(tmp_path):
    path = checkpoint.save(tmp_path, 20, state(20))
    flip(path)
    loaded = torch.load(path, weights_only=True)
    assert not torch.equal(loaded["model"]["weight"], state(20)["model"]["weight"])
    assert checkpoint.load_newest(tmp_path) is None


def test_two_damaged_ones_are_as_none(tmp_path):
    for step in (10, 20):
        tear(checkpoint.save(tmp_path, step, state(step)))
    assert checkpoint.load_newest(tmp_path) is None


def test_half_written_files_are_ignored_and_removed(tmp_path):
    checkpoint.save(tmp_path, 10, state(10))
    torch.save(state(99), tmp_path / "tmpabc.part")
    (tmp_path / "result.json").write_text("{}")
    assert checkpoint.load_newest(tmp_path)["step"] == 10
    checkpoint.remove(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_save_that_fails_leaves_what_was_there(tmp_path):
    path = checkpoint.save(tmp_path, 10, state(10))
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(tmp_path, 20, {"bad": lambda: None})
    assert list(tmp_path.iterdir()) == [path]


_SAVING = """
import sys, torch
from pathlib import Path
from warmstart.callbacks import checkpoint
for step in range(1, 10**6):
    state = {"step": step, "w": torch.full((200_000,), float(step))}
    checkpoint.save(Path(sys.argv[1]), step, state)
"""


@pytest.mark.slow
def test_kills_while_saving_never_leave_a_torn_newest(tmp_path):
    for pause in (0.02, 0.3):
        folder = tmp_path / str(pause)
        process = subprocess.Popen([sys.executable, "-c", _SAVING, str(folder)])
        try:
            deadline = time.monotonic() + 120
            while not list(folder.glob("checkpoint-*")) and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(pause)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        newest = max(folder.glob("checkpoint-*"))
        loaded = checkpoint.load_newest(folder)
        assert int(newest.name.split("-")[1]) == loaded["step"] > 0
        assert loaded["w"].unique().tolist() == [loaded["step"]]
