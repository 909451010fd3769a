"""Weights from scratch: each scheme by hand, independence of layers, what is kept."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.schemes import SCHEMES, check_scheme, initialize
from warmstart.models.small import small_cnn
from warmstart.randomness import derive


def draw(model, *, scheme="kaiming_normal", fan=None, seed=0, heads=("head",)):
    """Initialize `model` and return its tensors by name."""
    initialize(model, scheme=scheme, fan=fan, seed=seed, heads=heads)
    return model.state_dict()


def small(classes=10):
    torch.manual_seed(1)  # the constructor's own draws, which `default` keeps
    return small_cnn().build(3, classes, None)


def big():
    """Layers of enough numbers to measure a variance; a head and a layer of its shape."""
    layers = OrderedDict(
        conv=nn.Conv2d(32, 64, 5),
        norm=nn.BatchNorm2d(64),
        hidden=nn.Linear(200, 300),
        head=nn.Linear(200, 300),
    )
    model = nn.Sequential(layers)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(7)
    return model


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_seed_gives_the_same_weights(scheme):
    first, again = (draw(small(), scheme=scheme) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = draw(small(), scheme=scheme, seed=1)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    if scheme == "default":
        assert changed == {"head.weight", "head.bias"}
    else:
        assert changed == {name for name in first if first[name].ndim > 1}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_does_not_depend_on_the_head(scheme):
    narrow, wide = (draw(small(classes), scheme=scheme) for classes in (2, 100))
    for name in narrow:
        assert name.startswith("head") or torch.equal(narrow[name], wide[name]), name


@pytest.mark.parametrize("scheme", sorted({*SCHEMES} - {"default"}))
def test_a_layer_does_not_depend_on_the_layers_before_it(scheme):
    def last(**extra):
        return draw(nn.Sequential(OrderedDict(extra, last=nn.Linear(8, 8))), scheme=scheme)

    assert torch.equal(last()["last.weight"], last(first=nn.Linear(8, 8))["last.weight"])


def test_layers_of_one_shape_differ():
    state = draw(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    assert not torch.equal(state["0.weight"], state["1.weight"])


@pytest.mark.parametrize("scheme", ["default", "kaiming_normal"])
def test_the_random_stream_of_the_caller_is_left_alone(scheme):
    model = small()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draw(model, scheme=scheme)
    assert torch.equal(torch.rand(3), expected)


def torchs_own(name, shape, fill, *, seed):
    """Return what `fill` makes of a weight under the seed of the layer `name`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init", name))
        return fill(torch.empty(shape))


@pytest.mark.parametrize(
    ("architecture", "head"), [(small_cnn(), "head"), (cifar_resnet(depth=20), "linear")]
)
def test_numbers_are_those_of_torchs_functions(architecture, head):
    """Records of finished runs stay valid only as long as these numbers do not move."""
    for scheme, of_conv, of_head in (
        (
            "kaiming_normal",
            lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
            lambda w: nn.init.normal_(w, std=1 / math.sqrt(w.shape[1])),
        ),
        ("xavier_uniform", nn.init.xavier_uniform_, nn.init.xavier_uniform_),
    ):
        state = draw(architecture.build(3, 10, None), scheme=scheme, seed=3, heads=[head])
        weights = {name: value for name, value in state.items() if value.ndim > 1}
        assert len(weights) > 4
        for name, value in weights.items():
            layer = name.removesuffix(".weight")
            fill = of_head if layer == head else of_conv
            assert torch.equal(value, torchs_own(layer, value.shape, fill, seed=3)), name


CONV_IN, CONV_OUT, LINEAR_IN, LINEAR_OUT = 25 * 32, 25 * 64, 200, 300


@pytest.mark.parametrize(
    ("scheme", "fan", "conv", "hidden", "head"),
    [
        ("kaiming", None, 2 / CONV_OUT, 2 / LINEAR_IN, 1 / LINEAR_IN),
        ("kaiming", "out", 2 / CONV_OUT, 2 / LINEAR_OUT, 1 / LINEAR_IN),
        ("kaiming", "in", 2 / CONV_IN, 2 / LINEAR_IN, 1 / LINEAR_IN),
        ("xavier", None, 2 / (CONV_IN + CONV_OUT), *[2 / (LINEAR_IN + LINEAR_OUT)] * 2),
        ("lecun", None, 1 / CONV_IN, 1 / LINEAR_IN, 1 / LINEAR_IN),
    ],
)
@pytest.mark.parametrize("shape", ["normal", "uniform"])
def test_variances_by_hand(scheme, fan, shape, conv, hidden, head):
    state = draw(big(), scheme=f"{scheme}_{shape}", fan=fan)
    for name, variance in (("conv", conv), ("hidden", hidden), ("head", head)):
        weight = state[f"{name}.weight"].double()
        # 51,200 and 60,000 numbers: the variance of either is known to about 1 %.
        assert float(weight.mean()) == pytest.approx(0, abs=0.02 * math.sqrt(variance))
        assert float(weight.var()) == pytest.approx(variance, rel=0.04)
        # The largest of so many numbers: sqrt(3) deviations if uniform, over 3.5 if normal.
        largest = float(weight.abs().max()) / math.sqrt(variance)
        assert (0.999 * math.sqrt(3) < largest < 1.001 * math.sqrt(3)) == (shape == "uniform")
        assert not state[f"{name}.bias"].any()


@pytest.mark.parametrize("scheme", sorted({*SCHEMES} - {"default"}))
def test_norms_start_afresh(scheme):
    state = draw(big(), scheme=scheme)
    expected = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
    for name, value in (expected | {"num_batches_tracked": 0}).items():
        assert bool((state[f"norm.{name}"] == value).all()), name


def test_orthogonal_by_hand():
    state = draw(big(), scheme="orthogonal")
    for name, squared in (("conv", 2), ("hidden", 2), ("head", 1)):
        matrix = state[f"{name}.weight"].flatten(1)
        rows, columns = matrix.shape
        product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
        assert torch.allclose(product, squared * torch.eye(min(rows, columns)), atol=1e-5)
        assert not state[f"{name}.bias"].any()


def test_the_groups_of_a_convolution_are_orthogonal_by_themselves():
    model = nn.Sequential(nn.Conv2d(40, 40, 3, groups=40), nn.Conv2d(8, 4, 1, groups=2))
    state = draw(model, scheme="orthogonal")
    norms = state["0.weight"].flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.full((40,), math.sqrt(2)))
    for part in state["1.weight"].flatten(1).chunk(2):
        assert torch.allclose(part @ part.T, 2 * torch.eye(2), atol=1e-6)


def test_default_draws_the_heads_alone_by_torchs_own_rule():
    model = big()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = draw(model, scheme="default")
    for name, value in state.items():
        assert torch.equal(value, before[name]) != name.startswith("head"), name
    for name in ("head.weight", "head.bias"):
        bound = 1 / math.sqrt(200)
        assert 0.9 * bound < state[name].abs().max().item() <= bound


def test_a_head_of_several_layers_and_auxiliary_heads_have_gain_one():
    def mlp():
        return nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 200))

    model = nn.ModuleDict({"body": mlp(), "head": mlp(), "aux": mlp(), "header": mlp()})
    state = draw(model, heads=["head", "aux"])
    for name, gain in (("body", 2), ("header", 2), ("head", 1), ("aux", 1)):
        for layer in (0, 2):
            variance = float(state[f"{name}.{layer}.weight"].var())
            assert variance == pytest.approx(gain / 300, rel=0.05), name


@pytest.mark.parametrize("values", [64, 48])
def test_attention_is_drawn_as_three_matrices(values):
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(64, 4, vdim=values)})
    state = draw(model, scheme="orthogonal")
    if values == 64:
        query, key, value = state["attention.in_proj_weight"].chunk(3)
    else:
        query, key, value = (state[f"attention.{n}_proj_weight"] for n in "qkv")
    for matrix in (query, key, value, state["attention.out_proj.weight"]):
        product = matrix.T @ matrix
        assert torch.allclose(product, 2 * torch.eye(len(product)), atol=1e-5)
    assert not torch.equal(query, key)
    assert not state["attention.in_proj_bias"].any()
    assert not state["attention.out_proj.bias"].any()


class Tokens(nn.Module):
    """Tensors that are no layer's weight."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.full((1, 4, 8), 0.02))
        self.scale = nn.Parameter(torch.full((8,), 1e-6))


def test_other_parameters_keep_the_constructors_values():
    state = draw(nn.Sequential(OrderedDict(tokens=Tokens(), head=nn.Linear(8, 2))))
    assert state["tokens.position"].unique().tolist() == pytest.approx([0.02])
    assert state["tokens.scale"].unique().tolist() == pytest.approx([1e-6])


@pytest.mark.parametrize("name", ["nf_resnet26", "convnext_atto"])
def test_timms_layers_go_through(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=3)
    fills = {n: torch.full_like(p, 0.1, device="cpu") for n, p in model.named_parameters()}
    model.load_state_dict(fills, strict=False, assign=True)
    state = draw(model, heads=["head.fc"])
    layers = [
        name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    assert len(layers) > 10
    assert all(len(state[f"{layer}.weight"].unique()) > 2 for layer in layers)


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"init\.scheme.*'kaimin'.*xavier_normal"):
        check_scheme("kaimin", None)
    with pytest.raises(ConfigError, match=r"init\.fan.*'inn'.*one of in, out.*mean 'in'"):
        check_scheme("kaiming_normal", "inn")
    for scheme in ("default", "xavier_normal", "lecun_uniform", "orthogonal"):
        with pytest.raises(
            ConfigError, match=rf"init\.fan=in has no effect under init\.scheme={scheme}.*kaiming"
        ):
            draw(small(), scheme=scheme, fan="in")


def test_a_computed_weight_is_refused():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    model = nn.Sequential(OrderedDict(body=layer, head=nn.Linear(4, 2)))
    with pytest.raises(ConfigError, match=r"the layer body, which is computed.*scheme=default"):
        draw(model)
    draw(model, scheme="default")
