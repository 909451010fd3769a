"""Activation statistics of layer groups, and that looking changes nothing."""

from __future__ import annotations

import math
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from warmstart.models.activations import activation_statistics
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.layers import layer_groups


def diagonal(*values):
    layer = nn.Linear(len(values), len(values), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor(values)))
    return layer


def statistics(model, layout, x):
    return activation_statistics(model, layer_groups(model, layout), x)


def test_by_hand_before_an_in_place_activation():
    layers = OrderedDict(flat=nn.Flatten(), a=diagonal(1.0, -1.0), relu=nn.ReLU(inplace=True))
    model = nn.Sequential(OrderedDict(layers, b=diagonal(2.0, 2.0)))
    x = torch.tensor([3.0, 1.0]).reshape(1, 1, 1, 2)
    # a gives (3, -1): mean 1, deviation 2; behind the ReLU and b it is (6, 0).
    assert statistics(model, {"a": ["a"], "b": ["b"]}, x) == [(1.0, 2.0), (3.0, 3.0)]


class Net(nn.Module):
    """Executes a group's modules in another order than it lists them, and one container's."""

    Outputs = namedtuple("Outputs", "logits auxiliary")

    def __init__(self):
        super().__init__()
        self.late, self.early = diagonal(3.0), diagonal(2.0)
        self.blocks = nn.ModuleList([diagonal(5.0), diagonal(7.0)])
        self.unused = diagonal(1.0)
        self.pair = self.Pair()
        self.head = diagonal(1.0)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = diagonal(11.0)

        def forward(self, x):
            return Net.Outputs(2 * self.inner(x), self.inner(x))

    def forward(self, x):
        x = self.late(self.early(x.flatten(1)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.pair(x).logits)


def test_the_last_executed_module_counts():
    layout = {
        "first": ["late", "early"],
        "blocks": ["blocks"],
        "unused": ["unused"],
        "pair": ["pair"],
        "head": ["head"],
    }
    found = statistics(Net(), layout, torch.ones(1, 1, 1, 1))
    assert [mean for mean, _ in found[:2]] == [6, 210]
    assert all(math.isnan(value) for value in found[2])
    # Of a tuple the first tensor.
    assert [mean for mean, _ in found[3:]] == [4620, 4620]


def test_an_auxiliary_classifier_is_not_its_groups_output():
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.auxiliary = diagonal(2.0), nn.Sequential(diagonal(3.0))
            self.head = diagonal(5.0)

        def forward(self, x):
            x = self.body(x.flatten(1))
            return self.head(x), self.auxiliary(x)

    model, x = Branched(), torch.ones(1, 1, 1, 1)
    groups = layer_groups(model, {"body": ["body", "auxiliary"], "head": ["head"]})
    found = activation_statistics(model, groups, x, auxiliary=["auxiliary"])
    assert [mean for mean, _ in found] == [2, 10]


@pytest.mark.parametrize("train", [True, False])
def test_the_model_and_the_random_stream_are_left_alone(train):
    architecture = cifar_resnet(depth=20)
    model = nn.Sequential(
        OrderedDict(net=architecture.build(1, 3, None), drop=nn.Dropout(), head=nn.Linear(3, 2))
    )
    model.train(train)
    model.net.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layout = {"net": ["net"], "head": ["head"]}
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = statistics(model, layout, x)
    assert torch.equal(torch.rand(2), expected)
    assert statistics(model, layout, x) == first, "dropout drew other numbers"
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_batch_norm_runs_in_the_mode_it_is_in():
    model = nn.Sequential(OrderedDict(norm=nn.BatchNorm1d(1), head=nn.Linear(1, 1)))
    x = torch.tensor([[9.0], [11.0]])
    layout = {"norm": ["norm"], "head": ["head"]}
    mean, std = statistics(model, layout, x)[0]
    assert (mean, std) == pytest.approx((0, 1), abs=1e-4)
    mean, std = statistics(model.eval(), layout, x)[0]  # by mean 0 and variance 1
    assert (mean, std) == pytest.approx((10, 1), abs=1e-3)
