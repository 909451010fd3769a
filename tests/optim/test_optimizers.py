"""Optimizers over layer groups: who is in which group, what decays, what is refused."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import adam, adamw, sgd

ALL = [sgd, adam, adamw]


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
    assert [type(make(groups, lr=1)).__name__ for make in ALL] == ["SGD", "Adam", "AdamW"]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("key", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "high", None, True])
def test_rates_and_decays_that_are_no_positive_number_are_refused(net, make, key, value):
    with pytest.raises(ConfigError, match=rf"optimizer\.{key} is .*at least 0") as error:
        make(groups_of(net), **{"lr": 0.1, key: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("momentum", [1, 1.5, -0.1, None])
def test_a_momentum_outside_its_range_is_refused(net, momentum):
    with pytest.raises(ConfigError, match=r"optimizer\.momentum is .*at least 0 and below 1"):
        sgd(groups_of(net), lr=0.1, momentum=momentum)


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
