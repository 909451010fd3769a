"""Optimizers over layer groups: who is in which group, what decays, what is refused."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import adagrad, adam, adamw, rmsprop, sgd

ALL = [sgd, adagrad, rmsprop, adam, adamw]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
            plain=nn.Conv2d(2, 2, 3, bias=False),
            head=nn.Linear(2, 3),
        )
    )


def groups_of(net):
    return layer_groups(net, {"stem": ["stem"], "plain": ["plain"], "head": ["head"]})


def in_optimizer(optimizer):
    return [id(p) for group in optimizer.param_groups for p in group["params"]]


def ids(parameters):
    return [id(parameter) for parameter in parameters]


@pytest.mark.parametrize("make", ALL)
def test_matrices_decay_and_vectors_do_not(net, make):
    optimizer = make(groups_of(net), lr=0.3, weight_decay=0.01)
    conv, norm = net.stem
    expected = [
        (0, 0.01, [conv.weight]),
        (0, 0.0, [conv.bias, norm.weight, norm.bias]),
        (1, 0.01, [net.plain.weight]),
        (2, 0.01, [net.head.weight]),
        (2, 0.0, [net.head.bias]),
    ]
    found = [
        (g["layer_group"], g["weight_decay"], ids(g["params"])) for g in optimizer.param_groups
    ]
    assert found == [(index, decay, ids(parameters)) for index, decay, parameters in expected]
    assert [g["lr"] for g in optimizer.param_groups] == [0.3] * 5


@pytest.mark.parametrize("make", ALL)
def test_decay_all_decays_vectors_too(net, make):
    optimizer = make(groups_of(net), lr=0.3, weight_decay=0.01, decay_all=True)
    assert [g["layer_group"] for g in optimizer.param_groups] == [0, 1, 2]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01] * 3
    assert in_optimizer(optimizer) == ids(net.parameters())


def test_every_parameter_is_in_the_optimizer_once():
    architecture = cifar_resnet(depth=20, granularity="block")
    model = architecture.build(3, 10, None)
    optimizer = sgd(layer_groups(model, architecture.layout), lr=0.1, weight_decay=1e-4)
    assert sorted(in_optimizer(optimizer)) == sorted(ids(model.parameters()))


def test_decay_by_hand(net):
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = sgd(groups_of(net), lr=0.5, weight_decay=0.1)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        # Without a gradient only the decay moves a weight: w - 0.5 x 0.1 w.
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_options_reach_the_optimizer(net):
    groups = groups_of(net)
    assert sgd(groups, lr=1, momentum=0.5, nesterov=True).defaults["momentum"] == 0.5
    assert sgd(groups, lr=1, momentum=0.5, nesterov=True).defaults["nesterov"] is True
    assert adam(groups, lr=1, betas=[0.5, 0.9]).defaults["betas"] == (0.5, 0.9)
    assert adamw(groups, lr=1).param_groups[0]["weight_decay"] == 0.01
    assert rmsprop(groups, lr=1).defaults["alpha"] == 0.9
    assert rmsprop(groups, lr=1, alpha=0.5, momentum=0.1).defaults["momentum"] == 0.1
    names = ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"]
    assert [type(make(groups, lr=1)).__name__ for make in ALL] == names


# A weight of 1 with the gradients 2 and then 1, at a rate of 0.1 and a decay of 0.5, in numbers.
UPDATES = [
    # g + 0.5 w = 2.5; then 1 + 0.375 = 1.375.
    (sgd, {"momentum": 0.0}, [0.75, 0.6125]),
    # v = 2.5; then 0.9 x 2.5 + 1.375 = 3.625.
    (sgd, {}, [0.75, 0.3875]),
    # 2.5 + 0.9 x 2.5 = 4.75; then g = 1.2625, v = 3.5125, g + 0.9 v = 4.42375.
    (sgd, {"nesterov": True}, [0.525, 0.082625]),
    # 1 - 0.1 x 2 - 0.5 x 1; then v = 2.8 and 0.3 - 0.28 - 0.15.
    (sgd, {"decoupled": True}, [0.3, -0.13]),
    # 0.1 x 2.5 / 2.5; then g = 1.45 and 0.1 x 1.45 / sqrt(2.5^2 + 1.45^2).
    (adagrad, {}, [0.9, 0.849828]),
    # 0.1 / sqrt(0.1); then g = 1.341886, s = 0.9 x 0.625 + 0.1 g^2 = 0.742566.
    (rmsprop, {}, [0.683772, 0.528050]),
    # 0.1 x 1 each, but for the ratio of the corrected means at the second: g = 1.45,
    # m = 0.37 / 0.19 = 1.947368, s = 0.00834625 / 0.001999 = 4.175213.
    (adam, {}, [0.9, 0.804697]),
    # 0.95 - 0.1; then 0.8075 - 0.1 x (0.28 / 0.19) / sqrt(0.004996 / 0.001999).
    (adamw, {}, [0.85, 0.714282]),
]


@pytest.mark.parametrize(("make", "options", "expected"), UPDATES)
def test_the_first_two_updates_in_numbers(make, options, expected):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    groups = layer_groups(nn.Sequential(OrderedDict(head=layer)), {"head": ["head"]})
    optimizer = make(groups, lr=0.1, weight_decay=0.5, **options)
    found = []
    for gradient in (2.0, 1.0):
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        found.append(layer.weight.item())
    assert found == pytest.approx(expected, abs=2e-6)


def test_a_decoupled_decay_follows_the_schedule_and_skips_what_is_frozen(net):
    optimizer = sgd(groups_of(net), lr=0.5, weight_decay=0.1, decoupled=True)
    before = net.head.weight.detach().clone()
    net.head.weight.grad = torch.zeros_like(net.head.weight)
    for group in optimizer.param_groups:
        group["lr"] = 0.05  # a tenth of the base rate, so that a tenth of the decay is left
    optimizer.step()
    torch.testing.assert_close(net.head.weight.detach(), 0.99 * before)
    stem = net.stem[0].weight
    assert stem.grad is None
    torch.manual_seed(0)
    assert torch.equal(stem, nn.Conv2d(1, 2, 3).weight), "no gradient, no decay"
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0, 0.1, 0.1, 0]


def test_a_decoupled_decay_sees_the_gradient_of_the_weights_before_it(net):
    optimizer = sgd(groups_of(net), lr=0.5, weight_decay=0.1, decoupled=True)
    before, seen = net.head.weight.detach().clone(), []

    def closure():
        seen.append(net.head.weight.detach().clone())
        loss = net.head(torch.ones(1, 2)).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad
    assert torch.equal(seen[0], before)
    torch.testing.assert_close(net.head.weight.detach(), 0.9 * before - 0.5)


def test_a_base_rate_of_zero_moves_nothing(net):
    optimizer = sgd(groups_of(net), lr=0, weight_decay=0.1, decoupled=True)
    before = net.head.weight.detach().clone()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    optimizer.step()
    assert torch.equal(net.head.weight, before)


def test_a_decoupled_decay_of_nothing_is_refused(net):
    with pytest.raises(ConfigError, match=r"optimizer\.decoupled.*optimizer\.weight_decay is 0"):
        sgd(groups_of(net), lr=0.1, decoupled=True)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("key", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "high", None, True])
def test_rates_and_decays_that_are_no_positive_number_are_refused(net, make, key, value):
    with pytest.raises(ConfigError, match=rf"optimizer\.{key} is .*at least 0") as error:
        make(groups_of(net), **{"lr": 0.1, key: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("make", "key"), [(sgd, "momentum"), (rmsprop, "momentum"), (rmsprop, "alpha")]
)
@pytest.mark.parametrize("value", [1, 1.5, -0.1, None])
def test_a_momentum_outside_its_range_is_refused(net, make, key, value):
    with pytest.raises(ConfigError, match=rf"optimizer\.{key} is .*at least 0 and below 1"):
        make(groups_of(net), lr=0.1, **{key: value})


def test_nesterov_without_momentum_is_refused(net):
    with pytest.raises(ConfigError, match=r"optimizer\.nesterov.*optimizer\.momentum is 0"):
        sgd(groups_of(net), lr=0.1, momentum=0, nesterov=True)


@pytest.mark.parametrize("make", [adam, adamw])
@pytest.mark.parametrize(
    "betas", [[0.9], [0.9, 1.0], [-0.1, 0.9], 0.9, [0.9, "x"], [0.1, 0.2, 0.3]]
)
def test_betas_outside_their_range_are_refused(net, make, betas):
    with pytest.raises(ConfigError, match=r"optimizer\.betas is "):
        make(groups_of(net), lr=0.1, betas=betas)
