"""The looks at the layer groups, against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from three_groups import LAYOUT, fit, net
from torch import nn

import warmstart
from warmstart.callbacks.phases import PhaseSchedule
from warmstart.callbacks.proof import FreezeProof
from warmstart.callbacks.recorder import Recorder
from warmstart.callbacks.relus import ReLUs
from warmstart.callbacks.watch import Watch, copies, is_look, look_interval
from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import sgd
from warmstart.optim.schedules import constant
from warmstart.strategies.phases import Phase

SHORT = ["data.per_class=4", "batch_size=8", "steps=12", "val_every_steps=6", "test=false"]


@given(steps=st.integers(1, 5000), every=st.none() | st.integers(1, 300))
def test_looks_are_dense_at_the_start_and_then_even(steps, every):
    interval = look_interval(steps, every)
    looks = [done for done in range(1, steps + 1) if is_look(done, interval)]
    assert looks[0] == 1
    late = [done for done in looks if done >= interval]
    assert late == list(range(interval, steps + 1, interval))
    assert [done for done in looks if done < interval] == [
        2**n for n in range(13) if 2**n < min(interval, steps + 1)
    ]
    if every is None:
        assert len(late) <= 20


def test_no_looks_where_there_is_nothing_to_see():
    assert look_interval(0, None) == look_interval(0, 5) == look_interval(400, 0) == 0
    assert not is_look(1, 0)


@pytest.fixture
def watched(make_split, tmp_path):
    """Two steps of gradient descent, the first with a frozen stem; rows and tensors of each."""

    def run():
        model = net()
        groups = layer_groups(model, LAYOUT)
        seen = [{name: p.detach().clone() for name, p in model.named_parameters()}]
        phases = [Phase(0, 2), Phase(1, 3, lr_scale=0.5)]
        proof = FreezeProof(phases, groups, steps=2)
        recorder = Recorder(tmp_path, steps=2, log_every=1, checkpoint_seconds=99, proof=proof)
        initial = copies(groups)

        class Take(Watch):
            def on_before_optimizer_step(self, *given):
                super().on_before_optimizer_step(*given)
                seen.append(
                    {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
                )

            def on_train_batch_end(self, *given):
                super().on_train_batch_end(*given)
                seen.append({n: p.detach().clone() for n, p in model.named_parameters()})

        schedule = PhaseSchedule(phases, constant(steps=2), groups, lr=0.1)
        watch = Take(groups, initial, recorder, interval=1)
        fit(
            model,
            [schedule, watch, recorder],
            make_split,
            optimizer=lambda: sgd(groups, lr=0.1, momentum=0.0),
            steps=2,
        )
        return recorder.rows["watch"], seen

    return run()


def norm(tensors, group):
    own = [t.double().flatten() for name, t in tensors.items() if name.startswith(group)]
    return torch.cat(own).norm().item()


def less(one, two):
    return {name: one[name] - two[name] for name in one}


def test_a_row_by_hand(watched):
    rows, (start, _, after_one, gradient, after_two) = watched
    row = rows[1]
    assert row["step"] == 2
    for group in LAYOUT:
        # Plain gradient descent at half of 0.1 moves by that times the gradient.
        ratio = 0.05 * norm(gradient, group) / norm(after_one, group)
        assert row[f"update_ratio/{group}"] == pytest.approx(ratio, rel=1e-3)
        moved = norm(less(after_two, after_one), group) / norm(after_one, group)
        assert row[f"update_ratio/{group}"] == pytest.approx(moved, rel=1e-3)
        assert row[f"gradient_norm/{group}"] == pytest.approx(norm(gradient, group), rel=1e-3)
        away = norm(less(after_two, start), group) / norm(start, group)
        assert row[f"distance/{group}"] == pytest.approx(away, rel=1e-3)
        assert row[f"lr/{group}"] == 0.05


def test_a_frozen_group_has_no_numbers(watched):
    (first, second), _ = watched
    assert {name.partition("/")[2] for name in first if "/" in name} == {"body", "head"}
    assert {name.partition("/")[2] for name in second if "/" in name} == set(LAYOUT)
    assert all(math.isfinite(value) for row in (first, second) for value in row.values())


class Dead(nn.Module):
    """A ReLU of each kind; of the units of each, as many are dead as its biases are negative."""

    def __init__(self, kind):
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 4, 1), nn.Linear(4, 4)
        self.kind, self.module = kind, nn.ReLU6() if kind == "relu6" else nn.ReLU()
        for layer, dead in ((self.first, 1), (self.head, 3)):
            nn.init.zeros_(layer.weight)
            with torch.no_grad():
                layer.bias.copy_(torch.tensor([-1.0] * dead + [1.0] * (4 - dead)))

    def activate(self, x):
        if self.kind in ("module", "relu6"):
            return self.module(x)
        if self.kind == "in place":
            return F.relu(x, inplace=True)
        return {"function": F.relu, "torch": torch.relu, "method": torch.Tensor.relu}[self.kind](x)

    def forward(self, x):
        x = self.activate(self.first(x)).mean(dim=(2, 3))
        return self.activate(self.head(x))


@pytest.mark.parametrize("kind", ["module", "relu6", "function", "in place", "torch", "method"])
def test_dead_relus_of_every_kind_are_found_and_belong_to_the_layer_before(kind):
    model = Dead(kind)
    looks = ReLUs(layer_groups(model, {"first": ["first"], "head": ["head"]}))
    x = torch.rand(5, 1, 3, 3)
    assert torch.equal(looks.run(model, x), model(x))
    assert {group: float(share) for group, share in looks.dead().items()} == {0: 0.25, 1: 0.75}
    looks.clear()
    assert looks.dead() == {}


def test_a_unit_that_lives_in_one_micro_batch_is_alive():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    nn.init.constant_(model[0].weight, 1.0)
    looks = ReLUs(layer_groups(model, {"all": ["0"]}))
    looks.run(model, torch.tensor([[-1.0], [-2.0]]))
    assert float(looks.dead()[0]) == 1.0
    looks.run(model, torch.tensor([[3.0]]))
    assert float(looks.dead()[0]) == 0.0


def test_an_error_in_the_net_leaves_nothing_behind():
    looks = ReLUs(layer_groups(nn.Linear(1, 1), {"all": ["weight", "bias"]}))
    with pytest.raises(RuntimeError, match="shape"):
        looks.run(nn.Linear(2, 1), torch.ones(1, 3))
    assert not nn.modules.module._global_forward_pre_hooks
    assert torch.overrides._get_current_function_mode() is None


def test_looks_change_nothing_but_the_rows_of_looks(tmp_path):
    with_looks, without = (
        warmstart.train([*SHORT, f"out={tmp_path}", f"watch_every_steps={every}"])
        for every in ("3", "0")
    )
    assert with_looks.key != without.key
    assert with_looks.digests == without.digests
    assert with_looks.metrics == without.metrics
    assert with_looks.curves["watch"]["step"] == [1, 2, 3, 6, 9, 12]
    assert {k: v for k, v in with_looks.curves.items() if k != "watch"} == without.curves
    lines = (tmp_path / "runs" / with_looks.key / "metrics.csv").read_text().splitlines()
    assert "watch/update_ratio/conv1" in lines[0]


def test_groups_that_unfreeze_have_no_number_before(tmp_path):
    gradual = ["strategy=gradual", "strategy.batchnorm=train", "watch_every_steps=1"]
    record = warmstart.train([*SHORT, f"out={tmp_path}", *gradual])
    ratios = record.curves["watch"]["update_ratio/conv1"]
    assert ratios[:6] == [None] * 6
    assert None not in ratios[6:]
    assert None not in record.curves["watch"]["update_ratio/head"]


@pytest.mark.parametrize("extra", [["accumulate=2"], ["model=resnet20", "steps=2"]])
def test_relus_of_micro_batches_and_of_functions_are_seen(extra, tmp_path):
    record = warmstart.train([*SHORT, f"out={tmp_path}", *extra])
    shares = [v for k, v in record.curves["watch"].items() if k.startswith("dead_relus/")]
    assert len(shares) == 4  # all groups but the head
    assert all(0 <= share <= 1 for column in shares for share in column)


def test_a_head_on_stored_features_is_looked_at_only_on_request(tmp_path):
    probe = [*SHORT, f"out={tmp_path}", "strategy=linear_probe", "init.statistics=data"]
    probe += ["batch_size=40"]
    assert "watch" not in warmstart.train(probe).curves
    asked = warmstart.train([*probe, "watch_every_steps=5"])
    assert asked.curves["watch"]["step"] == [1, 2, 4, 5, 10]
    assert [name for name in asked.curves["watch"] if name.startswith("distance/")] == [
        "distance/head"
    ]


def test_an_interval_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(warmstart.ConfigError, match="watch_every_steps is -1, but must be a whole"):
        warmstart.train([*SHORT, f"out={tmp_path}", "watch_every_steps=-1"])
    with pytest.raises(
        warmstart.ConfigError, match="watch_every_steps is 4, but strategy=svm takes"
    ):
        warmstart.train(
            [
                *SHORT,
                f"out={tmp_path}",
                "strategy=svm",
                "init.statistics=data",
                "watch_every_steps=4",
            ]
        )
