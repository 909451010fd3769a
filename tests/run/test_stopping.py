"""A run that is asked to stop leaves a checkpoint of its last step, and goes on as if unbroken."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import processes
import warmstart
from tiny import write_configs
from warmstart import Record, stopping
from warmstart.callbacks import checkpoint
from warmstart.data.batches import Batch
from warmstart.results import state
from warmstart.results.record import read
from warmstart.run.execution import execute
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare
from warmstart.task import Classification

# Checkpoints are written on request alone.
WORDS = ["steps=40", "val_every_steps=10", "log_every_steps=4", "data.per_class=8"]
WORDS += ["batch_size=16", "checkpoint_seconds=1000", "augment=crop"]


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    stopping.clear()
    yield
    stopping.clear()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return warmstart.train([*WORDS, f"out={tmp_path_factory.mktemp('unbroken')}"])


def stop_after(step: int) -> Callable[[int, int], None]:
    """Return a progress callback that asks for a stop when so many steps are done."""

    def progress(done: int, steps: int) -> None:
        if done == step:
            stopping.request()

    return progress


def checkpoints(run: Run) -> list[int]:
    names = (path.name for path in run.folder.glob("checkpoint-*.pt"))
    return sorted(int(name.split("-")[1]) for name in names)


# Step 10 is validated, and step 40 is the last one.
@pytest.mark.parametrize("step", [1, 7, 10, 39, 40])
def test_stopped_at_a_step_and_started_again(step: int, tmp_path: Path, unbroken: Record) -> None:
    run = prepare(warmstart.compose([*WORDS, f"out={tmp_path}"]))
    with pytest.raises(stopping.Stopped, match=r"^stopped on a signal; the same command goes on$"):
        execute(run, progress=stop_after(step))
    assert checkpoints(run) == [step]
    assert read(run.folder) is None, "a stopped run has not failed"
    found = state.read(run.folder)
    assert found is not None
    assert (found.state, found.step, found.reason) == ("stopped", step, "")
    stopping.clear()
    assert replace(execute(run), versions={}) == replace(unbroken, versions={})


def test_a_checkpoint_of_an_older_version_goes_on(tmp_path: Path, unbroken: Record) -> None:
    run = prepare(warmstart.compose([*WORDS, f"out={tmp_path}"]))
    with pytest.raises(stopping.Stopped):
        execute(run, progress=stop_after(7))
    stopping.clear()
    saved = checkpoint.load_newest(run.folder)
    assert saved is not None
    checkpoint.remove(run.folder)
    older = {name: saved[name] for name in saved if name not in ("accumulated", "validated")}
    checkpoint.save(run.folder, 7, older)
    assert replace(execute(run), versions={}) == replace(unbroken, versions={})


def test_stopped_within_a_validation(
    tmp_path: Path, unbroken: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(warmstart.compose([*WORDS, f"out={tmp_path}"]))
    step, shown = Classification.validation_step, []

    def ask(task: Classification, batch: Batch, index: int) -> None:
        shown.append(index)
        if len(shown) == 3:  # there are two batches: the first one at step 20
            stopping.request()
        step(task, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "validation_step", ask)
        with pytest.raises(stopping.Stopped):
            execute(run)
    assert checkpoints(run) == [20]
    stopping.clear()
    # The validation is made up for before step 21.
    assert replace(execute(run), versions={}) == replace(unbroken, versions={})


@pytest.mark.parametrize(("batch", "ends"), [(1, True), (3, False)])
def test_stopped_within_the_evaluation(
    batch: int, ends: bool, tmp_path: Path, unbroken: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(warmstart.compose([*WORDS, f"out={tmp_path}"]))
    step, shown = Classification.predict_step, []

    def ask(task: Classification, *args: Any) -> Any:
        shown.append(args)
        if len(shown) == batch:  # two of val, then those of test, which must be seen once
            stopping.request()
        return step(task, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "predict_step", ask)
        if ends:
            with pytest.raises(stopping.Stopped):
                execute(run)
            assert checkpoints(run) == [40], "no step is done again"
        else:
            execute(run)
    stopping.clear()
    assert replace(execute(run), versions={}) == replace(unbroken, versions={})


def test_a_request_before_the_start_costs_nothing(tmp_path: Path) -> None:
    run = prepare(warmstart.compose([*WORDS, f"out={tmp_path}"]))
    stopping.request()
    assert stopping.requested()
    with pytest.raises(stopping.Stopped):
        execute(run)
    assert [path.name for path in run.folder.iterdir()] == ["state.json"]


def test_a_finished_run_is_no_longer_stopped(tmp_path: Path) -> None:
    words = [*WORDS, "steps=2", f"out={tmp_path}"]
    record = warmstart.train(words)
    stopping.request()
    assert warmstart.train(words) == record


def test_a_source_run_stops_with_the_run_that_needs_it(tmp_path: Path) -> None:
    dirs = [write_configs(tmp_path / "configs")]
    words = ["arm=short/probe", "data.per_class=2", f"out={tmp_path / 'out'}"]
    run = prepare(warmstart.compose(words, config_dirs=dirs))
    assert run.source is not None
    with pytest.raises(stopping.Stopped):
        execute(run, progress=stop_after(1))
    for folder in (run.folder, run.source.folder):
        found = state.read(folder)
        assert found is not None
        assert found.state == "stopped"
    assert checkpoints(run.source) == [1]
    stopping.clear()
    assert execute(run).status == "finished"


def test_a_pretraining_without_labels_stops(tmp_path: Path) -> None:
    words = ["init=autoencoder", "init.steps_per_group=20", "steps=2", "data.per_class=2"]
    run = prepare(warmstart.compose([*words, f"out={tmp_path}"]))
    seen: list[int] = []

    def progress(done: int, steps: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            stopping.request()

    with pytest.raises(stopping.Stopped):
        execute(run, progress=progress)
    assert len(seen) == 3
    stopping.clear()
    assert execute(run).status == "finished"


def _stoppable(words: list[str], log: Path) -> None:
    """Train; SIGUSR2 asks for a stop, and the last step before it goes to `log`."""
    multiprocessing.set_start_method("fork", force=True)  # of loader workers

    def handle(number: int, frame: object) -> None:
        stopping.request()

    signal.signal(signal.SIGUSR2, handle)
    run = prepare(warmstart.compose(words))
    try:
        execute(run, progress=lambda done, steps: log.write_text(str(done)) and None)
    except stopping.Stopped:
        sys.exit(75)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "signals"), [(0, (5, 100)), (2, (40,))])
def test_a_signal_loses_no_step(workers: int, signals: tuple[int, ...], tmp_path: Path) -> None:
    words = [*WORDS, "steps=300", "val_every_steps=60", f"trainer.workers={workers}"]
    run = prepare(warmstart.compose([*words, f"out={tmp_path}"]))
    processes._CONTEXT.set_forkserver_preload(processes._PRELOAD)
    log = tmp_path / "steps"
    for least in signals:
        process = processes._CONTEXT.Process(
            target=_stoppable, args=([*words, f"out={tmp_path}"], log)
        )
        process.start()
        while process.is_alive() and not (log.exists() and int(log.read_text() or 0) >= least):
            time.sleep(0.002)
        os.kill(process.pid or 0, signal.SIGUSR2)
        process.join(timeout=60)
        assert process.exitcode == 75
        assert checkpoints(run)[-1] == int(log.read_text()), "the last step is saved"
    record = execute(run)
    whole = warmstart.train([*words, f"out={tmp_path / 'unbroken'}"])
    assert replace(record, versions={}) == replace(whole, versions={})
