"""Runs in several processes: real ones, two of them, on a CPU with gloo."""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

import warmstart
from processes import start
from rank_work import add_up
from warmstart import ConfigError, Record, RunError, stopping
from warmstart.cli import main
from warmstart.data import batches
from warmstart.data.batches import TrainBatches
from warmstart.data.images import Split
from warmstart.ranks import Ranks
from warmstart.results.record import read
from warmstart.run.execution import execute
from warmstart.run.multiprocess import together
from warmstart.run.preparing import prepare
from warmstart.task import Classification

BASE = ["steps=20", "val_every_steps=5", "log_every_steps=4", "data.per_class=8", "batch_size=16"]
TWO = [*BASE, "trainer=ddp", "trainer.accelerator=cpu"]
ONE = [*BASE, "trainer=cpu"]
# No layer normalizes by the batch, of which each process sees a part.
NO_BATCH_STATISTICS = ["init.statistics=data", "strategy.batchnorm=eval"]


def weights_of(record: Record, out: Path) -> dict[str, Tensor]:
    return load_file(out / "runs" / record.key / "best.safetensors")


def predictions_of(record: Record, out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "runs" / record.key / "predictions.npz") as file:
        return {name: file[name] for name in file if name != "weights"}


def comparable(record: Record) -> Record:
    """Leave out the versions, which name the state of the checkout."""
    return replace(record, versions={})


@pytest.fixture
def in_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, Callable[[Any], None]], None]:
    """Return a function that lets a rank do something before a step: ranks are forks."""
    step_before = Classification.training_step

    def plant(rank: int, step: int, act: Callable[[Any], None]) -> None:
        def training_step(self: Classification, batch: Any, batch_idx: int) -> Tensor:
            if os.environ.get("LOCAL_RANK") == str(rank) and self.first_step + batch_idx == step:
                act(self)
            return step_before(self, batch, batch_idx)

        monkeypatch.setattr(Classification, "training_step", training_step)

    return plant


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    stopping.clear()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("strategy", "phases"), [("gradual", 5), ("lp_ft", 2)])
def test_unfreezing_keeps_ranks_equal_and_gives_what_one_process_gives(
    strategy: str, phases: int, tmp_path: Path
) -> None:
    words = [f"strategy={strategy}", *NO_BATCH_STATISTICS, f"out={tmp_path}"]
    two, one = warmstart.train([*TWO, *words]), warmstart.train([*ONE, *words])
    assert two.rank_divergence == [0.0] * phases
    assert one.rank_divergence == []
    assert two.config["trainer"]["devices"] == 2
    assert len(two.freeze_proof) == phases
    # All but the rounding of sums in another order: images, their order, the model before step 0.
    for name in ("data", "split", "order", "augment", "init"):
        assert two.digests[name] == one.digests[name]
    assert two.curves["val"]["step"] == one.curves["val"]["step"] == [5, 10, 15, 20]
    assert two.curves["train"]["loss"] == pytest.approx(one.curves["train"]["loss"], rel=1e-4)
    others = weights_of(one, tmp_path)
    for name, tensor in weights_of(two, tmp_path).items():
        torch.testing.assert_close(tensor, others[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        (["early_stopping.patience=0", "early_stopping.min_delta=0.9", "steps=30"], 10),
        (["scheduler=sgdr", "scheduler.cycles=2", "snapshots=true"], None),
    ],
)
def test_averages_an_early_end_and_snapshots_are_those_of_one_process(
    more: list[str], ends: int | None, tmp_path: Path
) -> None:
    words = [*NO_BATCH_STATISTICS, "average=ema", "average.decay=0.5", *more, f"out={tmp_path}"]
    two, one = warmstart.train([*TWO, *words]), warmstart.train([*ONE, *words])
    assert two.stopped_at == one.stopped_at == ends
    assert two.rank_divergence == [0.0]
    assert two.curves["val"]["loss"] == pytest.approx(one.curves["val"]["loss"], rel=1e-4)
    others = predictions_of(one, tmp_path)
    found = predictions_of(two, tmp_path)
    assert found.keys() == others.keys()
    assert ("test_snapshot_logits" in found) == (ends is None)
    for name in found:
        if name.endswith("logits"):
            np.testing.assert_allclose(found[name], others[name], atol=1e-3)


def test_ranks_stay_equal_where_batchnorm_normalizes_by_the_batch(tmp_path: Path) -> None:
    words = ["strategy=gradual", "strategy.batchnorm=train", "augment=crop", f"out={tmp_path}"]
    record = warmstart.train([*TWO, *words, "optimizer.lr=0.05"])
    assert record.rank_divergence == [0.0] * 5
    assert record.metrics["val/accuracy"] > 0.2


def test_running_means_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    # The mean over two halves of a batch is that over all of it, before the weights differ.
    words = ["steps=1", f"out={tmp_path}"]
    two, one = warmstart.train([*TWO, *words]), warmstart.train([*ONE, *words])
    name = next(n for n in weights_of(two, tmp_path) if n.endswith("running_mean"))
    mean = weights_of(two, tmp_path)[name]
    assert mean.abs().max() > 0.001
    torch.testing.assert_close(mean, weights_of(one, tmp_path)[name], atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("pictures", [130, 1000])
def test_uneven_batches_are_measured_exactly(
    pictures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation and test sets of three batches, or of one, give every number to the bit."""
    monkeypatch.setattr(batches, "_EVAL_PICTURES", pictures)
    # A rate at which the weights do not move: both runs evaluate the same ones.
    words = [*NO_BATCH_STATISTICS, "optimizer.lr=1.0e-60", f"out={tmp_path}"]
    two, one = warmstart.train([*TWO, *words]), warmstart.train([*ONE, *words])
    assert two.digests == one.digests
    assert two.curves["val"] == one.curves["val"]
    assert two.metrics == one.metrics
    assert two.test_opened == 1
    mine, others = predictions_of(two, tmp_path), predictions_of(one, tmp_path)
    assert mine.keys() == others.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, others[name])


def test_a_killed_rank_ends_the_run_which_then_goes_on(tmp_path: Path, in_rank: Any) -> None:
    words = [*TWO, "strategy=lp_ft", *NO_BATCH_STATISTICS]
    unbroken = warmstart.train([*words, f"out={tmp_path / 'unbroken'}"])
    in_rank(1, 12, lambda task: os.kill(os.getpid(), signal.SIGKILL))
    words += [f"out={tmp_path / 'killed'}", "checkpoint_seconds=0"]
    with pytest.raises(RunError, match="process 1 of the run's 2 was killed by SIGKILL") as caught:
        warmstart.train(words)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []
    folder = tmp_path / "killed" / "runs" / unbroken.key
    failed = read(folder)
    assert failed is not None
    assert failed.status == "failed"
    assert any(folder.glob("checkpoint-00000001*.pt")), "twelve steps were done"
    in_rank(1, -1, lambda task: None)
    assert comparable(warmstart.train(words)) == comparable(unbroken)
    other = tmp_path / "unbroken" / "runs" / unbroken.key / "best.safetensors"
    assert (folder / "best.safetensors").read_bytes() == other.read_bytes()


def test_an_error_in_a_rank_is_named(tmp_path: Path, in_rank: Any) -> None:
    def fail(task: Any) -> None:
        raise ValueError("broken\nhere")

    in_rank(1, 3, fail)
    with pytest.raises(RunError, match="process 1 of the run's 2 failed: ValueError: broken here"):
        warmstart.train([*TWO, f"out={tmp_path}"])


def test_what_all_ranks_refuse_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^the training loss is .*; lower optimizer.lr or add"):
        warmstart.train([*TWO, "optimizer.lr=1.0e20", f"out={tmp_path}"])


def test_a_planted_divergence_is_caught(tmp_path: Path, in_rank: Any) -> None:
    def move(task: Any) -> None:
        with torch.no_grad():
            task.model.get_parameter("conv1.0.weight").flatten()[3] += 0.25

    in_rank(1, 19, move)
    with pytest.raises(
        RunError, match=r"differ after phase 0 \(steps 0 to 19\) by up to 0.25 in conv1.0.weight; "
    ):
        warmstart.train([*TWO, "strategy=linear_probe", *NO_BATCH_STATISTICS, f"out={tmp_path}"])


def test_a_run_that_is_asked_to_stop_goes_on_later(tmp_path: Path) -> None:
    words = [*TWO, "strategy=gradual", "strategy.batchnorm=train", "augment=crop"]
    unbroken = warmstart.train([*words, f"out={tmp_path / 'unbroken'}"])
    words += [f"out={tmp_path / 'stopped'}"]
    run = prepare(warmstart.compose(words))
    with pytest.raises(stopping.Stopped):
        execute(run, progress=lambda done, steps: stopping.request())
    assert len(list(run.folder.glob("checkpoint-*.pt"))) == 1
    stopping.clear()
    assert comparable(warmstart.train(words)) == comparable(unbroken)


@pytest.mark.slow
def test_a_killed_run_leaves_no_rank_behind(tmp_path: Path) -> None:
    words = [*TWO, "steps=2000", "val_every_steps=500", f"out={tmp_path}", "checkpoint_seconds=0"]
    folder = prepare(warmstart.compose(words)).folder
    process = start(["train", *words], tmp_path / "log")
    while process.is_alive() and not list(folder.glob("checkpoint-*.pt")):
        time.sleep(0.02)
    ranks = [
        stat.parent.name
        for stat in Path("/proc").glob("[0-9]*/stat")
        if _state(stat)[1] == str(process.pid)
    ]
    assert len(ranks) == 2
    process.kill()
    process.join()
    until = time.monotonic() + 5
    while any(_runs(rank) for rank in ranks) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(_runs(rank) for rank in ranks)


def _state(stat: Path) -> list[str]:
    """Return a process's state and its parent's number; "Z" and "" for one that is gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return ["Z", ""]


def _runs(pid: str) -> bool:
    return _state(Path(f"/proc/{pid}/stat"))[0] != "Z"


@pytest.mark.slow
def test_processes_that_import_everything_anew(caplog: pytest.LogCaptureFixture) -> None:
    """As on GPUs, which do not survive a fork."""

    class Heard:
        steps: ClassVar[list[tuple[int, int]]] = []

        def stage(self, name: str, *, step: int = 0) -> None: ...

        def step(self, done: int, steps: int) -> None:
            self.steps.append((done, steps))
            stopping.request()

    caplog.set_level(logging.INFO, "warmstart")
    together(add_up, [1.5, 2.5], world=2, device="cpu", fork=False, report=Heard())
    assert Heard.steps == [(4, 100)]
    assert caplog.messages == ["rank 0 has 4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch_size=15"], r"batch_size is 15, which cannot be shared out evenly to 2 devices"),
        (
            ["data.per_class=1", "trainer.devices=4"],
            r"batch_size is 10, which .* 4 devices .* multiple of 4 that is at most 10",
        ),
        (["trainer.sync_batchnorm=true"], r"sync_batchnorm is true, but the run computes on a CPU"),
        (
            ["trainer.sync_batchnorm=true", "trainer.devices=1"],
            r"sync_batchnorm is true, but trainer.devices is 1",
        ),
        (["trainer.devices=0"], r"trainer.devices is 0, but must be a whole number, 1 or more"),
        (["batch_size=2", "augment.mixup=0.2"], r"mix the images .* a batch_size of at least 4"),
        (["lr_batch=0"], r"lr_batch is 0, but must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(warmstart.compose([*TWO, f"out={tmp_path}", *words]))


def test_the_rate_grows_with_the_batch(tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return prepare(warmstart.compose([*BASE, f"out={tmp_path}", *words]))

    scaled = run("batch_size=48", "optimizer.lr=0.02", "lr_batch=16")
    assert scaled.config["optimizer"]["lr"] == pytest.approx(0.06)
    assert scaled.key == run("batch_size=48", f"optimizer.lr={0.02 * 48 / 16}").key
    assert run("batch_size=48", "optimizer.lr=0.02").config["optimizer"]["lr"] == 0.02


def test_one_device_leaves_the_identity_of_runs_as_it_was(tmp_path: Path) -> None:
    record = warmstart.train([*ONE, "steps=1", f"out={tmp_path}"])
    assert not {"devices", "sync_batchnorm"} & record.config["trainer"].keys()
    assert "lr_batch" not in record.config


@given(count=st.integers(1, 60), world=st.integers(1, 9))
def test_turns_cover_all_batches_and_are_equally_many(count: int, world: int) -> None:
    parts = [Ranks(rank, world).turns(count) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) == -(-count // world)
    # In the order in which `collected` takes them.
    merged = [parts[index % world][index // world] for index in range(count)]
    assert merged == list(range(count))
    assert all(0 <= turn < count for part in parts for turn in part)


@given(world=st.integers(1, 4), each=st.integers(1, 4), step=st.integers(0, 9))
def test_parts_of_a_batch_make_the_batch(world: int, each: int, step: int) -> None:
    pixels = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    split = Split.of(pixels, np.arange(20) % 3, tuple(map(str, range(20))))
    size = world * each
    whole = TrainBatches(split, batch_size=size, seed=1)[step][0].flatten()
    parts = [
        TrainBatches(split, batch_size=size, seed=1, part=Ranks(rank, world).part)[step][0]
        for rank in range(world)
    ]
    assert torch.equal(torch.stack([part.flatten() for part in parts], dim=1).flatten(), whole)
    digests = TrainBatches(split, batch_size=size, seed=1).digests("")
    part = TrainBatches(split, batch_size=size, seed=1, part=Ranks(0, world).part)
    assert part.digests("") == digests


def test_the_plan_says_what_each_device_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *TWO, f"out={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert "20 steps of 16 images (8 on each of 2 devices): " in text
    assert " on each device in float32" in text
