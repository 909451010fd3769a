"""Greedy unsupervised pretraining on real digits: what improves, what moves, what is refused."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import pytest
import torch
from torch import nn

from warmstart.data.sources.digits import digits
from warmstart.errors import ConfigError, RunError
from warmstart.models.autoencoder import pretrain
from warmstart.models.layers import layer_groups
from warmstart.models.small import small_cnn

STEPS = 40
SMALL = small_cnn(widths=(8, 16, 16))


@pytest.fixture(scope="module")
def batches():
    x = torch.from_numpy(digits().reader.pixels).permute(0, 3, 1, 2).float()
    x = (x - x.mean()) / x.std()
    # Copies, since one of the models changes its input in place.
    return lambda step: x[(step * 32) % 800 :][:32].clone()


def build(*, classes=10):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return SMALL.build(1, classes, 8)


def train(model, batches, *, layout=SMALL.layout, steps=STEPS, lr=5e-3, seed=0, **options):
    groups = layer_groups(model, layout)
    return pretrain(model, groups, batches, steps=steps, lr=lr, seed=seed, **options)


@pytest.fixture(scope="module")
def trained(batches):
    model = build()
    return model, train(model, batches)


def test_every_group_learns_to_reconstruct(trained, batches):
    _, curves = trained
    control = train(build(), batches, lr=1e-9)
    assert [len(curve) for curve in curves] == [11, 11, 11]
    # The first group's start alone is the same: the others get what other groups put out.
    assert curves[0][0] == control[0][0]
    for curve, untrained in zip(curves, control, strict=True):
        assert curve[-1] < 0.3 * curve[0]
        assert curve[-1] < 0.3 * untrained[-1]


def test_the_group_learns_and_not_the_decoder_alone(batches):
    def loss(*, frozen):
        model = nn.Sequential(OrderedDict(enc=nn.Conv2d(1, 3, 4, stride=4), flat=nn.Flatten()))
        model.add_module("head", nn.Linear(12, 2))
        with torch.no_grad():
            # Three times the same filter: a decoder alone cannot tell where in 4x4 pixels ink is.
            model.enc.weight.fill_(0.25).mul_(torch.linspace(0.9, 1.1, 16).reshape(1, 1, 4, 4))
            model.enc.bias.zero_()
        model.enc.register_forward_hook(lambda *call: call[2].detach() if frozen else None)
        layout = {"enc": ["enc"], "head": ["head"]}
        return train(model, batches, layout=layout, steps=300, lr=1e-2)[0][-1]

    assert loss(frozen=False) < 0.9 * loss(frozen=True)


def test_the_body_moves_and_the_head_does_not(trained):
    model, _ = trained
    for (name, before), after in zip(
        build().state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(before, after) == name.startswith("head."), name
    assert model.conv2[1].num_batches_tracked.item() == STEPS


def test_it_is_reproducible_and_does_not_depend_on_the_head(trained, batches):
    model, curves = trained
    other = build(classes=3)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    assert train(other, batches) == curves
    assert torch.equal(torch.rand(2), expected)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]) != name.startswith("head."), name
    assert train(build(), batches, steps=1, seed=1) != train(build(), batches, steps=1, seed=0)


def test_a_group_does_not_depend_on_what_comes_after(batches):
    """The first group is done before the second begins, and nothing moves it later."""
    first, both = build(), build()
    train(first, batches, steps=2, layout={"a": ["conv1"], "rest": ["conv2", "conv3", "head"]})
    layout = {"a": ["conv1"], "b": ["conv2", "conv3"], "head": ["head"]}
    train(both, batches, steps=2, layout=layout)
    for name, value in first.conv1.state_dict().items():
        assert torch.equal(value, both.conv1.state_dict()[name]), name


def test_batches_are_counted_and_progress_is_told(batches):
    asked, told = [], []

    def batch(step):
        asked.append(step)
        return batches(step)

    train(build(), batch, steps=2, progress=lambda *done: told.append(done))
    assert asked == [0, *range(6)]  # the first is looked at before training
    assert told == [(step, 6) for step in range(1, 7)]


def test_flags_are_given_back(batches):
    model = build().train()
    model.conv2.eval()
    model.conv3[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    train(model, batches, steps=1)
    assert [module.training for module in model.modules()] == modes
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert frozen == ["conv3.0.weight"]
    assert all(value.grad is None for value in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_only_the_group_in_training_uses_the_batch(batches):
    seen = []
    model = build()
    for layer in (model.conv1, model.conv2):
        layer[1].register_forward_hook(lambda norm, *_: seen.append((norm, norm.training)))
    train(model, batches, steps=1)
    first, second = model.conv1[1], model.conv2[1]
    looking = [(first, False), (first, False), (second, False), (first, False), (second, False)]
    training = [(first, True), (first, False), (second, True), (first, False), (second, False)]
    assert seen == looking + training


def test_fully_connected_groups_and_in_place_activations(batches):
    def curves(*, inplace):
        torch.manual_seed(0)
        layers = OrderedDict(
            conv=nn.Sequential(nn.ReLU(inplace), nn.Conv2d(1, 4, 3, padding=1)),
            pool=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            fc=nn.Linear(64, 16),
            relu=nn.ReLU(inplace),
            drop=nn.Dropout(0.5),
            head=nn.Linear(16, 2),
        )
        layout = {"conv": ["conv"], "fc": ["fc"], "head": ["head"]}
        return train(nn.Sequential(layers), batches, layout=layout)

    conv, fc = curves(inplace=True)
    assert conv[-1] < 0.5 * conv[0]
    assert fc[-1] < 0.5 * fc[0]
    # The target is the image, not what the group's own ReLU makes of it.
    assert curves(inplace=False) == [pytest.approx(conv, rel=1e-3), pytest.approx(fc, rel=1e-3)]


def test_what_stands_between_two_groups_belongs_to_the_encoder(batches):
    class Nothing(nn.Module):
        def forward(self, x):
            return 0 * x

    layers = OrderedDict(a=nn.Conv2d(1, 4, 1), between=Nothing(), b=nn.Conv2d(4, 4, 1))
    model = nn.Sequential(OrderedDict(layers, flat=nn.Flatten(), head=nn.Linear(256, 2)))
    layout = {"a": ["a"], "b": ["b"], "head": ["head"]}
    first, _ = train(model, batches, layout=layout)
    assert first[-1] > 0.8  # of the images' variance, 1: nothing comes through


def test_a_global_pooling_does_not_hide_the_maps_before_it(batches):
    torch.manual_seed(0)
    layers = OrderedDict(conv=nn.Conv2d(1, 4, 3, padding=1), pool=nn.AdaptiveAvgPool2d(1))
    layers |= OrderedDict(norm=nn.BatchNorm2d(4), flat=nn.Flatten(), head=nn.Linear(4, 2))
    layout = {"body": ["conv", "norm"], "head": ["head"]}
    (curve,) = train(nn.Sequential(layers), batches, layout=layout)
    assert curve[-1] < 0.3 * curve[0]
    assert curve[-1] < 0.3


class Tokens(nn.Module):
    """Patches as tokens [b, n, c], a layer on them, and a head on their mean."""

    def __init__(self, last):
        super().__init__()
        self.patches, self.last = nn.Conv2d(1, 6, 2, stride=2), last
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        return self.head(self.mix(x if self.last else x.flatten(1, 2)).flatten(1, -2).mean(1))


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "tokens"])
def test_tokens_are_refused_before_anything_trains(last):
    model = Tokens(last)
    before = [value.clone() for value in model.parameters()]
    layout = {"patches": ["patches"], "mix": ["mix"], "head": ["head"]}
    with pytest.raises(ConfigError, match=r"convolutional groups, but group mix takes no feature"):
        train(model, lambda _: torch.rand(2, 1, 32, 32), layout=layout)
    assert all(map(torch.equal, model.parameters(), before))
    assert all(value.requires_grad for value in model.parameters())


def test_a_group_that_puts_out_tokens_is_refused():
    model = nn.Sequential(
        OrderedDict(stem=nn.Sequential(nn.Conv2d(1, 6, 2), nn.Flatten(2)), head=nn.Linear(961, 2))
    )
    layout = {"stem": ["stem"], "head": ["head"]}
    with pytest.raises(ConfigError, match="group stem puts out no feature maps; use another init"):
        train(model, lambda _: torch.rand(2, 1, 32, 32), layout=layout)


def test_a_loss_that_is_not_finite_is_told(batches):
    def batch(step):
        return batches(step) * (float("inf") if step == 4 else 1)

    with pytest.raises(RunError, match=r"group conv2 is nan at step 1 of .* below 0\.005$"):
        train(build(), batch, steps=3)


def test_images_of_any_shape(batches):
    sizes = itertools.cycle([(9, 14)])
    curves = train(build(), lambda _: torch.rand(4, 1, *next(sizes)), steps=2)
    assert [len(curve) for curve in curves] == [2, 2, 2]
