"""Every classifier of torchvision and many families of timm: groups, order, and another head."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
import torchvision.models
from torch import Tensor, nn

from warmstart.models.architecture import Architecture
from warmstart.models.layers import LayerGroup, layer_groups
from warmstart.models.skeleton import skeleton
from warmstart.models.timm import timm_model
from warmstart.models.torchvision import torchvision_model

TORCHVISION = torchvision.models.list_models(module=torchvision.models)
# The smallest of each family.
TIMM = [
    "bat_resnext26ts",
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "caformer_s18",
    "coat_lite_tiny",
    "coatnet_nano_rw_224",
    "convmixer_768_32",
    "convnext_atto",
    "cspresnet50",
    "davit_tiny",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "densenet121",
    "dla34",
    "dm_nfnet_f0",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientnet_b0",
    "eva02_tiny_patch14_224",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "ghostnet_050",
    "hgnetv2_b0",
    "hiera_tiny_224",
    "inception_v4",
    "levit_128s",
    "maxvit_tiny_tf_224",
    "mixer_s32_224",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "nf_resnet50",
    "pit_ti_224",
    "poolformer_s12",
    "pvt_v2_b0",
    "regnety_002",
    "repvgg_a0",
    "repvit_m0_9",
    "res2net50_14w_8s",
    "resmlp_12_224",
    "resnest14d",
    "resnet18",
    "resnetv2_18",
    "rexnet_100",
    "selecsls42",
    "skresnet18",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "tiny_vit_5m_224",
    "twins_pcpvt_small",
    "vgg11",
    "vit_tiny_patch16_224",
    "volo_d1_224",
    "xception41",
    "xcit_nano_12_p16_224",
]
# Their head has a norm of its own behind the first of two classifiers; it belongs to the last
# group that is no head.
NORM_IN_THE_HEAD = {"levit_128s", "repvit_m0_9"}
CLASSES = 7

pytestmark = pytest.mark.slow
torchvision_models = pytest.mark.parametrize("name", TORCHVISION)
timm_models = pytest.mark.parametrize("name", TIMM)


def test_all_of_torchvision_and_many_families_of_timm_are_here():
    assert len(TORCHVISION) == 80
    modules = {timm.models.model_entrypoint(name).__module__ for name in TIMM}
    assert len(TIMM) == len(set(TIMM)) == 56
    assert len(modules) >= 48


@torchvision_models
def test_torchvision(name):
    check(name, torchvision_model)


@timm_models
def test_timm(name):
    check(name, timm_model)


def check(name, make):
    stages, blocks = (make(name=name, granularity=level) for level in ("stage", "block"))
    model = build(stages, CLASSES)
    cuts = [layer_groups(model, architecture.layout) for architecture in (stages, blocks)]
    for groups in cuts:
        check_partition(model, groups, stages)
    coarse, fine = cuts
    check_order(name, model, fine, blocks)
    assert 4 <= len(coarse) <= 8
    assert len(fine) == len(coarse) if len(fine) <= 8 else len(fine) > len(coarse)
    check_nesting(coarse, fine)
    check_other_head(model, build(stages, CLASSES + 2), coarse, stages)


def build(architecture: Architecture, classes: int) -> nn.Module:
    wanted = architecture.input
    return skeleton(lambda: architecture.build(wanted.channels, classes, wanted.size))


def check_partition(model: nn.Module, groups: list[LayerGroup], architecture: Architecture) -> None:
    tensors = [t for g in groups for t in (*g.parameters.values(), *g.buffers.values())]
    assert Counter(map(id, tensors)) == Counter(map(id, (*model.parameters(), *model.buffers())))
    assert [g.index for g in groups] == list(range(len(groups)))
    # The last group is the classifier alone, and no name of it is missing.
    heads = [model.get_submodule(path) for path in architecture.heads]
    assert list(groups[-1].modules) == heads
    assert all(isinstance(head, nn.Linear | nn.Conv2d) for head in heads)
    assert groups[-1].name == "head"
    assert groups[-1].buffers == {}
    assert all(p.shape[0] == CLASSES for p in groups[-1].parameters.values())


def check_order(
    name: str, model: nn.Module, groups: list[LayerGroup], architecture: Architecture
) -> None:
    """Hold the groups against hooks on the layers, in a pass of evaluation."""
    owner = {
        parameter: group.index
        for group in groups
        for parameter in map(id, group.parameters.values())
    }
    first: dict[nn.Module, int] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        first.setdefault(layer, owner[id(next(layer.parameters(recurse=False)))])

    hooks = [
        layer.register_forward_hook(note)
        for layer in model.modules()
        if not list(layer.children()) and list(layer.parameters())
    ]
    wanted = architecture.input
    images = torch.empty(2, wanted.channels, wanted.size, wanted.size, device="meta")
    with torch.no_grad():
        logits = model.eval()(images)
    assert logits.shape == (2, CLASSES)
    order = list(first.values())
    body = [index for index in order if index < len(groups) - 1]
    assert body == sorted(body)
    if name not in NORM_IN_THE_HEAD:
        assert order == sorted(order)
    assert set(order) == set(range(len(groups)))
    assert order[0] == 0
    assert order.count(len(groups) - 1) == len(architecture.heads)
    for hook in hooks:
        hook.remove()


def check_nesting(coarse: list[LayerGroup], fine: list[LayerGroup]) -> None:
    stage_of = {
        id(t): g.index for g in coarse for t in (*g.parameters.values(), *g.buffers.values())
    }
    places = [
        {stage_of[id(t)] for t in (*block.parameters.values(), *block.buffers.values())}
        for block in fine
    ]
    assert all(len(place) == 1 for place in places)
    assert [*map(min, places)] == sorted(map(min, places))


def check_other_head(
    model: nn.Module, other: nn.Module, groups: list[LayerGroup], architecture: Architecture
) -> None:
    """Nothing but the classifiers has another shape, and the auxiliary ones follow."""
    shapes = [
        {name: t.shape for name, t in (*m.named_parameters(), *m.named_buffers())}
        for m in (model, other)
    ]
    assert shapes[0].keys() == shapes[1].keys()
    changed = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    auxiliary = {n for n in changed if n.startswith(tuple(f"{a}." for a in architecture.auxiliary))}
    assert changed - auxiliary == set(groups[-1].parameters)
    assert len(auxiliary) == 2 * len(architecture.auxiliary)
