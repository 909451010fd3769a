"""Averages, early stopping and snapshots in whole runs, and what a config may ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import warmstart
from warmstart import ConfigError, Record, stopping
from warmstart.callbacks import checkpoint
from warmstart.callbacks.averaging import Average
from warmstart.callbacks.early import EarlyStopping
from warmstart.callbacks.proof import FreezeProof
from warmstart.data.batches import Batch
from warmstart.run.execution import execute
from warmstart.run.identity import identity
from warmstart.run.keeping import Keeping, keeping_of
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare
from warmstart.run.together import stack_key
from warmstart.strategies.phases import Phase
from warmstart.task import Classification

# A validation every 4 steps; checkpoints are written on request alone.
WORDS = ["steps=24", "val_every_steps=4", "log_every_steps=4", "data.per_class=4", "batch_size=16"]
WORDS += ["checkpoint_seconds=1000", "optimizer.momentum=0", "trainer=cpu"]
KINDS = {
    "ema": ["average=ema", "average.decay=0.8"],
    "swa": ["average=swa", "average.start=0.5", "average.every_steps=3"],
    # It ends after 20 steps, see below.
    "early": ["early_stopping.patience=3", "early_stopping.min_delta=0.2"],
    "snapshots": ["scheduler=sgdr", "scheduler.cycles=3", "snapshots=true", "average=ema"],
    "gradual": ["strategy=gradual", "strategy.batchnorm=train", "average=ema", "accumulate=2"],
}


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    stopping.clear()
    yield
    stopping.clear()


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Run, Record]]:
    """Return a function that trains, unbroken; the same run once."""
    out = tmp_path_factory.mktemp("keeping")

    def trained(*words: str) -> tuple[Run, Record]:
        run = described(out, *words)
        return run, execute(run)

    return trained


def described(out: Path, *words: str) -> Run:
    return prepare(warmstart.compose([*WORDS, *words, f"out={out}"]))


def stop_after(step: int) -> Callable[[int, int], None]:
    def progress(done: int, steps: int) -> None:
        if done == step:
            stopping.request()

    return progress


def same(run: Run, record: Record, unbroken: tuple[Run, Record]) -> bool:
    names = ("best.safetensors", "predictions.npz")
    files = [[(r.folder / name).read_bytes() for name in names] for r in (run, unbroken[0])]
    return replace(record, versions={}) == replace(unbroken[1], versions={}) and (
        files[0] == files[1]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_again_and_again_a_run_ends_as_if_unbroken(
    kind: str, tmp_path: Path, train: Callable[..., tuple[Run, Record]]
) -> None:
    run = described(tmp_path, *KINDS[kind])
    # Between validations, right after one, and before a cycle's or a phase's first step.
    for step in (3, 8, 15, 18):
        with pytest.raises(stopping.Stopped):
            execute(run, progress=stop_after(step))
        stopping.clear()
    assert same(run, execute(run), train(*KINDS[kind]))


@pytest.mark.parametrize(("kind", "number"), [("ema", 3), ("swa", 9), ("early", 4), ("early", 10)])
def test_stopped_within_validations(
    kind: str,
    number: int,
    tmp_path: Path,
    train: Callable[..., tuple[Run, Record]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbroken = train(*KINDS[kind])
    run = described(tmp_path, *KINDS[kind])
    step, shown = Classification.validation_step, []

    def ask(task: Classification, batch: Batch, index: int) -> None:
        shown.append(index)
        if len(shown) == number:  # of two batches in each validation
            stopping.request()
        step(task, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "validation_step", ask)
        with pytest.raises(stopping.Stopped):
            execute(run)
    stopping.clear()
    assert same(run, execute(run), unbroken)


def test_the_average_is_what_is_kept(train: Callable[..., tuple[Run, Record]]) -> None:
    plain, average = train(), train(*KINDS["ema"])
    assert plain[1].curves["train"] == average[1].curves["train"], "the steps are the same"
    assert plain[1].curves["val"] != average[1].curves["val"]
    kept = [load_file(run.weights_file) for run, _ in (plain, average)]
    assert any(not np.array_equal(kept[0][name], kept[1][name]) for name in kept[0])
    best = max(average[1].curves["val"]["accuracy"])
    assert average[1].metrics["val/accuracy"] == pytest.approx(best)


def test_before_its_start_an_average_changes_no_validation(
    train: Callable[..., tuple[Run, Record]],
) -> None:
    plain, average = (train(*words)[1].curves["val"]["loss"] for words in ([], KINDS["swa"]))
    # The first weights are those after step 15: validations at 4, 8 and 12 see none.
    assert plain[:3] == average[:3]
    assert [a != b for a, b in zip(plain[3:], average[3:], strict=True)] == [True] * 3


def test_what_is_kept_is_an_average(train: Callable[..., tuple[Run, Record]]) -> None:
    """The plain weights from before its start are better here, and are not what was asked for."""
    phases = "[{start: 0, groups: all}, {start: 0.5, groups: all, lr_scale: 1000}]"
    worse = ["strategy=listed", f"strategy.phases={phases}", "scheduler=constant"]
    _, record = train(*KINDS["swa"], *worse, "optimizer.lr=0.1")
    steps, accuracies = (record.curves["val"][name] for name in ("step", "accuracy"))
    first = steps.index(16)
    assert max(accuracies[:first]) > max(accuracies[first:])
    assert record.metrics["val/accuracy"] == pytest.approx(max(accuracies[first:]))


def test_averages_leave_frozen_groups_as_they_are(
    train: Callable[..., tuple[Run, Record]],
) -> None:
    frozen = ["strategy=linear_probe", "init.statistics=data", "steps=20"]
    kept = [load_file(train(*frozen, *more)[0].weights_file) for more in ([], ["average=ema"])]
    moved = [name for name in kept[0] if not np.array_equal(kept[0][name], kept[1][name])]
    assert sorted(moved) == ["head.bias", "head.weight"]


def test_an_average_on_stored_features_is_that_without(
    train: Callable[..., tuple[Run, Record]],
) -> None:
    words = ["strategy=linear_probe", "init.statistics=data", "average=ema"]
    (_, on), (_, off) = train(*words), train(*words, "features.cache=off")
    assert [phase["cached"] for phase in on.features] == [True]
    assert on.curves["val"]["loss"] == pytest.approx(off.curves["val"]["loss"], rel=1e-5)


def test_a_run_that_ends_early(train: Callable[..., tuple[Run, Record]]) -> None:
    run, record = train(*KINDS["early"])
    values = record.curves["val"]["accuracy"]
    # The first validation after which the best one is three old, by hand from the curve.
    best, ends = 0, 0
    for index, value in enumerate(values):
        best = index if value > values[best] + 0.2 else best
        ends = 4 * (index + 1) if index - best > 3 else 0
    assert record.stopped_at == ends == 20
    assert record.curves["val"]["step"] == [4, 8, 12, 16, 20]
    assert record.curves["train"]["step"][-1] == 20
    assert [entry["last_step"] for entry in record.freeze_proof] == [19]
    assert record.metrics["val/accuracy"] == pytest.approx(max(values))
    assert record.test_opened == 1
    # Its rates are those of the whole length.
    whole = train()[1]
    assert whole.stopped_at is None
    assert record.curves["train"]["lr"] == whole.curves["train"]["lr"][:5]
    # Nothing is done again.
    assert execute(run) == record


@pytest.mark.parametrize("validated", [4, 5])
def test_stopped_while_it_ends_early(
    validated: int, tmp_path: Path, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = train(*KINDS["early"])
    run = described(tmp_path, *KINDS["early"])
    end = FreezeProof.on_train_end

    def ask(proof: FreezeProof, *args: Any) -> None:
        end(proof, *args)
        stopping.request()

    with monkeypatch.context() as patch:
        patch.setattr(FreezeProof, "on_train_end", ask)
        with pytest.raises(stopping.Stopped):
            # Within the last validation, or right after it.
            execute(run, progress=stop_after(20) if validated == 4 else None)
    stopping.clear()
    state = checkpoint.load_newest(run.folder)
    assert state is not None
    assert (state["step"], len(state["rows"]["val"])) == (20, validated)
    assert same(run, execute(run), unbroken)


def test_stopped_in_the_evaluation_after_it_ended_early(
    tmp_path: Path, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*KINDS["early"], "average=ema"]
    unbroken = train(*words)
    assert unbroken[1].stopped_at is not None
    run = described(tmp_path, *words)
    step = Classification.predict_step

    def ask(task: Classification, *args: Any) -> Any:
        stopping.request()
        return step(task, *args)

    for _ in range(2):  # the second time nothing has trained
        with monkeypatch.context() as patch:
            patch.setattr(Classification, "predict_step", ask)
            with pytest.raises(stopping.Stopped):
                execute(run)
        stopping.clear()
    assert same(run, execute(run), unbroken)


def test_every_snapshot_predicts(train: Callable[..., tuple[Run, Record]]) -> None:
    run, record = train("scheduler=sgdr", "scheduler.cycles=3", "snapshots=true")
    assert run.keeping.snapshots == (8, 16, 24)
    assert record.test_opened == 1
    with np.load(run.folder / "predictions.npz") as file:
        arrays = dict(file)
    for split, count in record.data["counts"].items():
        if split != "train":
            assert arrays[f"{split}_snapshot_logits"].shape == (3, count, 10)
            assert arrays[f"{split}_snapshot_logits"].dtype == np.float32
    # Validations at their steps saw the same weights.
    right = arrays["val_snapshot_logits"].argmax(axis=2) == arrays["val_labels"]
    assert record.curves["val"]["step"][1::2] == [8, 16, 24]
    assert right.mean(axis=1) == pytest.approx(record.curves["val"]["accuracy"][1::2])
    # The best one of all validations is kept, and predicts as itself.
    best = np.argmax(record.curves["val"]["accuracy"])
    if best % 2:
        found = arrays["val_snapshot_logits"][best // 2]
        np.testing.assert_array_equal(found, arrays["val_logits"])


def test_what_asks_for_nothing_has_the_key_of_before(tmp_path: Path) -> None:
    run = described(tmp_path)
    names = {"average", "early_stopping", "snapshots"}
    assert not names & set(identity(run.config))
    assert run.keeping == Keeping()
    keys = {described(tmp_path, *words).key for words in KINDS.values()}
    assert len(keys | {run.key}) == len(KINDS) + 1


def test_heads_of_such_runs_train_alone(tmp_path: Path) -> None:
    frozen = ["strategy=linear_probe", "init.statistics=data"]
    assert stack_key(described(tmp_path, *frozen))
    for words in (["average=ema"], ["early_stopping.patience=1"], KINDS["snapshots"]):
        assert stack_key(described(tmp_path, *frozen, *words)) == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["early_stopping=5"], "early_stopping is 5, but must have the keys metric, min_delta "),
        (
            ["early_stopping.patience=-1"],
            "early_stopping.patience is -1, but must be a whole number of at least 0, or null",
        ),
        (
            ["early_stopping.metric=f1", "early_stopping.patience=1"],
            "early_stopping.metric is 'f1', but must be one of accuracy, loss",
        ),
        (
            ["early_stopping.min_delta=-0.1", "early_stopping.patience=1"],
            "early_stopping.min_delta is -0.1, but must be a number of at least 0",
        ),
        (
            ["early_stopping.metric=loss"],
            "early_stopping.metric is 'loss', but early_stopping.patience is null, which never "
            "stops early; give a patience, such as early_stopping.patience=5",
        ),
        (
            # Six validations: the first is the best, and the sixth, four older, comes too late.
            ["early_stopping.patience=4"],
            "early_stopping.patience is 4, but the run has 6 validations and cannot stop before "
            "validation 6; give a lower patience, a lower val_every_steps, or a longer run",
        ),
        (
            # Those at 16, 20 and 24; that at 12 belongs to the first phase.
            ["early_stopping.patience=1", "strategy=lp_ft", "init.statistics=data"],
            "early_stopping.patience is 1, but the run has 3 validations that count "
            "(after step 12) and cannot stop before validation 3",
        ),
        (["snapshots=1"], "snapshots is 1, but must be true or false"),
        (
            ["snapshots=true"],
            "snapshots=true, but scheduler=cosine has no cycles at whose ends to take them; give "
            "scheduler=sgdr, or snapshots=false",
        ),
        (
            ["snapshots=true", "scheduler=sgdr", "scheduler.cycles=1"],
            "snapshots=true, but scheduler.cycles is 1, and one snapshot is no ensemble; give at "
            "least 2",
        ),
        (
            ["snapshots=true", "scheduler=sgdr", "early_stopping.patience=1"],
            "snapshots=true, but early_stopping.patience is set, and each new cycle starts with "
            "worse validations; give early_stopping.patience=null",
        ),
        (["average=ema", "steps=0"], "average=ema, but the run takes no steps; give average=none"),
        (
            ["average=swa", "strategy=svm", "init.statistics=data"],
            "average=swa, but the run takes no steps; give average=none",
        ),
        (
            ["early_stopping.patience=2", "strategy=knn", "init.statistics=data"],
            "early_stopping.patience=2, but the run takes no steps; give "
            "early_stopping.patience=null",
        ),
        (
            ["snapshots=true", "strategy=ridge", "init.statistics=data"],
            "snapshots=true, but the run takes no steps; give snapshots=false",
        ),
    ],
)
def test_what_cannot_be(words: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        described(tmp_path, *words)


CONFIG = {
    "steps": 40,
    "batch_size": 10,
    "val_every_steps": 10,
    "choices": {"average": "none", "scheduler": "sgdr"},
    "average": {"_target_": "warmstart.callbacks.averaging.none"},
    "early_stopping": {"patience": None, "metric": "accuracy", "min_delta": 0.0},
    "snapshots": False,
    "strategy": {},
    "scheduler": {
        "_target_": "warmstart.optim.schedules.sgdr",
        "warmup_steps": 0,
        "cycles": 2,
        "growth": 2.0,
    },
}
TWO = [Phase(0, 1), Phase(20, 3)]


def test_a_pass_of_the_images_rounds_up() -> None:
    node = {"_target_": "warmstart.callbacks.averaging.swa", "start": 0.5, "every_steps": None}
    # 25 images in batches of 10 are three steps.
    found = keeping_of({**CONFIG, "average": node}, TWO, images=25)
    assert found == Keeping(average=Average(None, 23, 3))


def test_early_stopping_counts_from_the_last_phase() -> None:
    node = {"patience": 0, "metric": "loss", "min_delta": 0.1}
    found = keeping_of({**CONFIG, "early_stopping": node, "val_every_steps": 5}, TWO, images=25)
    assert found == Keeping(early=EarlyStopping(0, "loss", 0.1, start=20))


def test_early_stopping_counts_from_the_average() -> None:
    node = {"_target_": "warmstart.callbacks.averaging.swa", "start": 0.5, "every_steps": 1}
    config = {**CONFIG, "average": node, "val_every_steps": 1}
    config["early_stopping"] = {"patience": 0, "metric": "loss", "min_delta": 0.1}
    found = keeping_of(config, [Phase(0, 3)], images=25)
    # The first weights are taken after 21 of 40 steps.
    assert found == Keeping(Average(None, 21, 1), EarlyStopping(0, "loss", 0.1, start=20))
    config["average"] = {"_target_": "warmstart.callbacks.averaging.ema"}
    assert keeping_of(config, [Phase(0, 3)], images=25).early.start == 0


def test_snapshots_are_taken_where_cycles_end() -> None:
    # A third of 42 steps, and two thirds.
    config = {**CONFIG, "snapshots": True, "steps": 42}
    assert keeping_of(config, TWO, images=25).snapshots == (14, 42)
    # Where the second phase lets the schedule begin anew: 7 and 14 of 21, twice.
    anew = Phase(21, 3, restart_schedule=True)
    assert keeping_of(config, [TWO[0], anew], images=25).snapshots == (7, 21, 28, 42)


def test_the_rate_is_lowest_where_a_snapshot_is_taken(train: Any) -> None:
    run, _ = train("scheduler=sgdr", "scheduler.cycles=3", "snapshots=true")
    factors = [run.schedule(step) for step in range(24)]
    assert all(factors[done - 1] < 0.1 for done in run.keeping.snapshots)
    assert [factors[done] for done in (0, *run.keeping.snapshots[:-1])] == [1, 1, 1]
    # (1 + cos(pi / 2)) / 2 in the middle of each.
    assert [factors[step] for step in (4, 12, 20)] == pytest.approx([0.5, 0.5, 0.5])
