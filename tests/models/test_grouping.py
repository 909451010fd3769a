"""Layer groups from a forward pass: nets made for the purpose, and names known in advance."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from warmstart.errors import ConfigError
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.grouping import layout
from warmstart.models.layers import layer_groups
from warmstart.models.small import small_cnn
from warmstart.models.timm import timm_model
from warmstart.models.torchvision import torchvision_model
from warmstart.models.trace import trace


def conv(width: int = 3) -> nn.Conv2d:
    return nn.Conv2d(3, width, 3, padding=1)


class Residual(nn.Module):
    """A block of two convolutions."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(), nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm1(self.conv1(x)).relu())


def net(*layers: nn.Module) -> nn.Sequential:
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(OrderedDict(body=nn.Sequential(*layers, *tail), head=nn.Linear(3, 2)))


def cut_at(model, heads, *, size, granularity="stage"):
    """Cut the model by a pass of images of `size` pixels."""
    return layout(model, heads, trace(model, size=size), granularity=granularity)


def sets(cut):
    return {name: set(paths) for name, paths in cut.items()}


parts = st.recursive(
    st.sampled_from([conv, lambda: nn.BatchNorm2d(3), Residual, nn.ReLU]).map(lambda make: make()),
    lambda inner: st.lists(inner, min_size=1, max_size=4).map(lambda some: nn.Sequential(*some)),
    max_leaves=14,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(parts, min_size=1, max_size=5), st.sampled_from(["stage", "block"]))
def test_groups_of_any_tree_are_a_partition_in_order(layers, granularity):
    model = net(*layers)
    state = torch.random.get_rng_state()
    cut = cut_at(model, ["head"], size=8, granularity=granularity)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    groups = layer_groups(model, cut)
    found = Counter(id(t) for g in groups for t in (*g.parameters.values(), *g.buffers.values()))
    assert found == Counter(map(id, (*model.parameters(), *model.buffers())))
    # The pass runs through a chain in the order in which its parameters are defined.
    places = [
        g.index for name, _ in model.named_parameters() for g in groups if name in g.parameters
    ]
    assert places == sorted(places)
    assert list(groups[-1].parameters) == ["head.weight", "head.bias"]
    assert granularity == "block" or len(groups) <= 8
    # A block is never taken apart.
    for path, module in model.named_modules():
        if isinstance(module, Residual):
            assert sum(any(n.startswith(f"{path}.") for n in g.parameters) for g in groups) == 1


class Reordered(nn.Module):
    """Layers that run in another order than they are defined, and tensors that no layer owns."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.late, self.early = conv(), conv()
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))
        self.norm = nn.BatchNorm2d(3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.late(self.early(x + self.shift)))
        return self.head(x.mean((2, 3)))


def test_the_order_is_that_of_execution():
    # The parameter of the model itself, and the layer that never runs, go to the input.
    assert sets(cut_at(Reordered(), ["head"], size=8)) == {
        "early": {"early", "shift", "unused"},
        "late": {"late", "norm"},
        "head": {"head"},
    }


def test_norms_before_the_first_layer_join_it():
    cut = cut_at(net(nn.BatchNorm2d(3), conv(), conv()), ["head"], size=8)
    assert sets(cut) == {"body.1": {"body.0", "body.1"}, "body.2": {"body.2"}, "head": {"head"}}


def test_a_classifier_in_the_middle_of_a_container_is_alone():
    layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5), nn.LayerNorm(5)]
    model = nn.Sequential(*layers, nn.Linear(5, 2), nn.Softmax(1))
    assert sets(cut_at(model, ["4"], size=2)) == {"2": {"2", "3"}, "head": {"4"}}


def test_blocks_that_share_a_tensor_are_one_group():
    first, second, third, fourth = (conv() for _ in range(4))
    third.weight = first.weight
    cut = cut_at(net(first, second, third, fourth), ["head"], size=4)
    assert cut == {
        "body.0-2": ("body.0", "body.1", "body.2"),
        "body.3": ("body.3",),
        "head": ("head",),
    }


def test_stages_follow_the_resolution():
    blocks = [Residual(stride) for stride in (1, 1, 2, 1, 1, 2, 1, 1)]
    cut = cut_at(net(conv(), *blocks), ["head"], size=32)
    assert list(cut.items()) == [
        ("stem", ("body.0",)),
        ("body.1-2", ("body.1", "body.2")),
        ("body.3-5", ("body.3", "body.4", "body.5")),
        ("body.6-8", ("body.6", "body.7", "body.8")),
        ("head", ("head",)),
    ]


def test_one_resolution_is_cut_into_four_parts():
    cut = cut_at(net(conv(), *(Residual() for _ in range(10))), ["head"], size=8)
    assert list(cut) == ["stem", "body.1-3", "body.4-5", "body.6-8", "body.9-10", "head"]


def test_many_resolutions_are_merged_to_eight_groups():
    blocks = [Residual(stride) for _ in range(9) for stride in (2, 1)]
    cut = cut_at(net(conv(), *blocks), ["head"], size=512)
    assert len(cut) == 8
    assert next(iter(cut)) == "stem"
    sizes = [len(paths) for paths in list(cut.values())[1:-1]]
    assert sum(sizes) == 18
    assert max(sizes) <= 6


def resnet_blocks(*counts: int) -> list[str]:
    return [f"layer{i}.{j}" for i, n in enumerate(counts, start=1) for j in range(n)]


LAYERS = ["layer1", "layer2", "layer3", "layer4"]
VIT = ["stem", "blocks.0-2", "blocks.3-5", "blocks.6-8", "blocks.9-11", "head"]
ALEXNET = [f"features.{i}" for i in (0, 3, 6, 8, 10)] + ["classifier.1", "classifier.4", "head"]


@pytest.mark.parametrize(
    ("make", "keys", "names"),
    [
        (small_cnn, {}, ["conv1", "conv2", "conv3", "conv4", "head"]),
        (cifar_resnet, {}, ["stem", "layer1", "layer2", "layer3", "head"]),
        (
            cifar_resnet,
            {"granularity": "block"},
            ["stem", *resnet_blocks(3, 3, 3), "head"],
        ),
        (torchvision_model, {"name": "resnet18"}, ["stem", *LAYERS, "head"]),
        (
            torchvision_model,
            {"name": "resnet18", "granularity": "block"},
            ["stem", *resnet_blocks(2, 2, 2, 2), "head"],
        ),
        (torchvision_model, {"name": "alexnet"}, ALEXNET),
        (torchvision_model, {"name": "alexnet", "granularity": "block"}, ALEXNET),
        (
            torchvision_model,
            {"name": "convnext_tiny"},
            ["stem", "features.1", "features.2-3", "features.4-5", "features.6-7", "head"],
        ),
        (
            torchvision_model,
            {"name": "googlenet"},
            [
                "stem",
                "inception3a-inception3b",
                "inception4a-inception4e",
                "inception5a-inception5b",
                "head",
            ],
        ),
        (timm_model, {"name": "vit_tiny_patch16_224"}, VIT),
        (timm_model, {"name": "deit_tiny_distilled_patch16_224"}, VIT),
        (
            timm_model,
            {"name": "convnext_atto"},
            ["stem", "stages.0", "stages.1", "stages.2", "stages.3", "head"],
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_known_models_have_the_expected_groups(make, keys, names):
    assert list(make(**keys).layout) == names


def test_tensors_of_a_transformer_lie_where_they_are_used():
    distilled = timm_model(name="deit_tiny_distilled_patch16_224").layout
    assert set(distilled["stem"]) == {"patch_embed", "cls_token", "dist_token", "pos_embed"}
    assert distilled["head"] == ("head", "head_dist")
    # torchvision adds the positions in the encoder; the last norm belongs to the last block.
    vit = torchvision_model(name="vit_b_16").layout
    assert set(vit["stem"]) == {"class_token", "conv_proj", "encoder.pos_embedding"}
    assert "encoder.ln" in vit["encoder.layers.encoder_layer_9-11"]


def test_auxiliary_heads_join_what_runs_before_them():
    blocks = torchvision_model(name="googlenet", granularity="block").layout
    assert set(blocks["inception4a"]) == {"inception4a", "aux1"}
    assert set(blocks["inception4d"]) == {"inception4d", "aux2"}
    blocks = torchvision_model(name="inception_v3", granularity="block").layout
    assert set(blocks["Mixed_6e"]) == {"Mixed_6e", "AuxLogits"}


@pytest.mark.parametrize("granularity", ["blocks", "", 3, None])
def test_an_unknown_granularity_is_refused(granularity):
    message = rf"model\.granularity is {re.escape(repr(granularity))}, .* block, stage"
    with pytest.raises(ConfigError, match=message):
        cut_at(net(conv()), ["head"], size=8, granularity=granularity)
