"""Fully convolutional AlexNet and VGG: the same numbers, and a map of scores on larger images."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision import models

from warmstart.errors import ConfigError
from warmstart.models.convolutional import fully_convolutional
from warmstart.models.layers import layer_groups
from warmstart.models.skeleton import skeleton
from warmstart.models.torchvision import torchvision_model

VGGS = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]


def images(size: int, *, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def alexnets() -> tuple[nn.Module, nn.Module]:
    """Return an ordinary AlexNet and the convolutional one of the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        ordinary = models.alexnet(weights=None, num_classes=7).eval()
    return ordinary, fully_convolutional(copy.deepcopy(ordinary))


def test_alexnet_gives_equal_outputs_at_its_native_size(alexnets):
    ordinary, convolutional = alexnets
    x = images(224, count=2)
    with torch.no_grad():
        logits = ordinary(x)
        assert logits.std() > 1e-3  # not all zero
        torch.testing.assert_close(convolutional(x), logits, rtol=1e-4, atol=1e-6)
        assert convolutional.score_map(x).shape == (2, 7, 1, 1)


def test_vgg_with_batch_norm_gives_equal_outputs_at_its_native_size():
    with torch.device("meta"):
        model = models.vgg11_bn(weights=None, num_classes=7).eval()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model.features = model.features.to_empty(device="cpu")
        for layer in model.features:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        # Narrower than the real one, which takes half a gigabyte.
        for index, width, out in [(0, 512 * 49, 64), (3, 64, 64), (6, 64, 7)]:
            model.classifier[index] = nn.Linear(width, out).eval()
    x = images(224)
    with torch.no_grad():
        logits = model(x)
        again = fully_convolutional(model)(x)
    assert logits.std() > 1e-3
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-6)


def test_each_score_is_the_ordinary_net_on_its_window_of_features(alexnets):
    """The padding at a crop's border is zero, its neighbours in the image are not."""
    ordinary, convolutional = alexnets
    x = images(288)
    with torch.no_grad():
        scores = convolutional.score_map(x)
        assert scores.shape == (1, 7, 3, 3)
        features = ordinary.features(x)
        for i, j in [(0, 0), (0, 2), (1, 1), (2, 1)]:
            window = features[:, :, i : i + 6, j : j + 6].flatten(1)
            wanted = ordinary.classifier(window)
            torch.testing.assert_close(scores[:, :, i, j], wanted, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(convolutional(x), scores.flatten(2).mean(2))


def test_without_padding_each_score_is_the_ordinary_net_on_a_crop_of_the_image(alexnets):
    ordinary, convolutional = copy.deepcopy(alexnets)
    for model in (ordinary, convolutional):
        for layer in model.features:
            if isinstance(layer, nn.Conv2d):
                layer.padding = (0, 0)
    # Backwards from 6 positions: pool 13, three 3x3 19, pool 39, 5x5 43, pool 87, 11x11/4 355.
    x = images(355 + 32)
    with torch.no_grad():
        scores = convolutional.score_map(x)
        assert scores.shape == (1, 7, 2, 2)
        for i, j in [(0, 0), (0, 1), (1, 1)]:
            crop = x[:, :, 32 * i : 32 * i + 355, 32 * j : 32 * j + 355]
            torch.testing.assert_close(scores[:, :, i, j], ordinary(crop), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["alexnet", *VGGS])
def test_names_stay_and_shapes_are_those_of_convolutions(name):
    with torch.device("meta"):
        model = models.get_model(name, weights=None, num_classes=7)
        before = {key: value.shape for key, value in model.state_dict().items()}
        layers = {path: type(module) for path, module in model.classifier.named_modules()}
        convolutional = fully_convolutional(model)
        state = convolutional.state_dict()
        assert list(state) == list(before)
        k, channels = (6, 256) if name == "alexnet" else (7, 512)
        shapes = {(4096, channels * k * k): (4096, channels, k, k)}
        shapes |= {(out, 4096): (out, 4096, 1, 1) for out in (4096, 7)}
        assert [tuple(state[key].shape) for key in before] == [
            shapes.get(tuple(shape), tuple(shape)) for shape in before.values()
        ]
        # Dropout and ReLU stay where they were.
        after = {path: type(module) for path, module in convolutional.classifier.named_modules()}
        assert after == {p: nn.Conv2d if t is nn.Linear else t for p, t in layers.items()}
        assert convolutional.eval()(torch.empty(2, 3, 288, 320)).shape == (2, 7)
        assert convolutional.score_map(torch.empty(2, 3, 288, 320)).shape == (2, 7, 3, 4)


def test_the_caller_s_random_numbers_and_the_modes_are_left_alone(alexnets):
    model = copy.deepcopy(alexnets[0]).train()
    model.classifier[1].requires_grad_(False)
    memory = model.classifier[1].weight.data_ptr()
    state = torch.get_rng_state()
    convolutional = fully_convolutional(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in convolutional.modules())
    assert [p.requires_grad for p in convolutional.classifier[1].parameters()] == [False, False]
    assert all(p.requires_grad for p in convolutional.classifier[4].parameters())
    assert convolutional.classifier[1].weight.data_ptr() == memory


def test_it_trains_with_the_gradients_of_the_ordinary_net(alexnets):
    # The factor keeps tiny gradients of fresh weights away from rounding.
    gradients = []
    for model in alexnets:
        model.zero_grad()
        (model(images(224))[:, 3].sum() * 100).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        again = gradients[1][name].view_as(gradient)
        torch.testing.assert_close(again, gradient, rtol=1e-3, atol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients[0].values())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("size", "positions"), [(222, "5 x 5"), (64, "1 x 1")])
def test_images_below_the_native_size_are_refused(alexnets, device, size, positions):
    convolutional = alexnets[1]
    if device == "meta":
        with torch.device("meta"):
            convolutional = fully_convolutional(models.alexnet(weights=None)).eval()
    with pytest.raises(ConfigError, match=rf"images of {size} x {size} pixels give {positions}.*6"):
        convolutional(torch.zeros(1, 3, size, size, device=device))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "mobilenet_v2"])
def test_other_models_are_refused_by_their_class(name):
    with torch.device("meta"):
        model = models.get_model(name, weights=None)
    with pytest.raises(ConfigError, match=rf"is a {type(model).__name__}; .*AlexNet and VGG"):
        fully_convolutional(model)


@pytest.mark.parametrize("name", ["alexnet", "vgg13_bn"])
def test_the_architecture_has_the_layer_groups_of_the_ordinary_one(name):
    ordinary = torchvision_model(name=name)
    convolutional = torchvision_model(name=name, fully_convolutional=True)
    sizes = []
    for architecture in (ordinary, convolutional):
        model = skeleton(lambda build=architecture.build: build(3, 7, 288))
        groups = layer_groups(model, architecture.layout)
        sizes.append({g.name: {n: p.numel() for n, p in g.parameters.items()} for g in groups})
    assert sizes[0] == sizes[1]
    assert convolutional.heads == ("classifier.6",)


def test_the_architecture_refuses_images_below_the_native_size():
    architecture = torchvision_model(name="alexnet", fully_convolutional=True)
    with pytest.raises(ConfigError, match=r"200 .*5 x 5 positions.*needs 6 x 6.*224"):
        architecture.build(3, 7, 200)
