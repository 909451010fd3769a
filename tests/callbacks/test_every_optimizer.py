"""Every optimizer through phases, a warm-up and a resume, against its paper's formula."""

from __future__ import annotations

import copy
import functools
from collections import defaultdict

import pytest
import pytorch_lightning as pl
import torch
from three_groups import LAYOUT, net
from three_groups import fit as train

from warmstart.callbacks.phases import PhaseSchedule
from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import adagrad, adam, adamw, rmsprop, sgd
from warmstart.optim.schedules import linear
from warmstart.strategies.phases import gradual

LR, DECAY, STEPS = 0.02, 0.05, 8
NAMES = ("stem", "body", "head")
# Unfreezing by half of eight steps, at halved rates: the factors of stem, body and head at each
# step; and two steps of warm-up, then 1 - t over six.
GROUPS = [(0, 0, 1)] * 2 + [(0, 0.5, 1)] * 2 + [(0.25, 0.5, 1)] * 4
FACTORS = [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]


def sgd_by_hand(w, g, s, rate, decay):
    s["v"] = 0.9 * s["v"] + g + decay * w
    return w - rate * s["v"]


def plain_by_hand(w, g, s, rate, decay):
    return w - rate * (g + decay * w)


def nesterov_by_hand(w, g, s, rate, decay):
    s["v"] = 0.9 * s["v"] + g + decay * w
    return w - rate * (g + decay * w + 0.9 * s["v"])


def sgdw_by_hand(w, g, s, rate, decay):
    s["v"] = 0.9 * s["v"] + g
    return w - rate * s["v"] - (rate / LR) * decay * w


def adagrad_by_hand(w, g, s, rate, decay):
    g = g + decay * w
    s["sum"] = s["sum"] + g**2
    return w - rate * g / (s["sum"].sqrt() + 1e-10)


def rmsprop_by_hand(w, g, s, rate, decay):
    g = g + decay * w
    s["mean"] = 0.8 * s["mean"] + 0.2 * g**2
    s["v"] = 0.5 * s["v"] + g / (s["mean"].sqrt() + 1e-8)
    return w - rate * s["v"]


def adam_step(w, g, s, rate):
    s["t"] += 1
    s["m"] = 0.9 * s["m"] + 0.1 * g
    s["s"] = 0.99 * s["s"] + 0.01 * g**2
    m, v = s["m"] / (1 - 0.9 ** s["t"]), s["s"] / (1 - 0.99 ** s["t"])
    return w - rate * m / (v.sqrt() + 1e-8)


def adam_by_hand(w, g, s, rate, decay):
    return adam_step(w, g + decay * w, s, rate)


def adamw_by_hand(w, g, s, rate, decay):
    return adam_step(w - rate * decay * w, g, s, rate)


BETAS = (0.9, 0.99)
OPTIMIZERS = {
    "momentum": (sgd, {}, sgd_by_hand),
    "plain": (sgd, {"momentum": 0.0}, plain_by_hand),
    "nesterov": (sgd, {"nesterov": True}, nesterov_by_hand),
    "sgdw": (sgd, {"decoupled": True}, sgdw_by_hand),
    "adagrad": (adagrad, {}, adagrad_by_hand),
    "rmsprop": (rmsprop, {"alpha": 0.8, "momentum": 0.5}, rmsprop_by_hand),
    "adam": (adam, {"betas": BETAS}, adam_by_hand),
    "adamw": (adamw, {"betas": BETAS}, adamw_by_hand),
}
EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


class Spy(pl.Callback):
    """Keep weights before and after each step, its gradients, and the state after some step."""

    def __init__(self, keep=None):
        self.rows, self.keep, self.kept = [], keep, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = copy.deepcopy(dict(pl_module.model.named_parameters()))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.model.named_parameters()
        self.grads = {n: p.grad.clone() for n, p in named if p.grad is not None}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        after = copy.deepcopy(dict(pl_module.model.named_parameters()))
        self.rows.append((self.before, self.grads, after))
        if len(self.rows) == self.keep:
            state = (pl_module.model.state_dict(), trainer.optimizers[0].state_dict())
            self.kept = copy.deepcopy(state)


def fit(name, make_split, *, keep=None, state=(None, None), first=0):
    make, options, _ = OPTIMIZERS[name]
    model = net()
    if first:
        model.load_state_dict(state[0])
    groups = layer_groups(model, LAYOUT)
    phases = gradual(groups=3, steps=STEPS, all_by=0.5, group_decay=0.5)
    schedule = PhaseSchedule(phases, linear(steps=STEPS, warmup_steps=2), groups, lr=LR)
    spy = Spy(keep)
    train(
        model,
        [schedule, spy],
        make_split,
        optimizer=functools.partial(make, groups, lr=LR, weight_decay=DECAY, **options),
        steps=STEPS,
        first=first,
        optimizer_state=state[1],
    )
    return spy


@EVERY
def test_every_update_of_every_group_by_hand(name, make_split):
    by_hand, states = OPTIMIZERS[name][2], defaultdict(lambda: defaultdict(float))
    moved = 0
    for step, (before, grads, after) in enumerate(fit(name, make_split).rows):
        for weight, value in before.items():
            factor = GROUPS[step][NAMES.index(weight.split(".")[0])] * FACTORS[step]
            if factor == 0:
                assert torch.equal(value, after[weight]), (step, weight)
                continue
            decay = DECAY if value.ndim > 1 else 0.0
            expected = by_hand(value, grads[weight], states[weight], LR * factor, decay)
            torch.testing.assert_close(after[weight].data, expected.data, rtol=1e-4, atol=2e-6)
            moved += 1
    # The head's 2 parameters at 8 steps, the body's 4 at 6 and the stem's 4 at 4.
    assert moved == 16 + 24 + 16


@EVERY
@pytest.mark.parametrize("first", [3, 5])
def test_a_resumed_run_goes_on_bit_by_bit(name, first, make_split):
    whole = fit(name, make_split, keep=first)
    rest = fit(name, make_split, state=whole.kept, first=first)
    for weight, value in whole.rows[-1][2].items():
        assert torch.equal(value, rest.rows[-1][2][weight]), weight
