"""Models with more noise: where it sits, at which rate, and that evaluation has none."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from warmstart import ConfigError
from warmstart.models.cifar_resnet import Block
from warmstart.models.layers import layer_groups
from warmstart.models.noisy import FractionalMaxPool, NoisyConv2d, NoisyLinear
from warmstart.models.skeleton import skeleton
from warmstart.run.cut_models import architecture_of, model_node

SMALL = {"_target_": "warmstart.models.small.small_cnn"}
RESNET = {"_target_": "warmstart.models.cifar_resnet.cifar_resnet"}


def torchvision(name):
    return {"_target_": "warmstart.models.torchvision.torchvision_model", "name": name}


def timm(name, **options):
    return {"_target_": "warmstart.models.timm.timm_model", "name": name, "options": options}


def config(node, group=None, pool=None, **options):
    target = "warmstart.optim.regularization.Regularization"
    return {
        "model": node,
        "group": group,
        "features": {"pool": pool},
        "regularization": {"_target_": target, **options},
    }


def built(node, channels=3, *, size=None, group=None, pool=None, **options):
    architecture = architecture_of(config(node, group, pool, **options))
    torch.manual_seed(0)
    model = architecture.build(channels, 2, size)
    layer_groups(model, architecture.layout)  # which asserts that they hold all tensors once
    return model


def bones(node, **options):
    return skeleton(lambda: built(node, **options))


def dropouts(model):
    return {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}


CASES = {
    "dropout": (SMALL, {"dropout": 0.5}),
    "dropout by head": (SMALL, {"dropout": {"head": 0.5}}),
    "drop_connect": (SMALL, {"drop_connect": 0.5}),
    "both": (SMALL, {"dropout": 0.2, "drop_connect": 0.5}),
    "fractional_max_pool": (SMALL, {"fractional_max_pool": True}),
    "stochastic_depth": (RESNET, {"stochastic_depth": 0.5}),
    "cut off": (RESNET, {"stochastic_depth": 0.5, "dropout": 0.1, "group": "layer2"}),
    "pooled, cut off": (
        SMALL,
        {"fractional_max_pool": True, "group": "conv2", "pool": "flatten", "size": 8},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_training_draws_and_evaluation_does_not(name):
    node, options = CASES[name]
    cut = {key: options[key] for key in ("group", "pool", "size") if key in options}
    model, plain = built(node, **options), built(node, **cut)
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    if "fractional_max_pool" in options:
        return
    # Names and numbers are those of the plain model: weights load, and arms are paired.
    for one, two in zip(
        built(node, **options).state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert one[0] == two[0]
        assert torch.equal(one[1], two[1])
    assert torch.equal(built(node, **options).eval()(x), plain.eval()(x))


def test_one_rate_sets_every_dropout_layer():
    assert dropouts(bones(torchvision("alexnet"), dropout=0.3)) == {
        "classifier.0": 0.3,
        "classifier.3": 0.3,
    }
    assert dropouts(bones(torchvision("mobilenet_v2"))) == {"classifier.0": 0.2}
    found = dropouts(bones(timm("deit_tiny_distilled_patch16_224"), dropout=0.1))
    assert set(found.values()) == {0.1}
    assert "blocks.0.attn.attn_drop" in found, "whose rate attention reads"


def test_a_model_without_dropout_gets_it_before_the_head():
    model = built(SMALL, dropout=0.5)
    assert isinstance(model.head, NoisyLinear)
    assert (model.head.dropout, model.head.drop_connect) == (0.5, 0.0)
    assert dropouts(model) == {}


def test_each_head_has_a_rate_of_its_own():
    heads = {"head": 0.1, "head_dist": 0.6}
    model = bones(timm("deit_tiny_distilled_patch16_224"), dropout=heads)
    assert {path: model.get_submodule(path).dropout for path in heads} == heads
    # What stood before the head gives way.
    model = bones(torchvision("mobilenet_v2"), dropout={"classifier.1": 0.1})
    assert (model.classifier[1].dropout, dropouts(model)) == (0.1, {"classifier.0": 0.0})
    model = bones(torchvision("squeezenet1_1"), dropout={"classifier.1": 0.1})
    assert isinstance(model.classifier[1], NoisyConv2d)


def test_the_rate_of_another_layer_is_refused():
    message = r"regularization\.dropout names 'fc', but the head of small_cnn is head;"
    with pytest.raises(ConfigError, match=message):
        built(SMALL, dropout={"fc": 0.5})


def test_stochastic_depth_grows_with_the_depth():
    model = bones(RESNET, stochastic_depth=0.9)
    rates = [m.drop_rate for m in model.modules() if isinstance(m, Block)]
    assert rates == pytest.approx([0.1 * block for block in range(1, 10)])
    model = bones(torchvision("convnext_tiny"), stochastic_depth=0.36)
    rates = [m.p for m in model.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.02 * block for block in range(1, 19)])
    # Of efficientnet_b0's 16 blocks, 9 have a shortcut.
    model = bones(torchvision("efficientnet_b0"), stochastic_depth=0.9)
    assert model.features[2][1].stochastic_depth.p == pytest.approx(0.1)
    assert model.features[6][3].stochastic_depth.p == pytest.approx(0.9)
    model = bones(timm("resnet18"), stochastic_depth=0.7)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert rates == pytest.approx([0.1 * block for block in range(1, 8)])


def test_a_block_passes_on_its_shortcut_where_its_branch_is_left_out():
    torch.manual_seed(0)
    block, x = Block(4, 4).eval(), torch.randn(50, 4, 6, 6)
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    block.drop_rate = 0.8
    assert torch.equal(block(x), torch.relu(branch + x))
    block.training = True  # its norms stay
    out = block(x)
    kept = (out != torch.relu(x)).flatten(1).any(1)
    assert 2 <= kept.sum() <= 20
    torch.testing.assert_close(out[kept], torch.relu(5 * branch + x)[kept])


@pytest.mark.parametrize(
    "node", [SMALL, torchvision("mobilenet_v2"), timm("vgg11")], ids=["ours", "torchvision", "timm"]
)
def test_models_without_residual_noise_are_refused(node):
    message = r"regularization\.stochastic_depth is 0\.2, but \w+ has no residual blocks"
    with pytest.raises(ConfigError, match=message):
        architecture_of(config(node, stochastic_depth=0.2))


def test_the_rate_of_timm_is_given_once():
    message = r"stochastic_depth is 0\.2 and model\.options\.drop_path_rate is 0\.1.*leave out one"
    with pytest.raises(ConfigError, match=message):
        architecture_of(config(timm("resnet18", drop_path_rate=0.1), stochastic_depth=0.2))


def test_dropconnect_takes_a_linear_head():
    message = r"drop_connect is 0\.5, but the head of squeezenet1_1 is a Conv2d \(classifier\.1\)"
    with pytest.raises(ConfigError, match=message):
        architecture_of(config(torchvision("squeezenet1_1"), drop_connect=0.5))


def test_fractional_pooling_replaces_the_pooling():
    model = built(SMALL, fractional_max_pool=True)
    assert isinstance(model.pool, FractionalMaxPool)
    assert [name for name, _ in model.named_children()][2] == "pool"


@pytest.mark.parametrize(
    ("node", "group"), [(RESNET, None), (SMALL, "conv1"), ({**SMALL, "widths": [4]}, None)]
)
def test_fractional_pooling_of_what_is_not_there_is_refused(node, group):
    message = r"regularization\.fractional_max_pool is true, but works only for the max pooling"
    with pytest.raises(ConfigError, match=message):
        architecture_of(config(node, group, fractional_max_pool=True))


def test_caches_of_models_know_the_noise_and_nothing_else():
    plain = model_node(config(SMALL))
    assert model_node(config(SMALL, l2=0.1, clip_norm=1.0)) == plain
    assert model_node({**config(SMALL), "regularization": None}) == plain
    assert model_node(config(SMALL, dropout={"head": 0.1})) != plain
