"""The loss of a training step by hand: auxiliary classifiers, class weights, mixed targets."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from warmstart.callbacks.phases import PhaseSchedule
from warmstart.data.augment.mixing import Mix
from warmstart.data.batches import TrainBatches, eval_loader, train_loader
from warmstart.data.preprocess import Preprocess
from warmstart.models.architecture import Input
from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import sgd
from warmstart.optim.schedules import constant
from warmstart.randomness import derive
from warmstart.strategies.phases import full, linear_probe, partial
from warmstart.task import Classification, class_weights
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
        **{"classes": CLASSES, **options},
    )


def forward(model, task, batch, step):
    """Return what the model makes of a training batch, with the noise of that step."""
    torch.manual_seed(derive(0, "step", step))
    return model.train()(task.preprocess(batch[0], batch[2], train=True))


@pytest.fixture
def batches(make_split):
    split = make_split(12, size=SIZE, channels=3)
    return TrainBatches(split, batch_size=BATCH, seed=0)


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


def constant_batch(labels):
    labels = torch.tensor(labels)
    return torch.zeros(len(labels), 4, 4, 3, dtype=torch.uint8), labels, torch.empty(len(labels), 0)


def test_class_weights_by_hand():
    # 6 images of 3 classes: 6 / (3 * 3), 6 / (3 * 1), 6 / (3 * 2).
    labels = np.array([0, 1, 0, 2, 0, 2])
    weights = class_weights(labels, 3)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([2 / 3, 2, 1])
    assert weights[labels].mean().item() == pytest.approx(1)


# The logits of Fixed are 0 and 1: the losses of the labels 0 and 1.
LOSSES = np.log(1 + np.e), np.log(1 + 1 / np.e)


@pytest.mark.parametrize("labels", [[0, 0], [0, 1], [1, 1, 1, 0]])
def test_weighted_loss_by_hand(labels):
    # A class of weight 3 counts three times, in a batch of its own too.
    weights = torch.tensor([3.0, 0.5])
    task = classification(
        Fixed(torch.zeros(2)), classes=2, class_weights=weights, auxiliary_weight=0.25
    )
    loss = task.train().training_step(constant_batch(labels), 0)
    main = np.mean([weights[label] * LOSSES[label] for label in labels])
    auxiliary = np.mean([weights[label] * np.log(2) for label in labels])
    assert loss.item() == pytest.approx(main + 0.25 * auxiliary)
    assert task.train_sums.tolist() == pytest.approx(
        [len(labels) * main, labels.count(1), len(labels)]
    )
    # The loss of validation knows no weights.
    task.eval().on_validation_epoch_start()
    task.validation_step(constant_batch(labels), 0)
    assert task.val_sums[0].item() == pytest.approx(sum(LOSSES[label] for label in labels))


def test_weights_of_balanced_classes_change_nothing(model, batches):
    twin = copy.deepcopy(model)
    weights = class_weights(batches.split.labels, CLASSES)
    assert weights.tolist() == [1, 1, 1]
    plain = classification(model, auxiliary_weight=0.3).train()
    weighted = classification(twin, auxiliary_weight=0.3, class_weights=weights).train()
    for step in range(2):
        losses = [task.training_step(batches[step], step) for task in (plain, weighted)]
        assert torch.equal(*losses)
        for loss in losses:
            loss.backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def halves(x, labels, classes):
    """Mix every image with the next one, evenly."""
    soft = F.one_hot(labels, classes).float()
    return (x + x.roll(1, 0)) / 2, (soft + soft.roll(1, 0)) / 2


@pytest.mark.parametrize("weights", [None, [3.0, 0.5]])
def test_mixed_targets_by_hand(weights):
    task = classification(
        Fixed(torch.zeros(2)),
        classes=2,
        mix=halves,
        class_weights=None if weights is None else torch.tensor(weights),
        auxiliary_weight=0.25,
    )
    loss = task.train().training_step(constant_batch([0, 0, 1]), 0)
    # The targets are (1/2, 1/2), (1, 0), (1/2, 1/2): masses of 2 and 1.
    of_zero, of_one = weights or (1, 1)
    main = (2 * of_zero * LOSSES[0] + 1 * of_one * LOSSES[1]) / 3
    auxiliary = (2 * of_zero + 1 * of_one) * np.log(2) / 3
    assert loss.item() == pytest.approx(main + 0.25 * auxiliary)
    # Class 1 is predicted throughout: its mass is what is right of the three.
    assert task.train_sums.tolist() == pytest.approx([3 * main, 1, 3])


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_the_mixes_of_the_augmentation(batches, alphas):
    mix = Mix(mixup=alphas[0], cutmix=alphas[1])
    task = classification(Pixels(), mix=mix, class_weights=torch.tensor([0.5, 1.0, 1.5])).train()
    for step in (0, 1):
        loss = task.training_step(batches[step], step)
        pixels, labels, uniforms = batches[step]
        torch.manual_seed(derive(0, "step", step))
        x, soft = mix(task.preprocess(pixels, uniforms, train=True), labels, CLASSES)
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(BATCH))
        weighted = soft * torch.tensor([0.5, 1.0, 1.5])
        logs = task.model(x).log_softmax(dim=1)
        torch.testing.assert_close(loss, -(weighted * logs).sum() / BATCH)


class Pixels(nn.Module):
    """Answers with the first three values of an image."""

    def forward(self, x):
        return x.flatten(1)[:, :CLASSES]


def test_validation_and_prediction_do_not_mix():
    task = classification(Fixed(), classes=2, mix=None)
    mixing = classification(Fixed(), classes=2, mix=halves)
    for one in (task, mixing):
        one.eval().on_validation_epoch_start()
        one.validation_step(constant_batch([0, 1, 1]), 0)
    assert torch.equal(task.val_sums, mixing.val_sums)
    assert mixing.predict_step(constant_batch([0, 1, 1]), 0).tolist() == [[0.0, 1.0]] * 3


class Noisy(nn.Module):
    """Keeps what it sees; draws as many numbers as it is told to."""

    def __init__(self, draws):
        super().__init__()
        self.logits, self.draws, self.seen = nn.Parameter(torch.zeros(2)), draws, []

    def forward(self, x):
        torch.rand(self.draws)
        self.seen.append(x)
        return self.logits.expand(len(x), -1)


def test_the_mix_is_the_same_whatever_the_model_draws():
    def noise(x, labels, classes):
        return x + torch.rand(1), F.one_hot(labels, classes).float()

    seen = []
    for draws in (0, 5):
        model = Noisy(draws)
        task = classification(model, classes=2, mix=noise).train()
        for step in (0, 1, 0):
            task.training_step(constant_batch([0, 1]), step)
        seen.append(torch.stack(model.seen))
    assert torch.equal(*seen)
    assert torch.equal(seen[0][0], seen[0][2])  # a function of seed and step
    assert not torch.equal(seen[0][0], seen[0][1])


@pytest.mark.parametrize("mix", [None, halves])
@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 0.5])])
def test_half_precision_gives_the_same_loss(mix, weights):
    found = []
    for enabled in (False, True):
        task = classification(Rounding(enabled), classes=2, mix=mix, class_weights=weights)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(task.train().training_step(constant_batch([0, 0, 1]), 0))
    assert found[1].dtype == torch.float32
    assert torch.equal(*found)


class Rounding(Fixed):
    """`Fixed`, whose answers are of the precision that autocast gives them."""

    def __init__(self, half):
        super().__init__()
        self.half_precision = half

    def forward(self, x):
        logits = super().forward(x)
        return logits.bfloat16() if self.half_precision else logits


@pytest.mark.parametrize("weights", [None, [3.0, 0.5]])
def test_smoothed_labels_by_hand(weights):
    task = classification(
        Fixed(torch.zeros(2)),
        classes=2,
        label_smoothing=0.2,
        class_weights=None if weights is None else torch.tensor(weights),
        auxiliary_weight=0.25,
    )
    loss = task.train().training_step(constant_batch([0, 0, 1]), 0)
    # Of two classes the right one keeps 1 - 0.2 / 2 = 0.9, and the other has 0.1.
    of_zero, of_one = weights or (1, 1)
    masses = [(0.9, 0.1), (0.9, 0.1), (0.1, 0.9)]
    main = np.mean([a * of_zero * LOSSES[0] + b * of_one * LOSSES[1] for a, b in masses])
    auxiliary = np.mean([(a * of_zero + b * of_one) * np.log(2) for a, b in masses])
    assert loss.item() == pytest.approx(main + 0.25 * auxiliary)
    # Validation asks for the labels.
    task.eval().on_validation_epoch_start()
    task.validation_step(constant_batch([0, 0, 1]), 0)
    assert task.val_sums[0].item() == pytest.approx(2 * LOSSES[0] + LOSSES[1])


def test_mixed_and_smoothed_targets_by_hand():
    task = classification(Fixed(), classes=2, mix=halves, label_smoothing=0.2)
    loss = task.train().training_step(constant_batch([0, 0, 1]), 0)
    # (1/2, 1/2), (1, 0) and (1/2, 1/2), of which 0.2 is spread evenly.
    masses = [(0.5, 0.5), (0.9, 0.1), (0.5, 0.5)]
    expected = np.mean([a * LOSSES[0] + b * LOSSES[1] for a, b in masses])
    assert loss.item() == pytest.approx(expected)
