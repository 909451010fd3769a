"""A loss that is not finite: which step, which group, at which rate."""

import json
import re

import pytest
import torch

import warmstart
from warmstart import RunError
from warmstart.callbacks.divergence import FiniteSteps, diverged

SHORT = ["data.per_class=4", "batch_size=8", "steps=20", "log_every_steps=10", "test=false"]
SENTENCE = re.compile(
    r"the training loss is not finite at step (\d+); the largest update at step (\d+) was "
    r"(\S+) times the weights of group (\w+) \(about 0.001 is usual\) at a rate of (\S+); lower "
    r"optimizer.lr or add scheduler.warmup_steps"
)


def look(step, **ratios):
    row = {f"update_ratio/{group}": ratio for group, ratio in ratios.items()}
    return {"step": step, **row, "lr/a": 0.1, "lr/b": 0.2}


@pytest.mark.parametrize(
    ("looks", "step", "group"),
    [
        pytest.param([look(1, a=0.1, b=0.2), look(4, a=0.3, b=0.1)], 4, "a", id="the last"),
        pytest.param([look(1, a=0.1, b=0.2), look(8, a=5.0, b=9.0)], 1, "b", id="before it broke"),
        pytest.param(
            [look(1, a=2, b=0), look(2, a=0, b=0.1), look(3, a=1, b=4), look(4, a=1e9, b=5)],
            *(3, "b"),
            id="the first of those that led to it",
        ),
        pytest.param([look(1, a=7, b=0), look(2, a=1, b=8)], 1, "a", id="from the first on"),
        pytest.param([look(2, a=0.1, b=0.3), {"step": 4}], 2, "b", id="one without numbers"),
    ],
)
def test_the_look_that_is_named(looks, step, group):
    error = diverged({"train": [], "watch": looks}, finite=5, lr=0.2)
    found = SENTENCE.fullmatch(str(error))
    assert found is not None
    assert found.groups()[0] == "6"
    assert found.groups()[1] == str(step)
    assert found.groups()[3:] == (group, {"a": "0.1", "b": "0.2"}[group])


def test_without_a_look_the_rate_of_the_head_is_named():
    assert str(diverged({"train": []}, finite=0, lr=3.0)) == (
        "the training loss is not finite at step 1 with a rate of 3 at the head; lower "
        "optimizer.lr or add scheduler.warmup_steps"
    )


def test_finite_steps_are_counted_up_to_the_first_bad_one():
    steps, total = FiniteSteps(3), torch.tensor(0.0)
    for loss in (1.0, 2.0, float("inf"), 1.0, float("-inf"), 1.0):
        total += loss
        steps.add(total)
    assert steps.count == 5


def test_a_rate_far_too_large(tmp_path):
    with pytest.raises(RunError) as caught:
        warmstart.train([*SHORT, f"out={tmp_path}", "optimizer.lr=1e20"])
    step, at, ratio, _, rate = SENTENCE.fullmatch(str(caught.value)).groups()
    # Updated once, the weights are so large that the next loss is none.
    assert (step, at, rate) == ("2", "1", "1e+20")
    assert float(ratio) > 1e15
    record = json.loads(next(tmp_path.glob("runs/*/result.json")).read_text())
    assert record["status"] == "failed"
    assert record["error"] == str(caught.value)
    assert record["curves"]["watch"]["step"][:2] == [1, 2]
    assert record["curves"]["train"] == {}


def test_the_step_is_exact_between_two_rows_and_the_group_is_the_fast_one(tmp_path):
    # The rates fall by 10,000 from group to group, so that the head alone is too fast.
    rates = ["optimizer.lr=1e12", "strategy.group_decay=0.0001", "optimizer.momentum=0"]
    steps = set()
    for every in (1, 10):
        with pytest.raises(RunError) as caught:
            warmstart.train([*SHORT, f"out={tmp_path}", *rates, f"log_every_steps={every}"])
        step, _, _, group, rate = SENTENCE.fullmatch(str(caught.value)).groups()
        steps.add(step)
        assert (group, rate) == ("head", "1e+12")
    assert len(steps) == 1


def test_without_looks_a_run_says_the_step_all_the_same(tmp_path):
    with pytest.raises(RunError, match=r"not finite at step 2 with a rate of .* at the head;"):
        warmstart.train([*SHORT, f"out={tmp_path}", "optimizer.lr=1e20", "watch_every_steps=0"])
