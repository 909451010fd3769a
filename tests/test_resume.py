"""A run that is killed and started again ends as if nothing had happened, bit for bit."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

import warmstart
from killed import Killed
from processes import start

pytestmark = pytest.mark.slow

# A validation every 10 steps, and a checkpoint after every step.
BASE = ["steps=40", "val_every_steps=10", "log_every_steps=4", "data.per_class=8", "batch_size=16"]


def test_killed_twice_between_two_validations(tmp_path: Path) -> None:
    killed = Killed(tmp_path, *BASE)
    assert killed.kill(13) == 13
    assert killed.kill(14) == 27
    killed.ends_like_the_unbroken_run()


def test_killed_around_an_unfreezing(tmp_path: Path) -> None:
    # The five groups unfreeze at steps 0, 5, 10, 15 and 20.
    killed = Killed(tmp_path, *BASE, "strategy=gradual", "strategy.batchnorm=train", "augment=crop")
    assert killed.kill(5) == 5, "the next step is the first with two groups"
    assert killed.kill(11) == 16, "the last step was the first with four groups"
    killed.ends_like_the_unbroken_run()


def test_killed_around_phases_that_train_on_stored_features(tmp_path: Path) -> None:
    # 60 images train, in batches of 16: the phases, of five steps each, are more than a pass, so
    # that all but the last one are cached.
    frozen = ["init=scratch", "init.statistics=data"]
    killed = Killed(tmp_path, *BASE, *frozen, "strategy=gradual", "data.per_class=6")
    assert killed.kill(5) == 5, "the next step is the first at another cut"
    assert killed.kill(8) == 13
    killed.ends_like_the_unbroken_run()


def test_killed_around_a_validation(tmp_path: Path) -> None:
    killed = Killed(tmp_path, *BASE, "optimizer=adam", "optimizer.lr=0.003")
    assert killed.kill(10, when="before") == 9, "validated, but not saved"
    assert killed.kill(11) == 20, "right after a validation"
    killed.ends_like_the_unbroken_run()


def test_killed_with_an_average_and_snapshots(tmp_path: Path) -> None:
    cyclic = ["scheduler=sgdr", "scheduler.cycles=3", "snapshots=true"]
    killed = Killed(tmp_path, *BASE, "average=ema", "accumulate=2", *cyclic)
    assert killed.kill(13) == 13, "the step that ends the first cycle, of which it saves the end"
    assert killed.kill(14) == 27
    killed.ends_like_the_unbroken_run()


def test_killed_with_workers_and_augmentation(tmp_path: Path) -> None:
    killed = Killed(tmp_path, *BASE, "augment=crop", "trainer.workers=2")
    assert killed.kill(17) == 17
    killed.words.remove("trainer.workers=2")  # which any number may replace
    killed.ends_like_the_unbroken_run()


# So many steps that the run is not over when a busy machine gets round to the signal.
LONG = ["steps=300", "val_every_steps=100"]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    killed = Killed(tmp_path, *BASE, *LONG)
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
    killed = Killed(tmp_path, *BASE, *LONG)
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
    killed = Killed(tmp_path, *BASE)
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
    killed = Killed(tmp_path, *BASE)
    killed.kill(20)
    killed.ends_like_the_unbroken_run()
    seconds = json.loads((killed.folder / "result.json").read_text())["timing"]["curves"]["train"]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
