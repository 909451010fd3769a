"""Heads of several runs that train together: the records of each as if it had run alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import warmstart
from tiny import write_configs
from warmstart import Record, RunError, stopping
from warmstart.callbacks import checkpoint
from warmstart.optim.samples import Batch
from warmstart.optim.stacked import Stack
from warmstart.results import state
from warmstart.run.execution import execute
from warmstart.run.lockstep import Lockstep
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare
from warmstart.run.together import Results, execute_together, stack_key

BASE = ["arm=short/probe", "steps=40", "batch_size=16", "val_every_steps=10", "log_every_steps=4"]
CELLS = [
    [f"seed={seed}", f"data.per_class={count}", f"optimizer.lr={lr}"]
    for seed in (0, 1)
    for count in (1, 4)
    for lr in (0.1, 0.01)
]


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    stopping.clear()
    yield
    stopping.clear()


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_configs(tmp_path_factory.mktemp("configs")))


def runs(configs: str, out: Path, cells: list[list[str]] = CELLS, *more: str) -> list[Run]:
    return [
        prepare(warmstart.compose([*BASE, *cell, *more, f"out={out}"], config_dirs=[configs]))
        for cell in cells
    ]


@pytest.fixture(scope="module")
def alone(configs: str, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return [execute(run) for run in runs(configs, tmp_path_factory.mktemp("alone"))]


def bare(record: Record) -> Record:
    return dataclasses.replace(record, versions={})


def check(results: Results, found: list[Run], expected: list[Record]) -> None:
    for run, record in zip(found, expected, strict=True):
        result = results[run.folder]
        assert isinstance(result, Record)
        assert bare(result) == bare(record)
        assert run.finished() == result
        assert not list(run.folder.glob("checkpoint-*"))


def test_the_records_are_those_of_runs_alone(
    configs: str, tmp_path: Path, alone: list[Record]
) -> None:
    found = runs(configs, tmp_path)
    assert len({stack_key(run) for run in found}) == 1
    check(execute_together(found), found, alone)
    ends = [state.read(run.folder) for run in found]
    assert {end and end.state for end in ends} == {"finished"}
    # A share of the time each, and nothing is done twice.
    seconds = [record.timing["train_seconds"] for record in alone]
    assert all(second > 0 for second in seconds)
    check(execute_together(found), found, alone)


def test_rates_that_fall_after_epochs_are_each_run_s_own(configs: str, tmp_path: Path) -> None:
    # Batches of 16 of the 40 images of one and the 60 of the other: 2.5 and 3.75 steps an epoch.
    words = ["scheduler=step", "scheduler.at=null", "scheduler.at_epochs=[4]", "test=false"]
    found = runs(configs, tmp_path, [["data.per_class=4"], ["data.per_class=6"]], *words)
    assert len({stack_key(run) for run in found}) == 1
    execute_together(found)
    for run, first in zip(found, (10, 15), strict=True):
        record = run.finished()
        assert record is not None
        # The rate of a row is that of its last step, one less than its number.
        points = record.curves["train"]["step"]
        rates = [0.1 if step - 1 < first else 0.01 for step in points]
        assert record.curves["train"]["lr"] == pytest.approx(rates)


@pytest.mark.parametrize(
    "words", [["optimizer=adagrad"], ["optimizer=rmsprop"], ["optimizer.decoupled=true"]]
)
def test_an_optimizer_that_is_not_batched_trains_by_itself(
    configs: str, tmp_path: Path, words: list[str]
) -> None:
    cells = [["optimizer.lr=0.1", *words], ["optimizer.lr=0.01", *words]]
    assert {stack_key(run) for run in runs(configs, tmp_path, cells)} == {""}


def test_they_train_without_lightning(
    configs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = runs(configs, tmp_path)
    assert found[0].source is not None
    execute(found[0].source)
    monkeypatch.setattr("warmstart.run.fit._train", lambda *args: pytest.fail("Lightning trains"))
    run, taken = Stack.run, []

    def count(stack: Stack, batches: Sequence[Sequence[Batch]], **options: Any) -> None:
        taken.extend([len(stack)] * len(batches))
        run(stack, batches, **options)

    monkeypatch.setattr(Stack, "run", count)
    execute_together(found)
    # One batch of 16 for the runs with 4 images of a class, and of 10 for those with one.
    assert taken == [4] * 80


def test_one_that_diverges_stops_no_other(
    configs: str, tmp_path: Path, alone: list[Record]
) -> None:
    wild = [*CELLS[0][:2], "optimizer.lr=1e30"]
    found = runs(configs, tmp_path, [wild, *CELLS])
    results = execute_together(found)
    failure = results[found[0].folder]
    assert isinstance(failure, RunError)
    assert str(failure).startswith("the training loss is nan at step 4 with a rate of ")
    check(results, found[1:], alone)
    end = state.read(found[0].folder)
    assert end is not None
    assert (end.state, end.reason) == ("failed", str(failure))
    with pytest.raises(RunError) as by_itself:
        execute(runs(configs, tmp_path / "alone", [wild])[0])
    assert str(by_itself.value) == str(failure)


@pytest.mark.parametrize("step", [7, 10, 40])
def test_stopped_together_they_go_on_in_other_company(
    step: int, configs: str, tmp_path: Path, alone: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, tell = runs(configs, tmp_path), Lockstep._tell

    def ask(lockstep: Lockstep, done: int) -> None:
        if done >= step:
            stopping.request()
        tell(lockstep, done)

    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "_tell", ask)
        with pytest.raises(stopping.Stopped):
            execute_together(found)
    saved = [checkpoint.load_newest(run.folder) for run in found]
    # Those with other batches had not begun.
    done = {7: 8, 10: 10, 40: 40}[step]  # between rows of the curves they go in larger steps
    assert sorted(one["step"] for one in saved if one is not None) == [done] * 4
    assert {end.state for run in found if (end := state.read(run.folder))} == {"stopped"}
    stopping.clear()
    first = execute_together(found[:3])
    second = {found[3].folder: execute(found[3])}
    check({**first, **second, **execute_together(found[4:])}, found, alone)


def test_streams_of_odd_lengths_waste_no_places(
    configs: str, tmp_path: Path, alone: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rates for one seed, and one for another: not two streams of three places each."""
    cells = [[*CELLS[2][:2], f"optimizer.lr={lr}"] for lr in (0.3, 0.03, 0.1)]
    taken, run = [], Lockstep.run

    def count(lockstep: Lockstep) -> None:
        taken.append(len(lockstep._courses))
        run(lockstep)

    found = runs(configs, tmp_path, [CELLS[6], *cells])
    monkeypatch.setattr(Lockstep, "run", count)
    results = execute_together(found)
    assert taken == [3, 1]
    check(
        {run.folder: results[run.folder] for run in (found[0], found[3])},
        [found[0], found[3]],
        [alone[6], alone[2]],
    )


def test_without_memory_for_all_they_train_in_halves(
    configs: str, tmp_path: Path, alone: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Lockstep.run

    def short(lockstep: Lockstep) -> None:
        if len(lockstep._courses) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        run(lockstep)

    monkeypatch.setattr(Lockstep, "run", short)
    found = runs(configs, tmp_path)
    check(execute_together(found), found, alone)


def test_what_cannot_train_together_has_no_key(configs: str, tmp_path: Path) -> None:
    def key(*words: str) -> str:
        return stack_key(runs(configs, tmp_path, [["data.per_class=4"]], *words)[0])

    assert key("optimizer.lr=0.5", "seed=3") == key("data.per_class=3", "steps=50") != ""
    assert key("optimizer=adamw") != key()
    for words in (["strategy=full"], ["features.cache=off"], ["augment=crop"], ["steps=0"]):
        assert key(*words) == ""


def test_without_weights_the_frozen_layers_are_those_of_the_seed(tmp_path: Path) -> None:
    words = ["strategy=linear_probe", "init.statistics=data", "data.per_class=4", f"out={tmp_path}"]
    keys = {stack_key(prepare(warmstart.compose([*words, f"seed={seed}"]))) for seed in (0, 1)}
    assert len(keys) == 2
    assert "" not in keys
