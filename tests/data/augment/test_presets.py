"""Every preset of ``augment=`` composes, says what it is, and does something to images."""

from __future__ import annotations

import functools
import inspect
import json

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

import warmstart
from warmstart import ConfigError
from warmstart.configs import build, folder
from warmstart.data.augment.pipeline import Augment

PRESETS = sorted(path.stem for path in (folder() / "augment").glob("*.yaml"))
SHIPPED = """
alexnet aug_mix auto_augment color_jitter crop crop_flip cutmix cutout flip mixup mixup_cutmix
noise none rand_augment random_erasing resized_crop scaled_crop strong trivial_augment
"""


@functools.cache
def composed(*overrides):
    """Return the augmentation and its node of the config."""
    cfg = warmstart.compose(overrides)
    node = OmegaConf.to_container(cfg.augment, resolve=True)
    return build("augment", node), node


def changed(augment, split, *, seed=0):
    """Return the share of the images that the augmentation changes."""
    augment = augment.bind(split)
    count = len(split)
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(count, augment.columns, generator=generator)
    before = torch.from_numpy(split.pixels).permute(0, 3, 1, 2).float()
    x = augment.sample(split, np.arange(count), uniforms).permute(0, 3, 1, 2).float()
    x = augment(x, uniforms)
    if augment.mix:
        torch.manual_seed(seed)
        x, _ = augment.mix(x, torch.from_numpy(split.labels), 3)
    assert x.shape == before.shape
    return float((x != before).flatten(1).any(dim=1).float().mean())


def test_the_presets_are_all_there():
    assert SHIPPED.split() == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_does_something(name, make_split):
    augment, _ = composed(f"augment={name}")
    share = changed(augment, make_split(200, size=32, channels=3))
    least = {"none": 0, "flip": 0.4, "random_erasing": 0.4, "auto_augment": 0.6}.get(name, 0.7)
    assert share >= least
    assert share == 0 or name != "none"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_none_with_a_few_keys(name):
    content = yaml.safe_load((folder() / "augment" / f"{name}.yaml").read_text())
    _, node = composed(f"augment={name}")
    _, off = composed("augment=none")
    if name == "none":
        assert set(content) == {"_target_", *inspect.signature(Augment).parameters}
    else:
        assert content.pop("defaults") == ["none"]
        assert 1 <= len(content) <= 12
        assert {key: node[key] for key in node if node[key] != off[key]} == content


def test_the_keys_of_none_are_all_off():
    _, node = composed("augment=none")
    parameters = inspect.signature(Augment).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    assert {**defaults, "_target_": node["_target_"]} == node


def test_keys_go_with_any_preset(make_split):
    augment, node = composed("augment=crop_flip", "augment.mixup=0.2", "augment.cutout=0.25")
    assert (node["padding"], node["flip"]) == (4, 0.5)
    assert augment.mix is not None
    assert augment.columns == 5
    assert changed(augment, make_split(50, size=16)) == 1
    with pytest.raises(ConfigError, match=r"padding is 4, but takes effect only with"):
        composed("augment=crop_flip", "augment.crop=resized")


def test_the_values_of_the_papers():
    nodes = {name: composed(f"augment={name}")[1] for name in PRESETS}
    assert nodes["scaled_crop"]["short_side"] == pytest.approx([256 / 224, 480 / 224])
    assert nodes["alexnet"]["short_side"] == pytest.approx([256 / 224, 256 / 224])
    assert nodes["resized_crop"]["scale"] == [0.25, 1.0]
    assert (nodes["rand_augment"]["operations"], nodes["rand_augment"]["magnitude"]) == (2, 9)
    assert nodes["crop"]["padding"] == 1
    assert json.dumps(nodes["strong"])  # plain types
