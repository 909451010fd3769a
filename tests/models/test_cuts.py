"""Models cut in two: where, and that the tail does what the model does."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from warmstart.callbacks.phases import PhaseSchedule
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.cuts import Cut, NoCut, Tail, activations, frozen_cut, group_cut
from warmstart.models.layers import layer_groups
from warmstart.models.small import small_cnn
from warmstart.models.timm import timm_model
from warmstart.models.torchvision import torchvision_model
from warmstart.strategies.phases import Phase

SIZES = {"small_cnn": 16, "cifar_resnet8": 16, "vit_tiny_patch16_224": 224, "alexnet": 64}
LARGE = (
    "resnet18",
    "alexnet",
    "densenet121",
    "swin_t",
    "convnext_tiny",
    "efficientnet_b0",
    "vit_tiny_patch16_224",
)
ARCHITECTURES = [
    small_cnn(),
    cifar_resnet(depth=8, granularity="block"),
    torchvision_model(name="mobilenet_v2"),
    torchvision_model(name="shufflenet_v2_x0_5"),
    timm_model(name="mobilenetv3_small_050"),
    *(pytest.param(torchvision_model(name=name), marks=pytest.mark.slow) for name in LARGE[:-1]),
    pytest.param(timm_model(name=LARGE[-1]), marks=pytest.mark.slow),
]


def built(architecture, size=None):
    """Return a model, its groups, and two images for it."""
    size = size or SIZES.get(architecture.name, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture.build(3, 4, size)
        x = torch.randn(2, 3, size, size)
    return model, layer_groups(model, architecture.layout), x


def train(model, groups, top, batchnorm="eval_frozen"):
    """Bring the model into a training step of a phase in which the `top` groups train."""
    phase = Phase(0, top, batchnorm=batchnorm)
    PhaseSchedule([phase], lambda step: 1.0, groups, lr=1.0).apply(model, 0)


def seeded(work, *arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return work(*arguments)


def gradients(output, model, names):
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in sorted(names) if name in parameters]
    wanted = [parameter for parameter in wanted if parameter.requires_grad]
    return torch.autograd.grad(output.square().sum(), wanted, allow_unused=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_every_group_is_followed_by_a_tail(architecture):
    model, groups, x = built(architecture)
    model.eval()
    for index in range(len(groups) - 1)[:: 2 if architecture.name in LARGE else 1]:
        cut = group_cut(model, groups, index, x)
        tail = Tail(model, cut, x)
        features = activations(model, cut, x).detach()
        assert features.shape == (2, *cut.shape)
        with torch.no_grad():
            assert torch.equal(tail(features), model(x))
            assert torch.equal(tail(activations(model, cut, x[:1])), model(x[:1]))
        above = {n for g in groups[index + 1 :] for n in (*g.parameters, *g.buffers)}
        assert above <= tail.live
        assert not tail.live & set(groups[0].parameters)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_a_tail_trains_as_the_model_does(architecture):
    model, groups, x = built(architecture)
    tops = (1, len(groups) // 2) if architecture.name in LARGE else range(1, len(groups))
    for top in tops:
        train(model, groups, top)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        cut = frozen_cut(model, groups, top, x)
        tail = Tail(model, cut, x)
        assert before.keys() == model.state_dict().keys()
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
        trained = {name for group in groups[-top:] for name in group.parameters}
        assert trained <= tail.live
        # In evaluation, as they are stored.
        modes = [module.training for module in model.modules()]
        features = activations(model.eval(), cut, x).detach()
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        found, wanted = seeded(tail, features), seeded(model, x)
        # Attention of torch takes another path in evaluation.
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        pairs = zip(
            gradients(found, model, trained), gradients(wanted, model, trained), strict=True
        )
        for one, two in pairs:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def place(architecture, top, **options):
    model, groups, x = built(architecture, **options)
    train(model, groups, top)
    return frozen_cut(model, groups, top, x)


def test_the_latest_place_without_noise():
    # Behind the last frozen group; before the dropout in front of the head; before the first.
    assert place(torchvision_model(name="resnet18"), 1) == Cut("fc", 0, (512,))
    assert place(torchvision_model(name="resnet18"), 2) == Cut("layer4", 0, (256, 2, 2))
    assert place(torchvision_model(name="mobilenet_v2"), 1) == Cut("classifier", 0, (1280,))
    assert place(torchvision_model(name="alexnet"), 1) == Cut("classifier", 0, (9216,))
    assert place(torchvision_model(name="alexnet"), 4) == Cut("features.10", 0, (256, 3, 3))


def test_frozen_blocks_that_drop_their_paths_are_behind_the_cut():
    # The first block's rate is 0; the second draws.
    architecture = torchvision_model(name="efficientnet_b0")
    assert place(architecture, 1) == Cut("features.2.1", 0, (24, 8, 8))


def test_a_group_ends_where_the_next_begins():
    model, groups, x = built(torchvision_model(name="mobilenet_v2"))
    cuts = [group_cut(model, groups, index, x) for index in range(len(groups) - 1)]
    assert cuts[0] == Cut("features.1", 0, (32, 16, 16))
    assert cuts[-1] == Cut("classifier", 0, (1280,))
    assert model.training
    for index in (-1, len(groups) - 1):
        with pytest.raises(ValueError, match=r"followed by no other"):
            group_cut(model, groups, index, x)


def chain(**layers):
    return nn.Sequential(OrderedDict(layers))


def groups_of(model, *names):
    return layer_groups(model, {name: [name] for name in names})


def linear(value):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_features_by_hand():
    model = chain(a=linear(2.0), relu=nn.ReLU(inplace=True), b=linear(3.0), head=linear(5.0))
    groups = groups_of(model, "a", "b", "head")
    x = torch.tensor([[1.0], [-1.0]])
    cut = group_cut(model, groups, 0, x)
    assert cut == Cut("b", 0, (1,))
    assert activations(model, cut, x).tolist() == [[2.0], [0.0]]
    tail = Tail(model, cut, x)
    assert tail(torch.tensor([[7.0]])).tolist() == [[105.0]]
    assert tail.until("head", torch.tensor([[7.0]])).tolist() == [[21.0]]
    assert tail.until("b", torch.tensor([[7.0]])).tolist() == [[7.0]]
    assert tail.live == {"b.weight", "head.weight"}


def test_the_tail_follows_the_model():
    model = chain(
        body=chain(a=nn.Linear(2, 2), norm=nn.BatchNorm1d(2), b=nn.Linear(2, 2)),
        drop=nn.Dropout(),
        head=nn.Linear(2, 2),
    )
    groups = layer_groups(model, {"a": ["body.a", "body.norm"], "b": ["body.b"], "head": ["head"]})
    x = torch.randn(4, 2)
    train(model, groups, 2)
    cut = frozen_cut(model, groups, 2, x)
    assert cut == Cut("body.b", 0, (2,))
    tail = Tail(model, cut, x)
    features = activations(model, cut, x).detach()
    assert torch.equal(seeded(tail, features), seeded(model, x))
    model.eval()
    assert torch.equal(tail(features), model(x))
    with torch.no_grad():
        model.body.b.weight.mul_(2)
    assert torch.equal(tail(features), model(x))
    model.load_state_dict({name: torch.ones_like(t) for name, t in model.state_dict().items()})
    assert torch.equal(tail(activations(model, cut, x)), model(x))
    model.double()
    assert torch.equal(tail(activations(model, cut, x.double())), model(x.double()))


class Own(nn.Module):
    """Has tensors of its own on both sides of its blocks."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.ones(3))
        self.block, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.full((3,), 2.0))
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x):
        return self.head(self.block(x + self.position) * self.scale + self.shift)


def test_a_containers_own_tensors_are_on_their_side():
    model = Own().eval()
    layout = {"stem": ["position"], "block": ["block", "scale", "shift"], "head": ["head"]}
    groups = layer_groups(model, layout)
    x = torch.randn(2, 3)
    tail = Tail(model, group_cut(model, groups, 0, x), x)
    assert set(model.state_dict()) - tail.live == {"position"}
    model.double()  # which gives it another buffer
    with torch.no_grad():
        model.shift.add_(1)
    assert torch.equal(tail(x.double() + 1), model(x.double()))


def test_a_layer_in_place_leaves_the_features():
    model = chain(a=linear(2.0), relu=nn.ReLU(inplace=True), head=linear(3.0))
    groups = groups_of(model, "a", "head")
    x = torch.tensor([[-1.0], [1.0]])
    for module in model.modules():
        module.training = False
    tail = Tail(model, Cut("relu", 0, (1,)), x)
    features = torch.tensor([[-4.0], [4.0]])
    assert tail(features).tolist() == [[0.0], [12.0]]
    assert features.tolist() == [[-4.0], [4.0]]
    assert group_cut(model, groups, 0, x).module == "head"


class Shortcut(nn.Module):
    """Passes the images on beside its first layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.b(F.relu(self.a(x))) + x)


def test_what_is_passed_by_is_no_cut():
    model = Shortcut()
    groups = groups_of(model, "a", "b", "head")
    x = torch.randn(2, 3)
    with pytest.raises(NoCut, match=r"^more than what b is given is passed on there$"):
        Tail(model, group_cut(model, groups, 0, x), x)
    train(model, groups, 2)
    with pytest.raises(NoCut, match=r"^no single tensor leads from the frozen layers"):
        frozen_cut(model, groups, 2, x)
    train(model, groups, 1)
    assert frozen_cut(model, groups, 1, x) == Cut("head", 0, (3,))


class Twice(nn.Module):
    """Calls one layer on both sides of another."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.head(self.act(self.a(self.b(self.act(self.a(x))))))


def test_a_layer_on_both_sides():
    model = Twice()
    x = torch.randn(2, 3)
    with pytest.raises(NoCut, match=r"^a\.weight works before b and behind it too$"):
        Tail(model, Cut("b", 0, (3,)), x)
    # Its second call; the ReLU, which has no weights, works on both sides.
    tail = Tail(model, Cut("act", 1, (3,)), x)
    assert torch.equal(tail(activations(model, Cut("act", 1, (3,)), x)), model(x))
    assert tail.live == {"head.weight", "head.bias"}


class Pairs(nn.Module):
    def forward(self, x, other):
        return x + other


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.pairs = nn.Linear(3, 3), nn.Linear(3, 3), Pairs()
        self.pairs.weight = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.pairs(self.a(x), self.b(x)))


def test_two_tensors_are_no_cut():
    model = Branches()
    groups = layer_groups(model, {"ab": ["a", "b"], "pairs": ["pairs"], "head": ["head"]})
    with pytest.raises(NoCut, match=r"^2 tensors are passed on to pairs, not one$"):
        group_cut(model, groups, 0, torch.randn(2, 3))


def test_frozen_layers_that_do_otherwise_in_training():
    model = chain(a=nn.Linear(3, 3), norm=nn.BatchNorm1d(3), head=nn.Linear(3, 2))
    groups = layer_groups(model, {"a": ["a", "norm"], "head": ["head"]})
    x = torch.randn(4, 3) + 5
    train(model, groups, 1, batchnorm="train")
    cut = frozen_cut(model, groups, 1, x)
    with pytest.raises(NoCut, match=r"^the layers before head do not work as in evaluation$"):
        Tail(model, cut, x)
    train(model, groups, 1)
    Tail(model, cut, x)


def test_noise_from_the_first_layer_on():
    model = chain(noise=nn.Dropout(), a=nn.Linear(3, 3), head=nn.Linear(3, 2))
    groups = groups_of(model, "a", "head")
    train(model, groups, 1)
    with pytest.raises(NoCut, match=r"^random numbers are drawn from the first layers on$"):
        frozen_cut(model, groups, 1, torch.randn(2, 3))


def test_auxiliary_heads_hang_before_the_cut():
    model, groups, x = built(torchvision_model(name="googlenet"))
    train(model, groups, 1)
    with pytest.raises(NoCut, match=r"^aux1 is not called$"):
        Tail(model, frozen_cut(model, groups, 1, x), x)


def test_looking_draws_no_random_number():
    model, groups, x = built(torchvision_model(name="mobilenet_v2"))
    train(model, groups, 1)
    before = torch.get_rng_state()
    Tail(model, frozen_cut(model, groups, 1, x), x)
    group_cut(model, groups, 0, x)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
