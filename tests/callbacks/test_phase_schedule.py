"""Phases in a real fit: rates, masks and modes at every step, and the weights by hand.

The expected phases are written out as numbers here, not taken from the code under test.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import pytorch_lightning as pl
import torch
from three_groups import LAYOUT, net
from three_groups import fit as train
from torch import nn

from warmstart.callbacks.phases import PhaseSchedule, check_statistics
from warmstart.errors import ConfigError
from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import adamw, sgd
from warmstart.optim.schedules import constant, linear
from warmstart.strategies.phases import full, gradual, linear_probe, listed, lp_ft

LR = 0.2
STEPS = 8
MOMENTUM, DECAY = 0.9, 0.05
# Gradual unfreezing by half of eight steps, at two groups' rates halved per group: the first step
# of each phase, and the factor on the base rate of stem, body and head.
STARTS = {0: (0, 0, 1), 2: (0, 0.5, 1), 4: (0.25, 0.5, 1)}
NAMES = ("stem", "body", "head")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Spy(pl.Callback):
    """Write down what each step finds, computes and leaves."""

    def __init__(self):
        self.steps = []
        self.validated_in = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        optimizer = trainer.optimizers[0]
        self.row = {
            "before": copy.deepcopy(pl_module.model.state_dict()),
            "rates": [(g["layer_group"], g["lr"]) for g in optimizer.param_groups],
            "requires_grad": {n: p.requires_grad for n, p in pl_module.model.named_parameters()},
            "training": {n: m.training for n, m in pl_module.model.named_modules()},
            "has_state": {n: p in optimizer.state for n, p in pl_module.model.named_parameters()},
            "inputs": {},
        }
        self.hooks = [
            module.register_forward_hook(self.keep(name))
            for name, module in pl_module.model.named_modules()
            if isinstance(module, nn.BatchNorm2d)
        ]

    def keep(self, name):
        def hook(module, inputs, output):
            self.row["inputs"][name] = (inputs[0].detach(), output.detach())

        return hook

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.row["grads"] = {
            n: None if p.grad is None else p.grad.clone()
            for n, p in pl_module.model.named_parameters()
        }

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for hook in self.hooks:
            hook.remove()
        self.row["after"] = copy.deepcopy(pl_module.model.state_dict())
        self.steps.append(self.row)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated_in.append((len(self.steps), any(m.training for m in pl_module.modules())))


@pytest.fixture
def fit(make_split):
    """Return a function that fits the tiny net and returns what each step saw."""

    def run(phases, *, optimizer=None, schedule=None, first=0, model=None, steps=STEPS):
        model = model or net()
        groups = layer_groups(model, LAYOUT)
        optimizer = optimizer or (
            lambda groups: sgd(groups, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
        )
        spy = Spy()
        callback = PhaseSchedule(phases, schedule or constant(steps=steps), groups, lr=LR)
        train(
            model,
            [callback, spy],
            make_split,
            optimizer=lambda: optimizer(groups),
            steps=steps,
            first=first,
        )
        assert len(spy.steps) == steps - first
        return spy

    return run


def gradual_phases(batchnorm="eval_frozen"):
    return gradual(groups=3, steps=STEPS, all_by=0.5, group_decay=0.5, batchnorm=batchnorm)


def expected_rates(step):
    """Return the factors of stem, body and head in the phase that `step` lies in."""
    return STARTS[max(start for start in STARTS if start <= step)]


def group_of(name):
    return NAMES.index(name.split(".")[0])


@pytest.mark.parametrize("batchnorm", ["train", "eval", "eval_frozen"])
def test_rates_masks_and_modes_at_every_step(fit, batchnorm):
    spy = fit(gradual_phases(batchnorm), schedule=linear(steps=STEPS, warmup_steps=2))
    # The schedule by hand: two steps of warm-up, then 1 - t over six.
    factors = [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    for step, row in enumerate(spy.steps):
        rates = expected_rates(step)
        assert {index for index, _ in row["rates"]} == {0, 1, 2}
        for index, rate in row["rates"]:
            assert rate == pytest.approx(LR * rates[index] * factors[step]), (step, index)
        for name, flag in row["requires_grad"].items():
            assert flag == (rates[group_of(name)] > 0), (step, name)
        for index, name in enumerate(("stem.1", "body.1")):
            wanted = {"train": True, "eval": False, "eval_frozen": rates[index] > 0}[batchnorm]
            assert row["training"][name] == wanted, (step, name)
        others = {n: t for n, t in row["training"].items() if n not in ("stem.1", "body.1")}
        assert all(others.values()), step


@pytest.mark.filterwarnings("ignore:.*eval mode at the start of training")
def test_a_net_that_comes_in_eval_mode_trains_all_the_same(fit):
    usual, fit_in_eval = fit(gradual_phases()), fit(gradual_phases(), model=net().eval())
    for expected, found in zip(usual.steps, fit_in_eval.steps, strict=True):
        assert found["training"] == expected["training"]


def test_validation_in_the_middle_changes_neither_modes_nor_statistics(fit):
    spy = fit(gradual_phases())
    # After three steps and after six, in eval mode: neither is the start of a phase.
    assert spy.validated_in == [(3, False), (6, False)]
    for earlier, later in ((2, 3), (5, 6)):
        before, after = spy.steps[earlier], spy.steps[later]
        assert after["training"] == before["training"]
        for name, tensor in before["after"].items():
            assert torch.equal(tensor, after["before"][name]), name


@pytest.mark.parametrize("batchnorm", ["eval", "eval_frozen"])
def test_frozen_groups_do_not_move_by_a_bit(fit, batchnorm):
    spy = fit(gradual_phases(batchnorm))
    for step, row in enumerate(spy.steps):
        for name, tensor in row["before"].items():
            if expected_rates(step)[group_of(name)] == 0:
                assert torch.equal(tensor, row["after"][name]), (step, name)
                assert row["grads"].get(name) is None
    # Not because nothing moves: trained weights do.
    assert not torch.equal(
        spy.steps[4]["before"]["stem.0.weight"], spy.steps[4]["after"]["stem.0.weight"]
    )


def test_frozen_parameters_do_not_move_while_their_statistics_do_in_train_mode(fit):
    spy = fit(gradual_phases("train"))
    for step, row in enumerate(spy.steps[:4]):
        for name in ("stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"):
            assert torch.equal(row["before"][name], row["after"][name]), (step, name)
        assert not torch.equal(
            row["before"]["stem.1.running_mean"], row["after"]["stem.1.running_mean"]
        )


def assert_sgd_by_hand(rows, rates_at):
    """Check every update against v = 0.9 v + (g + decay w), w = w - rate v."""
    velocity = {}
    checked = 0
    for step, row in enumerate(rows):
        for name, grad in row["grads"].items():
            rate = LR * rates_at(step)[group_of(name)]
            if rate == 0:
                continue
            before = row["before"][name]
            decay = DECAY if before.ndim > 1 else 0.0
            change = grad + decay * before
            # The first trained step has no momentum yet, whenever it comes.
            velocity[name] = MOMENTUM * velocity[name] + change if name in velocity else change
            torch.testing.assert_close(
                row["after"][name], before - rate * velocity[name], rtol=1e-5, atol=1e-7
            )
            checked += 1
    return checked


def test_sgd_updates_by_hand_through_two_unfreezings(fit):
    spy = fit(gradual_phases())
    # Head 2 parameters x 8 steps, body 4 x 6, stem 4 x 4.
    assert assert_sgd_by_hand(spy.steps, expected_rates) == 16 + 24 + 16


def test_momentum_starts_from_nothing_at_an_unfreezing(fit):
    spy = fit(gradual_phases())
    for step, row in enumerate(spy.steps):
        for name, has_state in row["has_state"].items():
            first_trained = {"stem": 4, "body": 2, "head": 0}[name.split(".")[0]]
            assert has_state == (step > first_trained), (step, name)


def test_lp_ft_lowers_the_rate_of_the_head_too(fit):
    spy = fit(lp_ft(groups=3, steps=STEPS, probe_until=0.375, full_lr_scale=0.1))
    rates = [(0, 0, 1)] * 3 + [(0.1, 0.1, 0.1)] * 5
    for step, row in enumerate(spy.steps):
        assert dict(row["rates"]) == pytest.approx(
            {i: LR * rate for i, rate in enumerate(rates[step])}
        )
    assert_sgd_by_hand(spy.steps, lambda step: rates[step])


def test_a_group_can_be_frozen_again(fit):
    phases = listed(groups=3, steps=STEPS, phases=[{}, {"start": 0.25, "groups": 1}])
    spy = fit(phases)
    for row in spy.steps[2:]:
        for name, tensor in row["before"].items():
            if group_of(name) < 2:
                # Momentum and weight decay of the first two steps push no more.
                assert torch.equal(tensor, row["after"][name]), name
                assert row["grads"].get(name) is None
    assert [row["training"]["body.1"] for row in spy.steps] == [True] * 2 + [False] * 6


def test_adamw_first_steps_by_hand(fit):
    def optimizer(groups):
        return adamw(groups, lr=LR, betas=(0.9, 0.999), weight_decay=DECAY)

    spy = fit(gradual_phases(), optimizer=optimizer)
    # At a parameter's own first step m / (1 - b1) = g and v / (1 - b2) = g^2, whenever it comes.
    for group, step in {"head": 0, "body": 2, "stem": 4}.items():
        row = spy.steps[step]
        for name, grad in row["grads"].items():
            if not name.startswith(group):
                continue
            rate = LR * expected_rates(step)[group_of(name)]
            before = row["before"][name]
            decayed = before * (1 - rate * DECAY) if before.ndim > 1 else before
            expected = decayed - rate * grad / (grad.abs() + 1e-8)
            torch.testing.assert_close(row["after"][name], expected, rtol=1e-5, atol=1e-6)
    for name in ("stem.0.weight", "stem.1.weight", "stem.1.running_var"):
        assert torch.equal(spy.steps[0]["before"][name], spy.steps[3]["after"][name])


@pytest.mark.parametrize("batchnorm", ["train", "eval", "eval_frozen"])
def test_batchnorm_by_hand(fit, batchnorm):
    spy = fit(gradual_phases(batchnorm))
    for step, row in enumerate(spy.steps):
        for index, name in enumerate(("stem.1", "body.1")):
            uses_batch = {
                "train": True, "eval": False, "eval_frozen": expected_rates(step)[index] > 0
            }[batchnorm]  # fmt: skip
            before = {key: row["before"][f"{name}.{key}"] for key in NORM}
            after = {key: row["after"][f"{name}.{key}"] for key in before}
            x, y = row["inputs"][name]
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
            if uses_batch:
                count = x.numel() / x.shape[1]
                unbiased = variance * count / (count - 1)
                means = 0.9 * before["running_mean"] + 0.1 * mean
                variances = 0.9 * before["running_var"] + 0.1 * unbiased
                torch.testing.assert_close(after["running_mean"], means)
                torch.testing.assert_close(after["running_var"], variances)
                assert after["num_batches_tracked"] == before["num_batches_tracked"] + 1
            else:
                mean, variance = before["running_mean"], before["running_var"]
                for key in ("running_mean", "running_var", "num_batches_tracked"):
                    assert torch.equal(before[key], after[key]), (step, name, key)
            shape = (1, -1, 1, 1)
            normal = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
            expected = normal * before["weight"].view(shape) + before["bias"].view(shape)
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [1, 2, 5])
def test_a_run_that_starts_in_the_middle_is_in_the_right_phase(fit, first):
    unbroken = fit(gradual_phases(), schedule=linear(steps=STEPS))
    resumed = fit(gradual_phases(), schedule=linear(steps=STEPS), first=first)
    for expected, found in zip(unbroken.steps[first:], resumed.steps, strict=True):
        for key in ("rates", "requires_grad", "training"):
            assert found[key] == expected[key]


LOADED = ("stem.1.running_mean", "stem.1.running_var", "body.1.running_mean", "body.1.running_var")


def check(phases, loaded=()):
    check_statistics(phases, layer_groups(net(), LAYOUT), loaded)


@pytest.mark.parametrize(
    ("phases", "group", "step"),
    [
        (linear_probe(groups=3, steps=8), "stem", 0),
        (full(groups=3, steps=8, batchnorm="eval"), "stem", 0),
        (gradual(groups=3, steps=8), "stem", 0),
        (lp_ft(groups=3, steps=8), "stem", 0),
    ],
)
def test_statistics_that_nothing_has_set_are_refused(phases, group, step):
    message = rf"group {group} .*step {step} .*init=pretrained.*strategy\.batchnorm=train"
    with pytest.raises(ConfigError, match=message):
        check(phases)
    check(phases, LOADED)  # loaded ones are fine


def test_the_group_whose_statistics_were_not_loaded_is_named():
    with pytest.raises(ConfigError, match="group body "):
        check(linear_probe(groups=3, steps=8), LOADED[:2])


def test_statistics_of_the_run_itself_are_known():
    check(full(groups=3, steps=8))
    check(linear_probe(groups=3, steps=8, batchnorm="train"))
    # Learned in the first phase, used in the second.
    check(listed(groups=3, steps=8, phases=[{}, {"start": 0.5, "groups": 1}]))
    # The body learns, the stem does not.
    phases = listed(
        groups=3, steps=8, phases=[{"groups": 3}, {"start": 0.5, "groups": 2, "batchnorm": "eval"}]
    )
    check(phases)
    with pytest.raises(ConfigError, match=r"group stem .*step 0 "):
        check(listed(groups=3, steps=8, phases=[{"groups": 2}]))


def test_nets_without_batchnorm_need_no_statistics():
    plain = nn.Sequential(OrderedDict(body=nn.Linear(2, 2), head=nn.Linear(2, 2)))
    groups = layer_groups(plain, {"body": ["body"], "head": ["head"]})
    check_statistics(linear_probe(groups=2, steps=8), groups, ())
