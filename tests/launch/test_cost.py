"""How long runs will take: counted by hand, and from records of finished runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from warmstart import configs
from warmstart.errors import ConfigError
from warmstart.launch.cost import (
    ALIKE,
    OPERATIONS,
    SAME_MODEL,
    UNKNOWN,
    History,
    describe_plan,
    predict,
)
from warmstart.launch.jobs import Job, Resources
from warmstart.operations import (
    cached_phases,
    frozen_operations,
    image_operations,
    run_operations,
    training_operations,
)
from warmstart.results.record import Record
from warmstart.run.cut_models import model_node
from warmstart.run.identity import identity
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare

TINY = ["trainer=cpu", "model.widths=[2, 3]", "batch_size=4", "steps=100", "val_every_steps=50"]
# Two 3x3 convolutions on 8x8 pixels (1 to 2, 2 to 3 channels), and 12 numbers to 10 classes; an
# addition for each multiplication.
CONV1, CONV2, HEAD = 2 * 64 * 9 * 1 * 2, 2 * 64 * 9 * 2 * 3, 2 * 12 * 10
FORWARD = CONV1 + CONV2 + HEAD
# The head's weights alone; and everything, of which the input needs no gradient.
PROBE = FORWARD + HEAD
SMALL = {"_target_": "warmstart.models.small.small_cnn", "widths": [2, 3]}
FULL = FORWARD + CONV1 + 2 * CONV2 + 2 * HEAD


def planned(out: Path, *overrides: str) -> Run:
    return prepare(configs.compose([f"out={out}", *TINY, *overrides]))


def finish(run: Run, *, train: float, rest: float = 0.0, **content: Any) -> None:
    """Write the record that `run` would leave, had it taken so many seconds."""
    record = {
        "key": run.key,
        "status": "finished",
        "seed": 0,
        "config": identity(run.config),
        "choices": {},
        "input": {"size": run.input.size, "channels": run.input.channels},
        "timing": {"train_seconds": train, "total_seconds": train + rest},
    }
    Record(**(record | content)).write(run.folder)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [(None, FORWARD), (1, PROBE), (2, FORWARD + 2 * HEAD + CONV2), (3, FULL)],
)
def test_operations_of_an_image(trained: int | None, expected: int) -> None:
    node = model_node({"model": SMALL, "features": {"pool": None}})
    assert image_operations(node, 1, 10, 8, trained) == expected


def test_operations_of_a_run(tmp_path: Path) -> None:
    phases = "strategy.phases=[{groups: 1, batchnorm: train}, {start: 0.25, groups: all}]"
    run = planned(tmp_path, "strategy=listed", phases)
    training, evaluation = run_operations(run)
    assert training == 4 * (25 * PROBE + 75 * FULL)
    val, test = len(run.images.val), len(run.images.test)
    assert evaluation == FORWARD * (2 * val + val + test)
    full = {"_target_": "warmstart.strategies.phases.full"}
    assert training_operations(run, full, 10) == 40 * FULL


@pytest.mark.parametrize(("trained", "expected"), [(1, CONV1 + CONV2), (2, CONV1), (3, 0)])
def test_operations_before_what_trains(trained: int, expected: int) -> None:
    node = model_node({"model": SMALL, "features": {"pool": None}})
    assert frozen_operations(node, 1, 10, 8, trained) == expected


def test_operations_of_a_run_whose_frozen_layers_run_once(tmp_path: Path) -> None:
    phases = "strategy.phases=[{groups: 1}, {start: 0.25, groups: 2}, {start: 0.5, groups: all}]"
    run = planned(tmp_path, "strategy=listed", "strategy.batchnorm=train", phases)
    below_head, below_second = CONV1 + CONV2, CONV1
    second = FORWARD + 2 * HEAD + CONV2
    train, val, test = (len(run.images.splits[name]) for name in ("train", "val", "test"))
    training, evaluation = run_operations(run, [True, True, False])
    steps = 25 * (PROBE - below_head) + 25 * (second - below_second) + 50 * FULL
    assert training == 4 * steps + train * (below_head + below_second)
    # Validations after steps 50 (of the second phase) and 100; val and test at the end.
    passes = val * (FORWARD - below_second) + val * FORWARD + (val + test) * FORWARD
    assert evaluation == passes + val * (below_head + below_second)


def test_operations_of_a_cached_probe(tmp_path: Path) -> None:
    run = planned(tmp_path, "strategy=linear_probe", "strategy.batchnorm=train")
    train, val, test = (len(run.images.splits[name]) for name in ("train", "val", "test"))
    below = CONV1 + CONV2
    training, evaluation = run_operations(run, [True])
    assert training == 400 * 2 * HEAD + train * below
    # Two validations and the last one on kept features; test passes the frozen layers once too.
    assert evaluation == (3 * val + test) * HEAD + (val + test) * below


def test_operations_of_a_probe_without_steps(tmp_path: Path) -> None:
    run = planned(tmp_path, "init=random_features", "strategy=nearest_mean")
    train, val, test = (len(run.images.splits[name]) for name in ("train", "val", "test"))
    assert cached_phases(run) == [True]
    # Every image passes the whole net once, those of train all but the head.
    expected = (train * (CONV1 + CONV2), (val + test) * FORWARD)
    assert run_operations(run, [True]) == expected


def test_without_history_operations_are_counted(tmp_path: Path) -> None:
    seconds, basis = predict(planned(tmp_path), History())
    assert basis == OPERATIONS
    # The net is nothing: 100 steps of 3 ms, and the start.
    assert seconds == pytest.approx(0.6, abs=0.01)
    # 2000 steps of a net that is something take longer than the same steps of the tiny one.
    larger, _ = predict(planned(tmp_path, "model.widths=[32, 64]", "batch_size=64"), History())
    assert larger > seconds


def test_runs_alike_tell_by_their_steps(tmp_path: Path) -> None:
    for seed, train in enumerate((2.0, 3.0, 40.0)):
        finish(planned(tmp_path, f"seed={seed}"), train=train, rest=0.5)
    history = History.read(tmp_path)
    assert predict(planned(tmp_path, "seed=9"), history) == (3.5, ALIKE)
    assert predict(planned(tmp_path, "seed=9", "steps=200"), history) == (6.5, ALIKE)
    assert predict(planned(tmp_path, "data.per_class=1"), history) == (3.5, ALIKE)


def test_a_run_that_ended_early_took_fewer_steps(tmp_path: Path) -> None:
    finish(planned(tmp_path, "steps=100", "seed=1"), train=20.0, rest=1.0, stopped_at=40)
    # Half a second each.
    assert predict(planned(tmp_path, "steps=100"), History.read(tmp_path)) == (51.0, ALIKE)


def test_runs_of_the_same_length_tell_before_others(tmp_path: Path) -> None:
    finish(planned(tmp_path, "steps=1000"), train=90.0)
    finish(planned(tmp_path, "seed=1"), train=10.0)
    assert predict(planned(tmp_path), History.read(tmp_path)) == (10.0, ALIKE)


def test_another_strategy_is_scaled_by_operations(tmp_path: Path) -> None:
    finish(planned(tmp_path), train=10.0, rest=0.5)
    probe = planned(tmp_path, "strategy=linear_probe", "strategy.batchnorm=train")
    seconds, basis = predict(probe, History.read(tmp_path))
    assert basis == SAME_MODEL
    assert seconds == pytest.approx(10.0 * PROBE / FULL + 0.5)


def test_frozen_layers_that_run_once_take_less(tmp_path: Path) -> None:
    finish(planned(tmp_path), train=10.0, rest=0.5)
    words = ["init=random_features", "strategy=linear_probe", "data.per_class=3"]
    probe = planned(tmp_path, *words)
    seconds, basis = predict(probe, History.read(tmp_path))
    assert basis == SAME_MODEL
    # 400 images pass the head, 30 the layers below it; and 100 steps of 3 ms.
    below = CONV1 + CONV2
    counted = 400 * 2 * HEAD + 30 * below
    assert seconds == pytest.approx(10.0 * counted / (400 * FULL) + 0.5 + 0.3)
    live, _ = predict(planned(tmp_path, *words, "features.cache=off"), History.read(tmp_path))
    assert live == pytest.approx(10.0 * PROBE / FULL + 0.5)


def test_steps_on_stored_features_tell_nothing_of_a_model(tmp_path: Path) -> None:
    words = ["init=random_features", "strategy=linear_probe", "data.per_class=3"]
    cached = {"phase": 0, "cached": True, "reason": None, "at": "head", "shape": [12]}
    finish(planned(tmp_path, *words), train=0.1, features=[cached | {"views": None}])
    history = History.read(tmp_path)
    assert predict(planned(tmp_path), history)[1] == OPERATIONS
    assert predict(planned(tmp_path, *words, "seed=1"), history) == (pytest.approx(0.1), ALIKE)


@pytest.mark.parametrize(
    "override", ["batch_size=8", "model.widths=[2, 4]", "data.size=16", "trainer.threads=2"]
)
def test_runs_of_another_kind_tell_nothing(tmp_path: Path, override: str) -> None:
    finish(planned(tmp_path), train=10.0)
    assert predict(planned(tmp_path, override), History.read(tmp_path))[1] == OPERATIONS


def test_failed_damaged_and_old_records_tell_nothing(tmp_path: Path) -> None:
    finish(planned(tmp_path, "seed=1"), train=10.0, status="failed")
    finish(planned(tmp_path, "seed=2"), train=10.0, input={})
    damaged = planned(tmp_path, "seed=3")
    damaged.folder.mkdir(parents=True)
    (damaged.folder / "result.json").write_text("{")
    (tmp_path / "runs" / "notes.txt").touch()
    assert predict(planned(tmp_path), History.read(tmp_path))[1] == OPERATIONS


def test_only_the_newest_records_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmstart.launch.cost._MOST", 2)
    for seed, train in enumerate((50.0, 3.0, 3.0)):
        run = planned(tmp_path, f"seed={seed}")
        finish(run, train=train)
        os.utime(run.folder, (1000 + seed, 1000 + seed))
    assert predict(planned(tmp_path), History.read(tmp_path)) == (3.0, ALIKE)


def test_a_model_that_cannot_be_counted_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(tmp_path)

    def fail(run: Run) -> None:
        raise TypeError("the model's own")

    monkeypatch.setattr("warmstart.operations.run_operations", fail)
    assert predict(run, History()) == (0.0, UNKNOWN)


def job(key: str, hours: float, *, gpus: float = 1, source: int = 0, needs: str = "") -> Job:
    label = f"shared: {key}" if source else key
    return Job(
        *(key, label, Path(key), {}, Resources(gpus)),
        source=source,
        needs=tuple(needs),
        seconds=3600 * hours,
    )


class TestDescription:
    """What --dry-run prints."""

    def test_of_runs_on_gpus(self) -> None:
        jobs = [job("s", 0.5, source=1), job("a", 2, needs="s"), job("b", 1, gpus=0.5), job("c", 1)]
        basis = {"s": OPERATIONS, "a": ALIKE, "b": ALIKE, "c": ALIKE}
        # s, then a behind it (2.5 h) on one GPU; b and c beside them on the other.
        assert describe_plan(jobs, basis, finished=3, devices=2).splitlines() == [
            "6 runs: 3 finished, 3 to do",
            "1 shared stage, each once: s",
            "predicted: 4 GPU-hours, 0.5 of them for shared stages",
            "on 2 GPUs: about 2.5 h; the longest run takes 2.0 h (a)",
            "3 predictions from finished runs like them",
            "1 prediction from their operations alone (rough: a factor of five either way)",
        ]

    def test_of_runs_on_cores(self) -> None:
        lines = describe_plan([job("a", 0.5, gpus=0)], {}, finished=0, devices=1).splitlines()
        assert lines[1:3] == [
            "predicted: 0.5 core-hours",
            "on 1 core: about 30 min; the longest run takes 30 min (a)",
        ]
        assert lines[3] == f"1 prediction from {UNKNOWN}"

    def test_of_nothing(self) -> None:
        text = describe_plan([], {}, finished=24, devices=8)
        assert text == "24 runs: 24 finished, 0 to do\nnothing is left to do"

    def test_of_runs_that_never_fit(self) -> None:
        with pytest.raises(ConfigError, match="the run a takes 4 devices, but there are 2"):
            describe_plan([job("a", 1, gpus=4)], {}, finished=0, devices=2)


def test_a_resumed_run_is_no_shorter_than_its_training(tmp_path):
    # Its whole time is that of the last attempt, here 1 s of 20.
    run = planned(tmp_path)
    finish(run, train=20.0, rest=-19.0)
    seconds, basis = predict(planned(tmp_path, "seed=1"), History.read(tmp_path))
    assert (seconds, basis) == (pytest.approx(20.0), ALIKE)
