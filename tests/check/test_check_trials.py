"""Short trainings of a check are what training does."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from warmstart import configs
from warmstart.callbacks.phases import PhaseSchedule
from warmstart.check.measure import measure
from warmstart.check.measured import Trial
from warmstart.check.training_verdicts import by_heart
from warmstart.check.trials import Stage
from warmstart.run.execution import execute
from warmstart.run.out_of_memory import OutOfMemory
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare

SMALL = ["data.per_class=5", "model.widths=[4,8]", "batch_size=8", "trainer=cpu", "keep=none"]


def prepared(out: Path, *overrides: str) -> Run:
    return prepare(configs.compose([*SMALL, *overrides, f"out={out}"]))


def constant(step: int) -> float:
    return 1.0


def attempt(
    stage: Stage, *, lr: float, steps: int = 4, progress: Callable[[int, int], None] | None = None
) -> Trial:
    phase = stage.run.phases[0]
    watched = {} if progress is None else {"progress": progress}
    return stage.train(phase, constant, lr=lr, steps=steps, **watched)


@pytest.mark.parametrize(
    "overrides",
    [
        ["augment=crop", "strategy.group_decay=0.5", "balance=loss"],
        ["optimizer=adamw", "accumulate=2", "augment=mixup"],
        [
            "strategy=partial",
            "strategy.top=1",
            "init.statistics=data",
            "trainer.channels_last=true",
        ],
    ],
)
def test_a_trial_has_the_losses_of_the_run(overrides: Sequence[str], tmp_path: Path) -> None:
    words = [*overrides, "steps=4", "log_every_steps=1", "scheduler=constant", "features.cache=off"]
    run = prepared(tmp_path, *words)
    rate = run.config["optimizer"]["lr"]
    stage = Stage(run)
    trial, again = attempt(stage, lr=rate), attempt(stage, lr=rate)
    assert trial == again  # from the initialization each time
    curves = execute(run).curves["train"]
    assert trial.losses == curves["loss"]
    assert trial.accuracies == curves["accuracy"]
    assert trial.rates == [rate] * 4


def test_updates_are_measured_against_the_weights(tmp_path: Path) -> None:
    run = prepared(tmp_path, "optimizer.momentum=0", "optimizer.weight_decay=0", "init.head=zero")
    stage = Stage(run)
    before = {group.name: _norm(group.parameters.values()) for group in stage.groups}
    held = {n: p.detach().clone() for n, p in stage.model.named_parameters()}
    trial = attempt(stage, lr=0.1, steps=1)
    now = dict(stage.model.named_parameters())
    change = _norm(now[name] - held[name] for name in stage.groups[0].parameters)
    assert trial.moved["conv1"] == pytest.approx(change / before["conv1"])
    assert trial.moved["head"] == 0.0  # of weights that are all 0 there is no ratio


def _norm(tensors) -> float:
    return float(sum(tensor.detach().square().sum() for tensor in tensors) ** 0.5)


def test_frozen_groups_have_no_updates(tmp_path: Path) -> None:
    run = prepared(tmp_path, "strategy=linear_probe", "init.statistics=data")
    assert set(attempt(Stage(run), lr=0.1).moved) == {"head"}


def test_a_number_that_is_none_ends_the_trial(tmp_path: Path) -> None:
    trial = attempt(Stage(prepared(tmp_path)), lr=1e20, steps=9)
    assert trial.broken is not None
    assert trial.broken.step == len(trial.losses) < 9
    assert trial.broken.group in ("conv1", "conv2", "head")
    assert trial.broken.rate == 1e20


def test_the_group_whose_rate_is_too_large_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PhaseSchedule.set_rates

    def spoiled(self: PhaseSchedule, optimizer: torch.optim.Optimizer, step: int) -> None:
        honest(self, optimizer, step)
        for entry in optimizer.param_groups:
            entry["lr"] *= 1e18 if entry["layer_group"] == 1 else 1.0

    monkeypatch.setattr(PhaseSchedule, "set_rates", spoiled)
    trial = attempt(Stage(prepared(tmp_path)), lr=0.05, steps=9)
    assert trial.broken is not None
    assert trial.broken.group == "conv2"


def test_dropout_can_be_left_out(tmp_path: Path) -> None:
    words = ["model=mobilenet_v2", "data.size=32", "data.per_class=5", "trainer=cpu"]
    run = prepare(configs.compose([*words, f"out={tmp_path}"]))
    rates = [
        {
            module.p
            for module in Stage(run, dropout=on).model.modules()
            if type(module) is nn.Dropout
        }
        for on in (True, False)
    ]
    assert rates == [{0.2}, {0.0}]


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    def interrupt(done: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(Stage(prepared(tmp_path)), lr=0.1, progress=interrupt)


def test_a_lack_of_memory_is_one_sentence(tmp_path: Path) -> None:
    def fill(done: int, steps: int) -> None:
        raise MemoryError("can't allocate memory")

    with pytest.raises(OutOfMemory, match="out of memory after 1 steps with 8 images a step"):
        attempt(Stage(prepared(tmp_path)), lr=0.1, progress=fill)


def test_frozen_layers_that_tell_nothing_apart_are_named(tmp_path: Path) -> None:
    run = prepared(tmp_path, "strategy=linear_probe", "init.statistics=data", "model.widths=[1]")
    found = measure(run, lambda name: lambda done, steps: None)
    finding = by_heart(found.overfit, found.retry, found.start)
    assert finding.verdict == "look"
    assert "only 1 of 2 groups train" in finding.sentence
