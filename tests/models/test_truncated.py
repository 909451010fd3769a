"""Architectures cut off behind a layer group."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from warmstart.errors import ConfigError
from warmstart.models.activations import same_modes
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.cuts import activations, group_cut
from warmstart.models.layers import layer_groups
from warmstart.models.pooling import pooled
from warmstart.models.small import small_cnn
from warmstart.models.timm import timm_model
from warmstart.models.torchvision import torchvision_model
from warmstart.models.truncated import truncated

SIZES = {"vit_tiny_patch16_224": 224, "googlenet": 64}


def built(architecture, size=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return architecture.build(3, 4, size or SIZES.get(architecture.name, 32))


@pytest.mark.parametrize(
    "architecture",
    [
        small_cnn(),
        cifar_resnet(depth=8, granularity="block"),
        torchvision_model(name="mobilenet_v2"),
        torchvision_model(name="googlenet"),
        timm_model(name="vit_tiny_patch16_224"),
    ],
    ids=lambda a: a.name,
)
def test_the_body_is_that_of_the_whole(architecture):
    whole, size = built(architecture), SIZES.get(architecture.name, 32)
    groups, x = layer_groups(whole, architecture.layout), torch.randn(2, 3, size, size)
    last = len(groups) - 2
    for index in range(last + 1) if last < 4 else (0, last // 2, last):
        short = truncated(architecture, index, None)
        model = built(short)
        own = layer_groups(model, short.layout)  # which checks the partition
        assert [group.name for group in own] == [*list(architecture.layout)[: index + 1], "head"]
        (head,) = short.heads
        body = {n: t for n, t in model.state_dict().items() if not n.startswith(f"{head}.")}
        assert all(torch.equal(whole.state_dict()[name], t) for name, t in body.items())
        assert f"{head}.weight" not in whole.state_dict()
        with same_modes(whole), torch.no_grad():
            wanted = activations(whole.eval(), group_cut(whole, groups, index, x), x)
            wanted = model.get_submodule(head)(pooled(wanted, None))
            assert torch.equal(model.eval()(x), wanted)
        model.train()(x).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_modes_devices_and_copies_reach_the_whole_body():
    short = truncated(cifar_resnet(depth=8), "layer1", None)
    model = built(short)
    twin = copy.deepcopy(model).double()
    x = torch.randn(2, 3, 32, 32)
    assert twin(x.double()).dtype == torch.float64
    assert model(x).dtype == torch.float32
    assert not any(module.training for module in model.eval().modules())
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin.eval()(x.double()).float(), model(x))
    assert short.gone == ("layer2", "layer3", "linear")


@pytest.mark.parametrize(
    ("architecture", "group", "pool", "width"),
    [
        (cifar_resnet(depth=8), "layer1", None, 16),
        (cifar_resnet(depth=8), 1, "gap", 16),
        (cifar_resnet(depth=8), "layer1", "flatten", 16 * 32 * 32),
        (cifar_resnet(depth=8), "layer3", None, 64),  # pooled by the model
        (timm_model(name="vit_tiny_patch16_224"), "blocks.0-2", "cls", 192),
        (timm_model(name="vit_tiny_patch16_224"), "blocks.0-2", "flatten", 197 * 192),
        (torchvision_model(name="swin_t"), "features.1", None, 96),  # with channels last
    ],
)
def test_the_width_of_the_head(architecture, group, pool, width):
    model = built(truncated(architecture, group, pool))
    head = model.get_submodule(truncated(architecture, group, pool).heads[0])
    assert (head.in_features, head.out_features) == (width, 4)


@pytest.mark.parametrize(
    ("group", "hint"),
    [("layr1", "; did you mean 'layer1'?"), ("head", ""), (4, ""), (-1, ""), (True, ""), (1.0, "")],
)
def test_a_group_that_is_none(group, hint):
    sentence = (
        f"group is {group!r}, but must be the name or the index of one of the model's layer groups "
        f"below the head: 0 stem, 1 layer1, 2 layer2, 3 layer3{hint}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        truncated(cifar_resnet(depth=8), group, None)


def test_a_pooling_that_cannot_be():
    with pytest.raises(ConfigError, match=r"^features\.pool is 'max', but must be one of cls"):
        truncated(cifar_resnet(depth=8), 1, "max")
    with pytest.raises(ConfigError, match=r"'cls'.*group layer1.*\[16, 32, 32\], has no tokens"):
        built(truncated(cifar_resnet(depth=8), 1, "cls"))
    with pytest.raises(ConfigError, match=r"'gap'.*\[64\], has no positions; .*pool=null$"):
        built(truncated(cifar_resnet(depth=8), 3, "gap"))


def test_the_whole_models_random_numbers_are_left():
    architecture = cifar_resnet(depth=8)
    states = []
    for one in (architecture, truncated(architecture, 1, None)):
        torch.manual_seed(0)
        one.build(3, 4, 32)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
