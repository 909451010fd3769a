"""Linear scaling, a gradual warm-up and accumulation work together."""

from __future__ import annotations

from pathlib import Path

import pytest

import warmstart
from warmstart.run.preparing import prepare

WORDS = ["data.per_class=8", "batch_size=64", "steps=8", "val_every_steps=4", "log_every_steps=1"]
# Chosen for 16 images, so that four times the rate belongs to 64; half of that, then all of it.
LARGE = ["optimizer.lr=0.02", "lr_batch=16", "scheduler=constant", "scheduler.warmup_steps=4"]


def test_a_large_batch_in_pieces_warms_up_to_the_scaled_rate(tmp_path: Path) -> None:
    frozen = ["init=scratch", "init.statistics=data", "strategy=linear_probe", "features.cache=off"]
    words = [*WORDS, *LARGE, *frozen, "trainer=cpu", f"out={tmp_path}"]
    whole = warmstart.train(words)
    rates = [0.02, 0.04, 0.06, 0.08, 0.08, 0.08, 0.08, 0.08]
    assert whole.curves["train"]["lr"] == pytest.approx(rates)
    pieces = warmstart.train([*words, "accumulate=4"])
    assert pieces.curves["train"]["lr"] == pytest.approx(rates), "a step is one whole batch"
    # Nothing but the order of sums differs: the frozen BatchNorm uses its statistics.
    assert pieces.curves["train"]["loss"] == pytest.approx(whole.curves["train"]["loss"], rel=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adagrad", "rmsprop", "adam", "adamw"])
def test_the_rate_of_every_optimizer_scales(optimizer: str, tmp_path: Path) -> None:
    base = prepare(warmstart.compose([f"optimizer={optimizer}", f"out={tmp_path}", "batch_size=8"]))
    large = [f"optimizer={optimizer}", f"out={tmp_path}", "batch_size=32", "lr_batch=8"]
    scaled = prepare(warmstart.compose(large)).config["optimizer"]
    assert scaled == {**base.config["optimizer"], "lr": 4 * base.config["optimizer"]["lr"]}
