"""The loss of a training step, auxiliary classifiers among it, by hand and in real fits."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from warmstart.callbacks.phases import PhaseSchedule
from warmstart.data.batches import Preprocess, TrainBatches, eval_loader, train_loader
from warmstart.models.architecture import Input
from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import sgd
from warmstart.optim.schedules import constant
from warmstart.randomness import derive
from warmstart.strategies.phases import full, linear_probe, partial
from warmstart.task import Classification
from warmstart.trainer import Hardware

CLASSES, SIZE, BATCH = 3, 32, 4
# The auxiliary classifiers stand with the layers that they look at.
LAYOUT = {
    "stem": ["conv1", "conv2", "conv3"],
    "inception3": ["inception3a", "inception3b"],
    "inception4": [*(f"inception4{letter}" for letter in "abcde"), "aux1", "aux2"],
    "inception5": ["inception5a", "inception5b"],
    "head": ["fc"],
}


@pytest.fixture(scope="module")
def untouched():
    from torchvision.models import googlenet

    torch.manual_seed(0)
    return googlenet(init_weights=False, aux_logits=True, num_classes=CLASSES)


@pytest.fixture
def model(untouched):
    return copy.deepcopy(untouched)


def classification(model, groups=(), **options):
    return Classification(
        model,
        Preprocess(Input(None, 3, (0.5,) * 3, (0.25,) * 3), augment=None, channels_last=False),
        optimizer=lambda: sgd(groups, lr=0.1, momentum=0.9),
        seed=0,
        **options,
    )


def forward(model, task, batch, step):
    """Return what the model makes of a training batch, with the noise of that step."""
    torch.manual_seed(derive(0, "step", step))
    return model.train()(task.preprocess(batch[0], batch[2], train=True))


@pytest.fixture
def batches(make_split):
    split = make_split(12, size=SIZE, channels=3)
    return TrainBatches(split, batch_size=BATCH, columns=0, seed=0)


@pytest.mark.parametrize("step", [0, 3])
def test_the_loss_by_hand(model, batches, step):
    twin, batch = copy.deepcopy(model), batches[0]
    labels = batch[1]
    task = classification(model, auxiliary_weight=0.3, first_step=step).train()
    loss = task.training_step(batch, 0)
    output = forward(twin, task, batch, step)
    main, *others = (
        -logits.log_softmax(dim=1)[range(BATCH), labels].mean()
        for logits in (output.logits, output.aux_logits1, output.aux_logits2)
    )
    torch.testing.assert_close(loss, main + 0.3 * (others[0] + others[1]))
    # The curve shows the loss that validation has too: the classifier's alone.
    right = (output.logits.argmax(dim=1) == labels).sum()
    torch.testing.assert_close(
        task.train_sums, torch.stack((BATCH * main.detach(), right, torch.tensor(BATCH)))
    )


def test_every_auxiliary_parameter_gets_a_gradient(model, batches):
    task = classification(model, auxiliary_weight=0.3).train()
    task.training_step(batches[0], 0).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_without_weight_the_auxiliary_classifiers_are_left_out(model, batches):
    twin, batch = copy.deepcopy(model), batches[0]
    task = classification(model).train()
    loss = task.training_step(batch, 0)
    output = forward(twin, task, batch, 0)
    torch.testing.assert_close(loss, F.cross_entropy(output.logits, batch[1]))
    loss.backward()
    found = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None}
    assert found == {"aux1", "aux2"}


class Fixed(nn.Module):
    """Answers the same whatever it is asked: logits 0 and 1, and in training `others` too."""

    def __init__(self, *others):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.0, 1.0]))
        self.others = others

    def forward(self, x):
        logits = self.logits.expand(len(x), -1)
        if self.training and self.others:
            return (logits, *(o if o is None else o.expand(len(x), -1) for o in self.others))
        return logits


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        # log(1 + e) for label 0; log 2 for even logits; log(1 + e^2) for 0 and 2.
        ((), 1.3132617),
        ((None,), 1.3132617),
        ((None, None), 1.3132617),
        ((torch.zeros(2), None), 1.3132617 + 0.5 * 0.6931472),
        ((torch.zeros(2), torch.tensor([0.0, 2.0])), 1.3132617 + 0.5 * (0.6931472 + 2.1269280)),
    ],
)
def test_losses_of_a_model_that_lacks_some(others, expected):
    task = classification(Fixed(*others), auxiliary_weight=0.5)
    batch = (
        torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
        torch.zeros(2, dtype=torch.int64),
        torch.empty(2, 0),
    )
    assert task.train().training_step(batch, 0).item() == pytest.approx(expected)
    assert task.train_sums.tolist() == pytest.approx([2 * 1.3132617, 0, 2])
    # Evaluation knows the classifier alone.
    task.eval().on_validation_epoch_start()
    task.validation_step(batch, 0)
    assert task.val_sums.tolist() == pytest.approx([2 * 1.3132617, 0, 2])
    assert task.predict_step(batch, 0).tolist() == [[0.0, 1.0]] * 2


@pytest.mark.parametrize(
    ("phases", "trained"),
    [
        (full(groups=5, steps=2), ("stem", "inception3", "inception4", "inception5", "head")),
        (partial(groups=5, steps=2, frozen=2), ("inception4", "inception5", "head")),
        (linear_probe(groups=5, steps=2), ("head",)),
    ],
)
def test_auxiliary_classifiers_move_with_their_group_alone(
    model, untouched, batches, make_split, phases, trained
):
    groups = layer_groups(model, LAYOUT)
    task = classification(model, groups, auxiliary_weight=0.3)
    schedule = PhaseSchedule(phases, constant(steps=2), groups, lr=0.1)
    trainer = Hardware(accelerator="cpu").trainer(steps=2, val_every=1, callbacks=[schedule])
    val = eval_loader(make_split(3, size=SIZE, channels=3, seed=1), workers=0)
    trainer.fit(task, train_loader(batches, first=0, steps=2, workers=0), val)
    before = untouched.state_dict()
    for group in groups:
        for name, parameter in group.parameters.items():
            assert torch.equal(parameter, before[name]) == (group.name not in trained), name
    assert task.val_sums[2] == 3
