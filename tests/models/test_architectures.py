"""The architectures: sizes, shapes, what they expect of images, and refusals."""

from __future__ import annotations

import sys

import pytest
import torch
import torchvision.models
from torch import nn
from torchvision.models import MobileNet_V2_Weights, ResNet18_Weights

from warmstart.errors import ConfigError
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.layers import layer_groups
from warmstart.models.skeleton import skeleton
from warmstart.models.small import small_cnn
from warmstart.models.timm import timm_model
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
    assert architecture.name == f"cifar_resnet{depth}"
    assert count(architecture.build(3, 10, None)) == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("mobilenet_v2", 3_504_872),
        ("alexnet", 61_100_840),
        ("vgg16", 138_357_544),
        ("googlenet", 6_624_904),
        ("inception_v3", 23_834_568),
        ("resnet50", 25_557_032),
    ],
)
def test_torchvision_models_have_the_known_sizes(name, parameters):
    architecture = torchvision_model(name=name)
    model = skeleton(lambda: architecture.build(3, 1000, None))
    auxiliary = sum(count(model.get_submodule(path)) for path in architecture.auxiliary)
    assert count(model) - auxiliary == parameters


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


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (torchvision_model, "resnet19", "torchvision has no such.*mean 'resnet18'.*models` lists"),
        (torchvision_model, "fcn_resnet50", "torchvision has no such classification model"),
        (torchvision_model, 18, "model.name is 18, but"),
        (timm_model, "convnext_ato", "timm has no such model.*mean 'convnext_atto'.*lists them"),
        (timm_model, "resnet50.a1_in2k", r"no weights of that tag; use resnet50 or.*a1_in1k'\?"),
        (timm_model, 18, "model.name is 18, but timm"),
        (timm_model, "qwen3_vit_306m_enc", "qwen3_vit_306m_enc'.*without a classifier.*choose"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(make, name, message):
    with pytest.raises(ConfigError, match=message):
        make(name=name)


def test_without_timm_the_way_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"not installed; install warmstart\[timm\]"):
        timm_model(name="resnet18")


def test_the_tag_of_timm_decides_the_input():
    assert timm_model(name="resnet50.a1_in1k").input.size == 224
    plain = timm_model(name="vit_base_patch16_224").input
    tagged = timm_model(name="vit_base_patch16_224.mae").input
    assert plain.mean == (0.5, 0.5, 0.5)
    assert tagged.mean == (0.485, 0.456, 0.406)
    assert tagged.channels == 3


def test_torchvisions_inputs_differ_by_model():
    sizes = {n: torchvision_model(name=n).input.size for n in ("inception_v3", "efficientnet_b1")}
    assert sizes == {"inception_v3": 299, "efficientnet_b1": 240}


@pytest.mark.parametrize(("name", "weight"), [("googlenet", 0.3), ("inception_v3", 0.4)])
def test_inceptions_transform_their_input_and_have_auxiliary_heads(name, weight):
    architecture = torchvision_model(name=name)
    assert architecture.auxiliary == {"googlenet": ("aux1", "aux2")}.get(name, ("AuxLogits",))
    assert architecture.auxiliary_weight == weight
    assert torchvision_model(name=name, auxiliary_weight=0.1).auxiliary_weight == 0.1
    model = skeleton(lambda: architecture.build(3, 5, None))
    assert model.transform_input
    # torchvision does so only together with its published weights.
    published = torchvision.models.get_model(name, weights=None, init_weights=False)
    assert not published.transform_input
    outputs = model.train()(torch.empty(2, 3, 299, 299, device="meta"))
    assert [tuple(out.shape) for out in outputs] == [(2, 5)] * (1 + len(architecture.auxiliary))
    with pytest.raises(ConfigError, match=rf"{name} takes RGB images.*not 1.*model\.channels=3"):
        architecture.build(1, 5, None)


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("resnet18", 0.3, "is 0.3, but resnet18 has no auxiliary heads; leave it out"),
        ("googlenet", -1, "is -1, but must be a number of at least 0, for example 0.3"),
        ("googlenet", "much", "is 'much', but must be a number"),
        ("googlenet", float("nan"), "is nan, but must be a number"),
    ],
)
def test_a_weight_of_auxiliary_heads_that_cannot_work_is_refused(name, weight, message):
    with pytest.raises(ConfigError, match=f"model.auxiliary_weight {message}"):
        torchvision_model(name=name, auxiliary_weight=weight)


@pytest.mark.parametrize(
    ("make", "name", "size"),
    [
        (torchvision_model, "vit_b_32", 64),
        (torchvision_model, "maxvit_t", 448),
        (torchvision_model, "resnet50", 50),
        (timm_model, "vit_tiny_patch16_224", 96),
        (timm_model, "mobilenetv3_small_050", 90),
        (timm_model, "swin_tiny_patch4_window7_224", 112),
    ],
)
def test_other_image_sizes_work(make, name, size):
    architecture = make(name=name)
    model = skeleton(lambda: architecture.build(3, 4, size))
    with torch.no_grad():
        logits = model.eval()(torch.empty(2, 3, size, size, device="meta"))
    assert logits.shape == (2, 4)
    layer_groups(model, architecture.layout)


@pytest.mark.parametrize(
    ("make", "name", "size"),
    [
        (torchvision_model, "vit_b_16", 100),
        (torchvision_model, "maxvit_t", 100),
        (torchvision_model, "alexnet", 16),
        (torchvision_model, "vgg16", 16),
        (torchvision_model, "inception_v3", 128),  # its auxiliary head is too deep
        (timm_model, "mixer_s32_224", 16),
        (timm_model, "levit_128s", 100),
    ],
)
def test_an_image_size_that_cannot_work_is_refused(make, name, size):
    architecture = make(name=name)
    message = rf"{name} does not take images of {size} pixels \(.*example the {{}} that"
    with pytest.raises(ConfigError, match=message.format(architecture.input.size)):
        architecture.build(3, 4, size)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (torchvision_model, "resnet18"),
        (torchvision_model, "squeezenet1_1"),
        (timm_model, "regnetx_002"),
    ],
)
def test_other_channels_change_the_first_convolution_alone(make, name, channels):
    states = []
    for number in (3, channels):
        torch.manual_seed(3)
        states.append(make(name=name).build(number, 4, 64).state_dict())
    rgb, other = states
    changed = [n for n in rgb if rgb[n].shape != other[n].shape]
    assert len(changed) == 1
    assert other[changed[0]].shape[1] == channels
    if make is torchvision_model:
        biases = {changed[0].replace("weight", "bias")}
        assert all(torch.equal(rgb[n], other[n]) for n in rgb.keys() - {*changed, *biases})


def test_fully_convolutional_nets_keep_their_groups():
    plain = torchvision_model(name="alexnet")
    sliding = torchvision_model(name="alexnet", fully_convolutional=True)
    assert sliding.layout == plain.layout
    model = skeleton(lambda: sliding.build(3, 4, 288))
    groups = layer_groups(model, sliding.layout)
    assert groups[-1].parameters["classifier.6.weight"].shape == (4, 4096, 1, 1)
    with pytest.raises(
        ConfigError, match=r"fully_convolutional.*AlexNet and VGG, not for resnet18"
    ):
        torchvision_model(name="resnet18", fully_convolutional=True)


@pytest.mark.parametrize(
    "make", [small_cnn, cifar_resnet, lambda **keys: torchvision_model(name="resnet18", **keys)]
)
def test_an_unknown_granularity_is_refused_with_the_nearest(make):
    with pytest.raises(ConfigError, match=r"model\.granularity.*'blocks'.*stage.*mean 'block'"):
        make(granularity="blocks")


def test_options_go_to_timms_constructor():
    padded = timm_model(name="mobilenetv2_100", options={"pad_type": "same"})
    plain = timm_model(name="mobilenetv2_100")
    assert padded.layout == plain.layout
    kinds = [type(make.build(3, 10, None).conv_stem).__name__ for make in (padded, plain)]
    assert kinds == ["Conv2dSame", "Conv2d"]


def test_options_that_the_constructor_does_not_take_are_refused():
    with pytest.raises(ConfigError, match=r"model\.options is .*'droprate': 1.*mobilenetv2_100"):
        timm_model(name="mobilenetv2_100", options={"droprate": 1})
