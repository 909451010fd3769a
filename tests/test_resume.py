"""A run that is killed and started again ends as if nothing had happened, bit for bit."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

import warmstart
from processes import run, start
from warmstart import Record
from warmstart.results.record import read
from warmstart.run.preparing import prepare

pytestmark = pytest.mark.slow

# A validation every 10 steps, and a checkpoint after every step.
BASE = ["steps=40", "val_every_steps=10", "log_every_steps=4", "data.per_class=8", "batch_size=16"]
EVERY_STEP = "checkpoint_seconds=0"


class Killed:
    """A run of its own that is started again and again, and the unbroken run beside it."""

    def __init__(self, root: Path, *overrides: str) -> None:
        self.words = [*BASE, *overrides]
        self.root, self.out, self.log = root, root / "killed", root / "log"
        self.key = prepare(warmstart.compose([*self.words, f"out={self.out}"])).key
        self.folder = self.out / "runs" / self.key
        self.command = ["train", *self.words, EVERY_STEP, f"out={self.out}"]

    def kill(self, save: int, *, when: str = "after") -> int:
        """Run until this many more checkpoints are written; return the newest one's step."""
        assert run(self.command, self.log, die_at_save=save, when=when) == -signal.SIGKILL
        assert not (self.folder / "result.json").exists()
        return self.newest()

    def newest(self) -> int:
        names = (path.name for path in self.folder.glob("checkpoint-*.pt"))
        return max((int(name.split("-")[1]) for name in names), default=0)

    def ends_like_the_unbroken_run(self) -> None:
        assert run(self.command, self.log) == 0
        unbroken = warmstart.train([*self.words, f"out={self.root / 'unbroken'}"])
        record = read(self.folder)
        assert isinstance(record, Record)
        # Metrics, curves, and digests of the initial and the best weights among them; the
        # versions name the state of the checkout, which somebody may be working in.
        assert replace(record, versions={}) == replace(unbroken, versions={})
        other = self.root / "unbroken" / "runs" / self.key / "best.safetensors"
        assert (self.folder / "best.safetensors").read_bytes() == other.read_bytes()
        rows = [line.split(",")[0] for line in (self.folder / "metrics.csv").open()][1:]
        # A head that trains alone, on stored features, is not looked at.
        steps = {step for curve in record.curves.values() for step in curve["step"]}
        assert [int(step) for step in rows] == sorted(steps)
        # Neither checkpoints nor half-written files are left.
        names = {path.name for path in self.folder.iterdir()}
        assert names == {
            *("result.json", "predictions.npz", "test_openings", "best.safetensors", "metrics.csv"),
            "state.json",
        }


def test_killed_twice_between_two_validations(tmp_path: Path) -> None:
    killed = Killed(tmp_path)
    assert killed.kill(13) == 13
    assert killed.kill(14) == 27
    killed.ends_like_the_unbroken_run()


def test_killed_around_an_unfreezing(tmp_path: Path) -> None:
    # The five groups unfreeze at steps 0, 5, 10, 15 and 20.
    killed = Killed(tmp_path, "strategy=gradual", "strategy.batchnorm=train", "augment=crop")
    assert killed.kill(5) == 5, "the next step is the first with two groups"
    assert killed.kill(11) == 16, "the last step was the first with four groups"
    killed.ends_like_the_unbroken_run()


def test_killed_around_phases_that_train_on_stored_features(tmp_path: Path) -> None:
    # 60 images train, in batches of 16: the phases, of five steps each, are more than a pass, so
    # that all but the last one are cached.
    frozen = ["init=scratch", "init.statistics=data"]
    killed = Killed(tmp_path, *frozen, "strategy=gradual", "data.per_class=6")
    assert killed.kill(5) == 5, "the next step is the first at another cut"
    assert killed.kill(8) == 13
    killed.ends_like_the_unbroken_run()


def test_killed_around_a_validation(tmp_path: Path) -> None:
    killed = Killed(tmp_path, "optimizer=adam", "optimizer.lr=0.003")
    assert killed.kill(10, when="before") == 9, "validated, but not saved"
    assert killed.kill(11) == 20, "right after a validation"
    killed.ends_like_the_unbroken_run()


def test_killed_with_an_average_and_snapshots(tmp_path: Path) -> None:
    cyclic = ["scheduler=sgdr", "scheduler.cycles=3", "snapshots=true"]
    killed = Killed(tmp_path, "average=ema", "accumulate=2", *cyclic)
    assert killed.kill(13) == 13, "the step that ends the first cycle, of which it saves the end"
    assert killed.kill(14) == 27
    killed.ends_like_the_unbroken_run()


def test_killed_with_workers_and_augmentation(tmp_path: Path) -> None:
    killed = Killed(tmp_path, "augment=crop", "trainer.workers=2")
    assert killed.kill(17) == 17
    killed.words.remove("trainer.workers=2")  # which any number may replace
    killed.ends_like_the_unbroken_run()


# So many steps that the run is not over when a busy machine gets round to the signal.
LONG = ["steps=600", "val_every_steps=200"]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    killed = Killed(tmp_path, *LONG)
    for least in (6, 21):
        process = start(killed.command, killed.log)
        while killed.newest() < least and process.is_alive():
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    killed.ends_like_the_unbroken_run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    killed = Killed(tmp_path, *LONG)
    process = start(killed.command, killed.log)
    while killed.newest() < 12 and process.is_alive():
        time.sleep(0.002)
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == 130
    assert killed.log.read_text().endswith(
        "\nwarmstart: stopped; the same command goes on "
        "(from the last checkpoint, where there is one)\n"
    )
    assert "Traceback" not in killed.log.read_text()
    assert killed.newest() >= 12
    killed.ends_like_the_unbroken_run()


@pytest.mark.parametrize("damage", ["cut", "changed", "all"])
def test_a_damaged_checkpoint_is_not_taken(damage: str, tmp_path: Path) -> None:
    killed = Killed(tmp_path)
    assert killed.kill(14) == 14
    older, newest = sorted(killed.folder.glob("checkpoint-*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content[:-100] if damage == "cut" else content)
    if damage == "all":
        older.write_bytes(b"")
    killed.ends_like_the_unbroken_run()


def test_a_kill_right_after_the_record_leaves_no_checkpoint_for_good(tmp_path: Path) -> None:
    words = [*BASE, f"out={tmp_path}"]
    record = warmstart.train(words)
    left = tmp_path / "runs" / record.key / "checkpoint-000000039-0123456789abcdef.pt"
    left.write_bytes(b"")
    assert warmstart.train(words) == record
    assert not left.exists()


def test_the_time_of_training_counts_all_parts(tmp_path: Path) -> None:
    killed = Killed(tmp_path)
    killed.kill(20)
    killed.ends_like_the_unbroken_run()
    seconds = json.loads((killed.folder / "result.json").read_text())["timing"]["curves"]["train"]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
