"""Runs with regularization: their keys, what they refuse, and that they go on as if unbroken."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import warmstart
from tiny import write_configs
from warmstart import ConfigError, Record, configs, stopping
from warmstart.callbacks import checkpoint
from warmstart.optim.penalties import GradientRegularizer
from warmstart.run.caching import Decision, decide
from warmstart.run.execution import execute
from warmstart.run.identity import NEUTRAL, identity
from warmstart.run.initial import initial_model
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare
from warmstart.run.regularizing import regularization_of
from warmstart.run.together import stack_key

SHORT = ["steps=12", "val_every_steps=4", "log_every_steps=1", "data.per_class=4", "batch_size=16"]
PRETRAINED = ["init=pretrained", "init.weights=source:tiny"]
# No layer normalizes by the batch, so that parts of it give what the whole gives.
NO_BATCH_STATISTICS = ["init.statistics=data", "strategy.batchnorm=eval"]
# Everything that small_cnn can have at once.
ALL = [
    *("regularization.l1=1e-4", "regularization.l2=1e-3", "regularization.l2_sp=0.05"),
    *("regularization.l2_sp_head=0.02", "regularization.label_smoothing=0.1"),
    *("regularization.dropout=0.2", "regularization.drop_connect=0.3"),
    *("regularization.fractional_max_pool=true", "regularization.clip_norm=1.0"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_configs(tmp_path_factory.mktemp("configs")))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    stopping.clear()
    yield
    stopping.clear()


def run_of(out: Path, tiny: str, *words: str) -> Run:
    return prepare(warmstart.compose([*SHORT, *words, f"out={out}"], config_dirs=[tiny]))


def losses(out: Path, tiny: str, *words: str) -> list[float]:
    return list(execute(run_of(out, tiny, "test=false", *words)).curves["train"]["loss"])


def bare(record: Record) -> Record:
    return dataclasses.replace(record, versions={})


def test_no_regularization_is_no_part_of_a_key(out: Path, tiny: str) -> None:
    content = yaml.safe_load((configs.folder() / "regularization" / "none.yaml").read_text())
    assert NEUTRAL["regularization"] == content
    plain = run_of(out, tiny)
    assert "regularization" not in identity(plain.config)
    keys = [run_of(out, tiny, f"regularization.{word}").key for word in ("l2=0.1", "dropout=0.0")]
    assert len({plain.key, *keys}) == 3
    assert regularization_of(identity(plain.config)).given == {}
    given = identity(run_of(out, tiny, "regularization.dropout={head: 0.5}").config)
    assert given["regularization"] == {"dropout": {"head": 0.5}}, "the others are as ever"
    assert regularization_of(given).given == {"dropout": {"head": 0.5}}


def test_l2_is_the_weight_decay_of_sgd(out: Path, tiny: str) -> None:
    words = ["optimizer.weight_decay=0", "optimizer.lr=0.01"]
    decay = losses(out, tiny, "optimizer.weight_decay=0.1", words[1])
    penalty = losses(out, tiny, *words, "regularization.l2=0.1")
    neither = losses(out, tiny, *words)
    assert penalty == pytest.approx(decay, rel=1e-4)
    assert penalty[-1] != pytest.approx(neither[-1], rel=1e-3)


def test_micro_batches_add_up_before_penalties_and_clipping(out: Path, tiny: str) -> None:
    words = [*NO_BATCH_STATISTICS, "regularization.l2=0.1", "regularization.clip_norm=0.3"]
    whole, parts = (losses(out, tiny, *words, f"accumulate={count}") for count in (1, 3))
    assert parts == pytest.approx(whole, rel=1e-4)
    assert losses(out, tiny, *words[:-1])[-1] != pytest.approx(whole[-1], rel=1e-3)


def test_penalties_come_once_a_step_and_before_clipping(
    out: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("penalize", "clip"):
        monkeypatch.setattr(GradientRegularizer, name, lambda self, name=name: calls.append(name))
    losses(out, tiny, "accumulate=2", "regularization.l1=1e-9", "seed=7")
    assert calls == ["penalize", "clip"] * 12


def test_frozen_groups_stay_bit_for_bit(out: Path, tiny: str) -> None:
    words = ["strategy=gradual", "regularization.l1=0.01", "regularization.l2_sp=0.1"]
    record = execute(run_of(out, tiny, *PRETRAINED, *words))
    assert record.freeze_proof  # a run whose frozen tensors move fails
    assert record.status == "finished"


RESUMED = [*PRETRAINED, *ALL, "accumulate=2"]


@pytest.fixture(scope="module")
def unbroken(out: Path, tiny: str) -> Record:
    return execute(run_of(out, tiny, *RESUMED))


@pytest.mark.parametrize("step", [3, 8])  # between validations, and right after one
def test_a_stopped_run_goes_on_as_if_unbroken(
    step: int, unbroken: Record, tiny: str, tmp_path: Path
) -> None:
    run = run_of(tmp_path, tiny, *RESUMED)

    def progress(done: int, steps: int) -> None:
        if (done, steps) == (step, 12):
            stopping.request()

    with pytest.raises(stopping.Stopped):
        execute(run, progress=progress)
    found = checkpoint.load_newest(run.folder)
    assert found is not None
    assert found["step"] == step
    stopping.clear()
    assert bare(execute(run)) == bare(unbroken)


def test_it_works_in_half_precision(out: Path, tiny: str) -> None:
    record = execute(run_of(out, tiny, *PRETRAINED, *ALL, "trainer.precision=bf16-mixed"))
    curve = record.curves["train"]["loss"]
    assert curve[-1] < curve[0]


@pytest.mark.slow
def test_several_processes_give_what_one_gives(out: Path, tiny: str) -> None:
    source = run_of(out, tiny, "test=false")  # which a source of several processes would not equal
    execute(source)
    words = ["init=pretrained", f"init.weights={source.weights_file}", "strategy=lp_ft"]
    words += [*NO_BATCH_STATISTICS, "regularization.l1=0.001"]
    words += ["regularization.l2=0.3", "regularization.l2_sp=0.5", "regularization.l2_sp_head=0.2"]
    words += ["regularization.clip_norm=0.5", "regularization.label_smoothing=0.1"]
    two = execute(run_of(out, tiny, *words, "trainer=ddp", "trainer.accelerator=cpu"))
    one = execute(run_of(out, tiny, *words))
    assert two.rank_divergence == [0.0, 0.0]
    assert two.curves["train"]["loss"] == pytest.approx(one.curves["train"]["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["regularization.l2_sp=0.1"], r"l2_sp is 0\.1, but the run starts without pretrained"),
        (["regularization.l2_sp_head=0.1"], r"l2_sp_head is 0\.1, but the run starts without"),
        (
            [*PRETRAINED, "regularization.l2_sp=0.1", "strategy=linear_probe"],
            r"l2_sp is 0\.1, but the strategy trains no transferred weights; let more groups train",
        ),
        (
            [*PRETRAINED, "regularization.l2_sp_head=0.1", "init.head=copy"],
            r"l2_sp_head is 0\.1, but all weights that train are transferred; give",
        ),
        (
            ["init.statistics=data", "strategy=svm", "regularization.l2=0.1"],
            r"regularization gives l2=0\.1, but strategy=svm takes no steps.*regularization=none",
        ),
        (
            ["regularization.dropout=high"],
            r"regularization\.dropout is 'high', but must be a number or a mapping or null",
        ),
        (
            ["regularization.dropout={}"],
            r"regularization\.dropout is \{\}, but must be a number in \[0, 1\), rates of heads",
        ),
        (["regularization.droput=0.1"], r"no key .*regularization.droput"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], message: str, out: Path, tiny: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_of(out, tiny, *words)


def test_a_strategy_that_trains_transferred_weights_later_may_pull_them(
    out: Path, tiny: str
) -> None:
    run = run_of(out, tiny, *PRETRAINED, "regularization.l2_sp=0.1", "strategy=lp_ft")
    assert run.regularization.given == {"l2_sp": 0.1}


def test_dropout_by_head_is_given_on_the_command_line(out: Path, tiny: str) -> None:
    run = run_of(out, tiny, "regularization.dropout={head: 0.25}")
    assert run.build_model().get_submodule("head").dropout == 0.25


def test_heads_with_regularization_train_one_by_one(tiny: str, out: Path) -> None:
    words = ["arm=short/probe", "steps=12"]
    assert stack_key(run_of(out, tiny, *words))
    assert not stack_key(run_of(out, tiny, *words, "regularization.label_smoothing=0.1"))
    l2, decay = (
        losses(out, tiny, *words, f"regularization.l2={l2}", f"optimizer.weight_decay={decay}")
        for l2, decay in ((0.2, 0), (0, 0.2))
    )
    assert l2 == pytest.approx(decay, rel=1e-4)


def decisions(run: Run) -> list[Decision]:
    initial = initial_model(run)
    return decide(run, initial.model, initial.groups)


def test_noise_in_the_head_goes_with_stored_features(out: Path, tiny: str) -> None:
    words = ["strategy=linear_probe", "init.statistics=data", "regularization.dropout=0.5"]
    cached, live = (run_of(out, tiny, *words, *off) for off in ([], ["features.cache=off"]))
    assert [one.cut is not None for one in decisions(cached)] == [True]
    one, two = (execute(run).curves["train"]["loss"] for run in (cached, live))
    assert one == pytest.approx(two, abs=1e-5)
    assert one != pytest.approx(losses(out, tiny, *words[:-1]), abs=1e-3)


def test_features_are_not_stored_behind_noise(out: Path, tiny: str) -> None:
    frozen = ["strategy=linear_probe", "init.statistics=data"]
    pooled = run_of(out, tiny, *frozen, "regularization.fractional_max_pool=true")
    (decision,) = decisions(pooled)
    assert decision.cut is not None
    assert decision.cut.module == "pool"
    deep = run_of(out, tiny, *frozen, "model=resnet20", "regularization.stochastic_depth=0.01")
    (decision,) = decisions(deep)
    assert decision.cut is not None
    assert decision.cut.module == "layer1"


def test_noise_is_counted(out: Path, tiny: str) -> None:
    one, two = (losses(out / name, tiny, *ALL[5:7], "seed=3") for name in ("one", "two"))
    assert one == two
    assert one != losses(out, tiny, "seed=3")


def test_evaluation_is_the_plain_model(out: Path, tiny: str) -> None:
    noisy = run_of(out, tiny, "regularization.dropout=0.5", "regularization.drop_connect=0.5")
    x = torch.randn(4, 1, 8, 8)
    one, two = (initial_model(run).model.eval()(x) for run in (noisy, run_of(out, tiny)))
    assert torch.equal(one, two)
