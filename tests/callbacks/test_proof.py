"""The freeze proof in a real fit: its hashes by hand, what moves named, and kills in between."""

from __future__ import annotations

import hashlib

import pytest
import pytorch_lightning as pl
import torch
from three_groups import LAYOUT, fit, net

from warmstart.callbacks import checkpoint
from warmstart.callbacks.phases import PhaseSchedule
from warmstart.callbacks.proof import FreezeProof
from warmstart.callbacks.recorder import Recorder
from warmstart.errors import RunError
from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import sgd
from warmstart.optim.schedules import constant
from warmstart.strategies.phases import full, gradual, linear_probe, listed, lp_ft

STEPS = 8
LR = 0.2
# Gradual unfreezing by half of eight steps: phases at steps 0, 2 and 4.
GRADUAL = gradual(groups=3, steps=STEPS)


def group_hash(model, *names):
    """Hash tensors by hand: a digest of each one, then one over these, line by line."""
    tensors = model.state_dict()
    lines = []
    for name in names:
        value = tensors[name]
        kind = "torch.int64" if name.endswith("tracked") else "torch.float32"
        head = f"{name} {kind} {tuple(value.shape)}\n".encode()
        lines.append(hashlib.sha256(head + value.numpy().tobytes()).hexdigest())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def parameters(group):
    return [f"{group}.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")]


def everything(group):
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return [*parameters(group), *(f"{group}.1.{name}" for name in statistics)]


class Before(pl.Callback):
    """Do something to the model right before a step, after all other callbacks."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.first_step + batch_idx == self.step:
            with torch.no_grad():
                self.action(pl_module.model)


@pytest.fixture
def prove(make_split):
    """Return a function that fits the tiny net and returns the proof."""

    def run(phases, *others, model=None, steps=STEPS, folder=None, resume=None):
        model = model or net()
        if resume is not None:
            model.load_state_dict(resume["model"])
        groups = layer_groups(model, LAYOUT)
        proof = FreezeProof(phases, groups, steps=steps, resume=resume and resume["proof"])
        callbacks = [proof, PhaseSchedule(phases, constant(steps=steps), groups, lr=LR), *others]
        if folder is not None:
            recorder = Recorder(
                folder, steps=steps, log_every=2, checkpoint_seconds=0, proof=proof, resume=resume
            )
            callbacks.insert(2, recorder)
        fit(
            model,
            callbacks,
            make_split,
            optimizer=lambda: sgd(groups, lr=LR, momentum=0.9, weight_decay=0.05),
            steps=steps,
            first=resume["step"] if resume else 0,
            optimizer_state=resume["optimizer"] if resume else None,
        )
        return proof

    return run


def test_gradual_unfreezing_by_hand(prove):
    stem, body = (group_hash(net(), *everything(group)) for group in ("stem", "body"))
    assert prove(GRADUAL).entries == [
        {"phase": 0, "first_step": 0, "last_step": 1, "groups": {"stem": stem, "body": body},
         "moving_statistics": []},
        {"phase": 1, "first_step": 2, "last_step": 3, "groups": {"stem": stem},
         "moving_statistics": []},
        {"phase": 2, "first_step": 4, "last_step": 7, "groups": {}, "moving_statistics": []},
    ]  # fmt: skip


def test_lp_ft_by_hand(prove):
    stem, body = (group_hash(net(), *everything(group)) for group in ("stem", "body"))
    entries = prove(lp_ft(groups=3, steps=STEPS, probe_until=0.375)).entries
    assert [(e["first_step"], e["last_step"], e["groups"]) for e in entries] == [
        (0, 2, {"stem": stem, "body": body}), (3, 7, {}),
    ]  # fmt: skip


def test_a_group_that_is_frozen_again_is_held_at_what_it_has_become(prove):
    model = net()
    before = group_hash(model, *everything("body"))
    phases = listed(groups=3, steps=STEPS, phases=[{}, {"start": 0.25, "groups": 1}])
    entries = prove(phases, model=model).entries
    assert [(e["first_step"], e["last_step"]) for e in entries] == [(0, 1), (2, 7)]
    assert entries[0]["groups"] == {}
    # Nothing has moved them since, so the weights of the end are those of step 2.
    after = {group: group_hash(model, *everything(group)) for group in ("stem", "body")}
    assert entries[1]["groups"] == after
    assert after["body"] != before


def test_statistics_that_move_by_choice_are_left_out_and_said_to_be(prove):
    model = net()
    phases = linear_probe(groups=3, steps=STEPS, batchnorm="train")
    (entry,) = prove(phases, model=model).entries
    expected = {group: group_hash(net(), *parameters(group)) for group in ("stem", "body")}
    assert entry["groups"] == expected
    assert entry["moving_statistics"] == ["stem", "body"]
    assert not torch.equal(model.stem[1].running_mean, net().stem[1].running_mean)


def test_a_group_without_statistics_is_not_said_to_move_them(prove):
    model = net()
    model.stem[1] = torch.nn.Identity()
    phases = linear_probe(groups=3, steps=STEPS, batchnorm="train")
    assert prove(phases, model=model).entries[0]["moving_statistics"] == ["body"]


def test_other_buffers_are_held_where_statistics_may_move(prove):
    model = net()
    model.stem.register_buffer("scale", torch.ones(2))
    action = Before(3, lambda model: model.stem.scale.add_(1e-3))
    phases = linear_probe(groups=3, steps=STEPS, batchnorm="train")
    with pytest.raises(RunError, match=r"phase 0 \(steps 0 to 7\): stem \(stem\.scale\); "):
        prove(phases, action, model=model)


NORM = r"stem\.1\.running_mean, stem\.1\.running_var, stem\.1\.num_batches_tracked"


@pytest.mark.parametrize(
    ("step", "action", "message"),
    [
        (
            0,
            lambda model: model.stem[0].weight[0, 0, 0, 0].add_(1e-3),
            r"phase 0 \(steps 0 to 1\): stem \(stem\.0\.weight\); ",
        ),
        (2, lambda model: model.stem[1].train(), rf"phase 1 \(steps 2 to 3\): stem \({NORM}\); "),
        (
            1,
            lambda model: (model.stem[1].running_var.mul_(1.01), model.body[0].bias.zero_()),
            r"phase 0 \(steps 0 to 1\): stem \(stem\.1\.running_var\), body \(body\.0\.bias\); ",
        ),
    ],
)
def test_what_moves_is_named(prove, step, action, message):
    with pytest.raises(RunError, match=f"^frozen tensors moved in {message}") as error:
        prove(GRADUAL, Before(step, action))
    assert "\n" not in str(error.value)


def test_the_last_phase_is_checked_after_the_last_step(prove):
    action = Before(STEPS - 1, lambda model: model.body[1].bias.add_(1e-3))
    with pytest.raises(RunError, match=r"phase 0 \(steps 0 to 7\): body \(body\.1\.bias\)"):
        prove(linear_probe(groups=3, steps=STEPS), action)


def test_of_many_tensors_five_are_named(prove):
    def move(model):
        for tensor in model.stem.state_dict().values():
            tensor.add_(1)

    message = r"stem \(stem\.0\.weight, .*, stem\.1\.running_mean and 2 more\); "
    with pytest.raises(RunError, match=message):
        prove(GRADUAL, Before(1, move))


def test_what_trains_may_be_moved_by_anyone(prove):
    action = Before(1, lambda model: model.stem[0].weight.add_(1e-3))
    (entry,) = prove(full(groups=3, steps=STEPS), action).entries
    assert entry["groups"] == {}


class KilledError(Exception):
    """Ends a fit in the middle."""


def kill(model):
    raise KilledError


def test_a_run_killed_after_every_step_has_the_same_proof(prove, tmp_path):
    phases = listed(
        groups=3,
        steps=STEPS,
        phases=[{"groups": 2}, {"start": 0.25, "batchnorm": "train", "groups": 1}, {"start": 0.75}],
    )
    unbroken = prove(phases).entries
    state = None
    for step in range(1, STEPS):
        with pytest.raises(KilledError):
            prove(phases, Before(step, kill), folder=tmp_path, resume=state)
        state = checkpoint.load_newest(tmp_path)
        assert state["step"] == step
    assert prove(phases, folder=tmp_path, resume=state).entries == unbroken
    assert [list(entry["groups"]) for entry in unbroken] == [["stem"], ["stem", "body"], []]


@pytest.mark.parametrize(("step", "phase", "last"), [(2, 0, 1), (3, 1, 2)])
def test_a_checkpoint_whose_frozen_tensors_have_moved_is_refused(
    prove, tmp_path, step, phase, last
):
    with pytest.raises(KilledError):
        prove(GRADUAL, Before(step, kill), folder=tmp_path)
    state = checkpoint.load_newest(tmp_path)
    state["model"]["stem.0.bias"] += 1e-3
    message = rf"phase {phase} \(steps {2 * phase} to {last}\) before the checkpoint was read: stem"
    with pytest.raises(RunError, match=message):
        prove(GRADUAL, folder=tmp_path, resume=state)
