"""Layer groups: a partition in the order of the forward pass, for every architecture."""

from __future__ import annotations

from collections import Counter, OrderedDict
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.layers import layer_groups, table
from warmstart.models.small import small_cnn
from warmstart.models.torchvision import torchvision_model

# Model, its number of groups by stage and by block.
MODELS = {
    "small_cnn": (small_cnn, 5, 5),
    "resnet20": (partial(cifar_resnet, depth=20), 5, 11),
    "resnet56": (partial(cifar_resnet, depth=56), 5, 29),
    "resnet18": (partial(torchvision_model, name="resnet18"), 6, 10),
    "mobilenet_v2": (partial(torchvision_model, name="mobilenet_v2"), 7, 20),
}
CLASSES = 7

every_model = pytest.mark.parametrize("name", MODELS)
both_granularities = pytest.mark.parametrize("granularity", ["stage", "block"])


def build(name, granularity):
    architecture = MODELS[name][0](granularity=granularity)
    model = architecture.build(3, CLASSES, None)
    return architecture, model, layer_groups(model, architecture.layout)


@every_model
@both_granularities
def test_every_parameter_and_buffer_is_in_exactly_one_group(name, granularity):
    _, model, groups = build(name, granularity)
    tensors = [t for g in groups for t in (*g.parameters.values(), *g.buffers.values())]
    names = [n for g in groups for n in (*g.parameters, *g.buffers)]

    assert Counter(map(id, tensors)) == Counter(map(id, (*model.parameters(), *model.buffers())))
    assert sorted(names) == sorted(model.state_dict())
    assert [g.index for g in groups] == list(range(len(groups)))
    assert len(groups) == MODELS[name][1 if granularity == "stage" else 2]


@every_model
@both_granularities
def test_groups_follow_the_forward_pass(name, granularity):
    architecture, model, groups = build(name, granularity)
    owner = {
        id(child): group.index
        for group in groups
        for module in group.modules
        for child in module.modules()
    }
    calls: list[tuple[int, Tensor, Tensor]] = []

    def note(module, inputs, output):
        calls.append((owner[id(module)], inputs[0], output))

    for module in model.modules():
        if not list(module.children()) and list(module.parameters()):
            module.register_forward_hook(note)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits = model.eval()(images)

    order = [index for index, _, _ in calls]
    assert order == sorted(order)
    assert set(order) == set(range(len(groups)))
    assert calls[0][1] is images
    assert calls[-1][2] is logits
    # The head alone is last: one linear layer, whose output is the logits.
    assert list(groups[-1].parameters) == [
        n for n in model.state_dict() if n.startswith(f"{architecture.heads[0]}.")
    ]
    assert sorted(p.shape for p in groups[-1].parameters.values())[0] == (CLASSES,)
    assert groups[-1].buffers == {}
    assert order.count(len(groups) - 1) == 1


@every_model
def test_blocks_nest_in_stages(name):
    _, model, blocks = build(name, "block")
    architecture = MODELS[name][0](granularity="stage")
    stages = layer_groups(model, architecture.layout)
    stage_of = {n: g.index for g in stages for n in g.parameters}
    assert all(len({stage_of[n] for n in block.parameters}) == 1 for block in blocks)


def small_net():
    """Four layers, two of them with equal values in all their tensors."""
    layers = OrderedDict(
        conv=nn.Conv2d(1, 2, 3), bn1=nn.BatchNorm2d(2), bn2=nn.BatchNorm2d(2), head=nn.Linear(2, 2)
    )
    return nn.Sequential(layers)


@given(st.lists(st.sets(st.integers(0, 2)), min_size=4, max_size=4))
def test_a_layout_that_misses_or_repeats_a_layer_is_refused(places):
    model = small_net()
    names = [name for name, _ in model.named_children()]
    layout = {
        f"group{index}": [n for n, p in zip(names, places, strict=True) if index in p]
        for index in range(3)
    }
    if all(len(place) == 1 for place in places):
        groups = layer_groups(model, layout)
        assert sum(len(g.parameters) for g in groups) == 8
    else:
        with pytest.raises(ValueError, match="group"):
            layer_groups(model, layout)


def test_messages_name_the_lost_the_repeated_and_the_unknown():
    model = small_net()
    with pytest.raises(ValueError, match=r"bn2\.weight"):
        layer_groups(model, {"body": ["conv", "bn1"], "head": ["head"]})
    with pytest.raises(ValueError, match=r"top.*body"):
        layer_groups(model, {"body": ["conv", "bn1", "bn2"], "top": ["bn2", "head"]})
    with pytest.raises(ValueError, match=r"'fc'.*head"):
        layer_groups(model, {"body": ["conv", "bn1", "bn2"], "head": ["fc"]})


def test_a_path_may_name_a_single_tensor():
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), head=nn.Linear(2, 2)))
    model.register_parameter("token", nn.Parameter(torch.zeros(2)))
    model.register_buffer("token_count", torch.zeros(()))
    groups = layer_groups(model, {"stem": ["token", "token_count", "conv"], "head": ["head"]})
    assert groups[0].modules == (model.conv,)
    assert list(groups[0].parameters) == ["token", "conv.weight", "conv.bias"]
    assert groups[0].parameters["token"] is model.token
    assert list(groups[0].buffers) == ["token_count"]
    with pytest.raises(ValueError, match="token_count"):
        layer_groups(model, {"stem": ["token", "conv"], "head": ["head"]})


def test_a_tensor_with_two_names_in_one_group_counts_once():
    model = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.Linear(2, 2), head=nn.Linear(2, 2)))
    model.b.weight = model.a.weight
    body, _ = layer_groups(model, {"body": ["a", "b"], "head": ["head"]})
    assert list(body.parameters) == ["a.weight", "a.bias", "b.bias"]


def test_a_name_that_starts_like_a_path_is_not_inside_it():
    model = nn.Sequential(OrderedDict(block=nn.Linear(2, 2), block2=nn.Linear(2, 2)))
    groups = layer_groups(model, {"first": ["block"], "second": ["block2"]})
    assert list(groups[0].parameters) == ["block.weight", "block.bias"]
    assert list(groups[1].parameters) == ["block2.weight", "block2.bias"]


def test_a_tensor_shared_by_two_groups_is_refused():
    model = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.Linear(2, 2)))
    model.b.weight = model.a.weight
    with pytest.raises(ValueError, match="too"):
        layer_groups(model, {"a": ["a"], "b": ["b"]})


def test_batch_norms_are_those_with_running_statistics():
    layers = [nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False), nn.LayerNorm(2)]
    model = nn.Sequential(nn.Sequential(*layers), nn.Linear(2, 2))
    body, head = layer_groups(model, {"body": ["0"], "head": ["1"]})
    assert list(body.batch_norms()) == [layers[0]]
    assert list(head.batch_norms()) == []


def test_table_counts_by_hand():
    architecture = small_cnn(widths=(2, 4))
    rows = table(layer_groups(architecture.build(3, 5, None), architecture.layout))
    # Convolution 3 * 2 * 9 and BatchNorm 2 + 2; mean 2, variance 2, counter 1. The head sees 2x2
    # places of 4 channels.
    assert rows == [
        {"group": "conv1", "parameters": 58, "buffers": 5},
        {"group": "conv2", "parameters": 2 * 4 * 9 + 8, "buffers": 9},
        {"group": "head", "parameters": 4 * 4 * 5 + 5, "buffers": 0},
    ]
