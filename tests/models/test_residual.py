"""Zero-gamma residual blocks: which norms are found, and that a block becomes its shortcut."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.residual import zero_gamma

X = torch.zeros(1, 3, 64, 64)


def found(model, x=X):
    """Return the layers that were found, after checking that nothing else has changed."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    torch.manual_seed(3)
    stream = torch.get_rng_state()
    names = zero_gamma(model, x)
    assert torch.equal(torch.get_rng_state(), stream)
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == flags
    for name, value in model.state_dict().items():
        assert torch.equal(value, torch.zeros_like(value) if name in names else before[name]), name
    assert all(module.training and not module._forward_hooks for module in model.modules())
    return [name.removesuffix(".weight") for name in names]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_norms_of_torchvisions_own_option(name):
    theirs = torchvision.models.get_model(name, zero_init_residual=True)
    expected = [
        path
        for path, module in theirs.named_modules()
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any()
    ]
    assert len(expected) == {"resnet18": 8, "resnet50": 16}[name]
    assert found(torchvision.models.get_model(name)) == expected


def test_a_start_at_zero_is_found_again():
    # Norms that are closed already let no gradient through.
    model = torchvision.models.resnet18(zero_init_residual=True)
    assert len(found(model)) == 8


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The blocks without a shortcut (another width, or half the size) are not among them.
        ("mobilenet_v2", [f"features.{i}.conv.3" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]),
        # With squeeze and excitation inside the branch.
        ("mobilenet_v3_small", [f"features.{i}.block.3.1" for i in (5, 6, 8, 10, 11)]),
        (
            "regnet_y_400mf",  # 1, 3, 6 and 6 blocks
            [
                f"trunk_output.block{stage}.block{stage}-{block}.f.c.1"
                for stage, blocks in ((1, 1), (2, 3), (3, 6), (4, 6))
                for block in range(blocks)
            ],
        ),
    ],
)
def test_torchvisions_other_residual_nets(name, expected):
    if name == "mobilenet_v3_small":
        expected = ["features.3.block.2.1", *expected]  # the one without excitation
    assert found(torchvision.models.get_model(name)) == expected


def test_shortcuts_without_parameters():
    expected = [f"layer{stage}.{block}.bn2" for stage in (1, 2, 3) for block in range(3)]
    model = cifar_resnet(depth=20).build(3, 10, None)
    assert found(model, torch.zeros(1, 3, 32, 32)) == expected


@pytest.mark.parametrize("name", ["resnet26", "seresnet50"])
def test_timms_resnets(name):
    blocks = {"resnet26": (2, 2, 2, 2), "seresnet50": (3, 4, 6, 3)}[name]
    expected = [f"layer{i}.{j}.bn3" for i, n in enumerate(blocks, start=1) for j in range(n)]
    assert found(timm.create_model(name, num_classes=2)) == expected


class TwoBranches(nn.Module):
    """Two residual branches one after the other, norms behind or before them."""

    def __init__(self, *, behind):
        super().__init__()
        self.behind = behind
        self.first = nn.Linear(8, 8)
        self.norm1 = nn.LayerNorm(8)
        self.second = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
        self.norm2 = nn.LayerNorm(8)

    def forward(self, x):
        if self.behind:
            x = x + self.norm1(self.first(x))
            return x + self.norm2(self.second(x))
        x = x + self.first(self.norm1(x))
        return x + self.second(self.norm2(x))


class Block(nn.Module):
    """A residual block that begins with an operation in place; three places for its norm."""

    def __init__(self, norm):
        super().__init__()
        self.place = norm
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.shortcut = nn.Linear(8, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        x = x.relu_()
        out = self.first(x)
        out = self.second(self.norm(out).relu() if self.place == "middle" else out.relu())
        out = self.norm(out) if self.place == "end" else out
        shortcut = self.shortcut(x)
        return out + (self.norm(shortcut) if self.place == "shortcut" else shortcut)


def test_a_norm_ends_the_branch():
    x = torch.zeros(1, 8)
    assert found(nn.Sequential(Block("end")), x) == ["0.norm"]
    # In the middle it would close the branch too, but behind a ReLU at 0 nothing could open it.
    for place in ("middle", "shortcut"):
        with pytest.raises(ConfigError, match="no residual block that ends in a norm"):
            zero_gamma(nn.Sequential(Block(place)), x)


def test_the_innermost_block_counts():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Block("end")
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x):
            return x + self.norm(self.inner(x))

    assert found(Outer(), torch.zeros(1, 8)) == ["inner.norm"]


def test_a_block_of_two_branches_has_two_norms():
    model = nn.Sequential(TwoBranches(behind=True), TwoBranches(behind=True))
    assert found(model, torch.zeros(1, 8)) == ["0.norm1", "0.norm2", "1.norm1", "1.norm2"]


class NormOfTheInput(nn.Module):
    """A sum without a weight that a norm could close."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return x + self.norm(x)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(NormOfTheInput, id="no weights"),
        pytest.param(lambda: TwoBranches(behind=False), id="pre-norm"),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)), id="chain"
        ),
        pytest.param(lambda: nn.Linear(8, 8), id="no norm"),
    ],
)
def test_a_model_without_such_blocks_is_refused(model):
    model = model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ConfigError,
        match=rf"init\.zero_gamma=true, but {type(model).__name__} has no residual block that ends",
    ):
        zero_gamma(model, torch.zeros(1, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Concatenated branches, and norms that come first.
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "densenet121", "squeezenet1_1"])
def test_torchvisions_nets_without_such_blocks_are_refused(name):
    with pytest.raises(ConfigError, match="no residual block that ends in a norm"):
        zero_gamma(torchvision.models.get_model(name), X)


def test_a_block_computes_its_shortcut_afterwards():
    model = torchvision.models.resnet18()
    zero_gamma(model, X)
    generator = torch.Generator().manual_seed(0)
    for training in (True, False):
        model.train(training)
        plain, strided = model.layer1[1], model.layer2[0]
        x = torch.randn(2, 64, 8, 8, generator=generator)
        assert torch.equal(plain(x), x.relu())
        assert torch.equal(strided(x), strided.downsample(x).relu())
