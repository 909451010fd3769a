"""The architectures: sizes, shapes, what they expect of images, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import MobileNet_V2_Weights, ResNet18_Weights

from warmstart.errors import ConfigError
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.small import small_cnn
from warmstart.models.torchvision import torchvision_model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_small_cnn_is_small():
    # 3x3 convolutions without bias, BatchNorm with weight and bias, a linear head.
    body = sum(9 * a * b + 2 * b for a, b in [(1, 16), (16, 32), (32, 48), (48, 64)])
    assert count(small_cnn().build(1, 10, None)) == body + 4 * 64 * 10 + 10
    # The source task: upper and lower case letters.
    assert count(small_cnn().build(1, 52, None)) <= 60_000


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (56, 853_018)])
def test_cifar_resnets_have_the_known_sizes(depth, parameters):
    architecture = cifar_resnet(depth=depth)
    assert architecture.name == f"resnet{depth}"
    assert count(architecture.build(3, 10, None)) == parameters


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18", 11_689_512), ("mobilenet_v2", 3_504_872)]
)
def test_torchvision_models_have_the_known_sizes(name, parameters):
    assert count(torchvision_model(name=name).build(3, 1000, None)) == parameters


@pytest.mark.parametrize("classes", [2, 11])
@pytest.mark.parametrize(
    "architecture",
    [
        small_cnn(),
        cifar_resnet(depth=8),
        torchvision_model(name="resnet18"),
        torchvision_model(name="mobilenet_v2"),
    ],
    ids=lambda architecture: architecture.name,
)
def test_logits_have_one_column_per_class(architecture, classes):
    model = architecture.build(3, classes, None).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, classes)
    head = [n for n in model.state_dict() if n.startswith(f"{architecture.heads[0]}.")]
    assert [model.state_dict()[n].shape[0] for n in head] == [classes, classes]


def test_gray_images_go_into_the_small_nets():
    for architecture in (small_cnn(), cifar_resnet(depth=8)):
        model = architecture.build(1, 4, None).eval()
        with torch.no_grad():
            assert model(torch.rand(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "published"), [("resnet18", ResNet18_Weights), ("mobilenet_v2", MobileNet_V2_Weights)]
)
def test_the_input_is_that_of_the_published_weights(name, published):
    wanted = torchvision_model(name=name).input
    transforms = published.DEFAULT.transforms()
    assert wanted.size == 224 == transforms.crop_size[0]
    assert wanted.channels == 3
    assert wanted.mean == tuple(transforms.mean) == (0.485, 0.456, 0.406)
    assert wanted.std == tuple(transforms.std) == (0.229, 0.224, 0.225)


def test_small_images_have_their_own_input():
    assert small_cnn().input is None
    assert cifar_resnet().input.size == 32


def test_shortcuts_take_every_second_pixel_and_centre_the_channels():
    block = cifar_resnet(depth=8).build(3, 10, None).layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)  # what is left is the shortcut
    x = torch.rand(1, 16, 4, 4)
    with torch.no_grad():
        y = block(x)
    assert y.shape == (1, 32, 2, 2)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


@pytest.mark.parametrize("depth", [0, 2, 18, 21, -4, "20", 20.0])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ConfigError, match=r"model\.depth.*6n \+ 2.*20") as error:
        cifar_resnet(depth=depth)
    assert repr(depth) in str(error.value)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"model\.name.*'resnet19'.*mobilenet_v2.*'resnet18'"):
        torchvision_model(name="resnet19")


@pytest.mark.parametrize(
    "make", [small_cnn, cifar_resnet, lambda **keys: torchvision_model(name="resnet18", **keys)]
)
def test_an_unknown_granularity_is_refused_with_the_nearest(make):
    with pytest.raises(ConfigError, match=r"model\.granularity.*'blocks'.*stage.*mean 'block'"):
        make(granularity="blocks")
