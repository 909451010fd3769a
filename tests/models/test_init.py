"""Weights before step 0: schemes, independence of layers, and what a load reports or refuses."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.init import Pretrained, Scratch, initialize, load
from warmstart.models.small import small_cnn
from warmstart.models.torchvision import torchvision_model


def fresh(architecture, *, classes=10, channels=3, scheme="kaiming", seed=0):
    model = architecture.build(channels, classes, None)
    initialize(model, scheme=scheme, seed=seed)
    return model


def equal(first, second, *, but=()):
    return [
        name
        for name, tensor in first.state_dict().items()
        if name not in but and torch.equal(tensor, second.state_dict()[name])
    ]


@pytest.mark.parametrize("scheme", ["default", "kaiming", "xavier"])
def test_the_same_seed_gives_the_same_weights(scheme):
    first, again = (fresh(small_cnn(), scheme=scheme) for _ in range(2))
    assert equal(first, again) == list(first.state_dict())
    other = fresh(small_cnn(), scheme=scheme, seed=1)
    for name, tensor in first.named_parameters():
        if tensor.ndim > 1:
            assert not torch.equal(tensor, other.get_parameter(name)), name


def test_a_layer_does_not_depend_on_the_head():
    narrow, wide = fresh(small_cnn(), classes=2), fresh(small_cnn(), classes=100)
    head = ("head.weight", "head.bias")
    body = [name for name in narrow.state_dict() if name not in head]
    assert equal(narrow, wide, but=head) == body


def test_a_layer_does_not_depend_on_the_layers_before_it():
    def net(**extra):
        layers = OrderedDict(extra, last=nn.Linear(8, 8))
        model = nn.Sequential(layers)
        initialize(model, scheme="kaiming", seed=3)
        return model

    assert torch.equal(net().last.weight, net(first=nn.Linear(8, 8)).last.weight)


def test_layers_of_one_shape_differ():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    initialize(model, scheme="kaiming", seed=0)
    assert not torch.equal(model[0].weight, model[1].weight)


def test_the_random_stream_of_the_caller_is_left_alone():
    model = small_cnn().build(3, 10, None)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    initialize(model, scheme="kaiming", seed=0)
    assert torch.equal(torch.rand(3), expected)


def layers_of(scheme):
    model = nn.Sequential(nn.Conv2d(32, 64, 5), nn.BatchNorm2d(64), nn.Linear(200, 300))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    initialize(model, scheme=scheme, seed=0)
    return model


def close_to(parameter, variance):
    tensor = parameter.detach()
    # 51,200 and 60,000 numbers: the variance of either is known to about 1 %.
    assert float(tensor.mean()) == pytest.approx(0, abs=0.02 * math.sqrt(variance))
    assert float(tensor.var()) == pytest.approx(variance, rel=0.04)


def test_kaiming_by_hand():
    conv, norm, linear = layers_of("kaiming")
    close_to(conv.weight, 2 / (5 * 5 * 64))
    close_to(linear.weight, 1 / 200)
    # Normal, not uniform: a normal's fourth moment is 3 variances squared, a uniform's 1.8.
    assert float(
        (conv.weight.detach() ** 4).mean() / conv.weight.detach().var() ** 2
    ) == pytest.approx(3, rel=0.1)
    assert not conv.bias.any()
    assert not linear.bias.any()
    assert bool((norm.weight == 1).all())
    assert not norm.bias.any()


def test_xavier_by_hand():
    conv, _, linear = layers_of("xavier")
    for layer, fans in ((conv, 25 * (32 + 64)), (linear, 200 + 300)):
        bound = math.sqrt(6 / fans)
        assert 0.999 * bound < layer.weight.abs().max().item() <= bound
        close_to(layer.weight, bound**2 / 3)
        assert not layer.bias.any()


def test_default_is_torchs_own():
    conv, _, linear = layers_of("default")
    for layer, fan_in in ((conv, 25 * 32), (linear, 200)):
        bound = 1 / math.sqrt(fan_in)
        for tensor in (layer.weight, layer.bias):
            assert 0.9 * bound < tensor.abs().max().item() <= bound


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"init\.scheme.*'kaimin'.*xavier.*mean 'kaiming'"):
        Scratch(scheme="kaimin")
    with pytest.raises(ConfigError, match=r"init\.head.*'frsh'.*copy.*mean 'fresh'"):
        Pretrained(head="frsh")


def test_a_layer_nobody_initializes_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.empty(3))

    model = nn.Sequential(OrderedDict(first=nn.Linear(2, 2), strange=Odd()))
    with pytest.raises(ConfigError, match=r"strange.*Odd"):
        initialize(model, scheme="kaiming", seed=0)


HEAD = ("head.weight", "head.bias")


def pair():
    """Return two small nets of equal shape and different weights."""
    return fresh(small_cnn(), seed=1), fresh(small_cnn(), seed=2)


def put(model, state, *, keep_head=False, head="head"):
    return load(model, state, head=head, keep_head=keep_head, origin="theirs.pt")


def test_a_load_replaces_all_but_the_head():
    model, source = pair()
    head = [model.get_parameter(name).clone() for name in HEAD]
    report = put(model, source.state_dict())

    assert report.fresh == dict.fromkeys(HEAD, "head")
    assert set(report.matched) == set(model.state_dict()) - set(HEAD)
    assert report.unused == ()
    assert set(equal(model, source, but=HEAD)) == set(report.matched)
    assert torch.equal(model.head.weight, head[0])
    assert torch.equal(model.head.bias, head[1])


def test_a_load_takes_buffers_too():
    model, source = pair()
    source.conv2[1].running_mean.fill_(0.25)
    source.conv2[1].num_batches_tracked.fill_(9)
    put(model, source.state_dict())
    assert model.conv2[1].running_mean.unique().tolist() == [0.25]
    assert int(model.conv2[1].num_batches_tracked) == 9


def test_head_copy_takes_everything():
    model, source = pair()
    report = put(model, source.state_dict(), keep_head=True)
    assert report.fresh == {}
    assert equal(model, source) == list(source.state_dict())


def test_the_report_names_shapes_absent_and_unused_tensors():
    model = fresh(small_cnn(), channels=1)
    untouched = model.conv1[0].weight.clone()
    state = fresh(small_cnn(), channels=3).state_dict()
    del state["conv3.1.bias"]
    state["extra.weight"] = torch.zeros(2)
    report = put(model, state)

    assert report.fresh["conv1.0.weight"] == "16x3x3x3 in the file, 16x1x3x3 in the model"
    assert report.fresh["conv3.1.bias"] == "not in the file"
    assert report.unused == ("extra.weight",)
    assert torch.equal(model.conv1[0].weight, untouched)
    text = str(report)
    for part in (
        f"{len(report.matched)} tensors loaded",
        "conv3.1.bias",
        "16x3x3x3",
        "extra.weight",
    ):
        assert part in text
    assert report.as_dict() == {
        "matched": len(report.matched),
        "fresh": report.fresh,
        "unused": ["extra.weight"],
    }


def test_files_without_the_batch_counter_are_complete():
    model, source = pair()
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    assert put(model, state, keep_head=True).fresh == {}


@pytest.mark.parametrize(
    ("own", "foreign"),
    [
        (cifar_resnet(depth=20), cifar_resnet(depth=56)),
        (cifar_resnet(depth=56), cifar_resnet(depth=20)),
        (torchvision_model(name="resnet18"), torchvision_model(name="mobilenet_v2")),
        (torchvision_model(name="mobilenet_v2"), torchvision_model(name="resnet18")),
        (cifar_resnet(depth=20), torchvision_model(name="resnet18")),
    ],
    ids=lambda architecture: architecture.name,
)
def test_weights_of_another_architecture_are_refused(own, foreign):
    model, state = own.build(3, 10, None), foreign.build(3, 10, None).state_dict()
    with pytest.raises(
        ConfigError, match=r"theirs\.pt.*another architecture.*other weights"
    ) as error:
        put(model, state, head=own.heads[0])
    # One example that does not fit, by its name.
    example = str(error.value).split("e.g. ")[1].split(" (")[0]
    assert (example in state) != (example in model.state_dict()) or (
        state[example].shape != model.state_dict()[example].shape
    )


def test_nothing_matched_is_refused():
    for state in ({}, {"other.weight": torch.zeros(3)}):
        with pytest.raises(ConfigError, match="fits 0 of the model's"):
            put(fresh(small_cnn()), state)


def test_a_head_alone_is_not_enough():
    model, source = pair()
    with pytest.raises(ConfigError, match="fits 0"):
        put(model, {name: source.state_dict()[name] for name in HEAD}, keep_head=True)


@pytest.mark.parametrize("fits", [(), ("head.bias",)])
def test_head_copy_refuses_a_head_that_does_not_fit_whole(fits):
    model = fresh(small_cnn(), classes=10)
    state = fresh(small_cnn(), classes=12).state_dict()
    state.update({name: torch.zeros(10) for name in fits})
    with pytest.raises(ConfigError, match=r"init\.head=copy.*theirs\.pt.*init\.head=fresh"):
        put(model, state, keep_head=True)
