"""Models of torchvision, with the preprocessing that their published weights were trained with."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torchvision.models
from torch import nn

from warmstart.errors import ConfigError, nearest
from warmstart.models.architecture import Architecture, Input
from warmstart.models.grouping import check_granularity, layout
from warmstart.models.heads import (
    CLASSES,
    class_dependent,
    find_heads,
    replace_first_convolution,
    replace_head,
)
from warmstart.models.layers import Layout
from warmstart.models.skeleton import check_size, skeleton, wrong_size
from warmstart.models.trace import Calls, trace

# GoogLeNet: Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 5. Inception v3: the
# paper (Rethinking the Inception Architecture, CVPR 2016) gives none; 0.4 is that of its authors'
# published training code (tensorflow/models, inception_train.py).
_AUXILIARY_WEIGHTS = {"googlenet": 0.3, "inception_v3": 0.4}
_IMAGENET = Input(size=224, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def torchvision_model(
    *,
    name: str,
    granularity: str = "stage",
    auxiliary_weight: float | None = None,
    fully_convolutional: bool = False,
) -> Architecture:
    """Return a classification model of torchvision by its builder's name.

    Other numbers of channels than 3 get another first convolution, with torch's initialization.

    Args:
        name: ``resnet50``, ``vit_b_16`` or any other of ``torchvision.models.list_models``.
        granularity: ``stage`` (at most 8 groups) or ``block``.
        auxiliary_weight: Factor on the loss of each auxiliary head of GoogLeNet (None: 0.3) or
            Inception v3 (None: 0.4).
        fully_convolutional: Turn the fully connected layers of AlexNet or a VGG into convolutions.

    Raises:
        ConfigError: There is no such model, or it has no such option. `build` raises it for images
            of a size or a number of channels that the model does not take.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ConfigError(
            f"model.name is {name!r}, but torchvision has no such classification model"
            f"{nearest(str(name), names)}; `warmstart models` lists them"
        )
    check_granularity(granularity)
    if fully_convolutional and not name.startswith(("alexnet", "vgg")):
        raise ConfigError(
            f"model.fully_convolutional is true, but works only for AlexNet and VGG, not for {name}"
            "; leave it out"
        )
    structure = _structure(name)
    return Architecture(
        name=name,
        build=functools.partial(_build, name, bool(fully_convolutional)),
        layout=_layout(name, granularity),
        input=_input(name),
        auxiliary=structure.auxiliary,
        auxiliary_weight=_auxiliary_weight(name, auxiliary_weight),
    )


def _auxiliary_weight(name: str, given: float | None) -> float:
    if given is None:
        return _AUXILIARY_WEIGHTS.get(name, 0.0)
    if name not in _AUXILIARY_WEIGHTS:
        raise ConfigError(
            f"model.auxiliary_weight is {given!r}, but {name} has no auxiliary heads; leave it out"
        )
    if not isinstance(given, int | float) or not (math.isfinite(given) and given >= 0):
        raise ConfigError(
            f"model.auxiliary_weight is {given!r}, but must be a number of at least 0, for example "
            f"{_AUXILIARY_WEIGHTS[name]}"
        )
    return float(given)


def _input(name: str) -> Input:
    weights = torchvision.models.get_model_weights(name)
    if not list(weights):
        return _IMAGENET
    published = weights.DEFAULT.transforms()
    return Input(
        size=published.crop_size[0],
        channels=3,
        mean=tuple(published.mean),
        std=tuple(published.std),
    )


def _native(name: str) -> int:
    size = _input(name).size
    assert size is not None
    return size


def _options(name: str, size: int) -> dict[str, Any]:
    """Return what the builder is told beyond the number of classes."""
    if name in _AUXILIARY_WEIGHTS:
        # torchvision sets transform_input only for published weights; a fresh model must see the
        # same numbers.
        return {"transform_input": True, "aux_logits": True, "init_weights": False}
    if name.startswith("vit_"):
        return {"image_size": size}
    if name.startswith("maxvit"):
        return {"input_size": (size, size)}
    return {}


def _raw(name: str, size: int, classes: int = CLASSES) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=classes, **_options(name, size)
    )
    return model


@dataclasses.dataclass(frozen=True)
class _Structure:
    """Paths of what depends on the classes, of the heads in it, and of the first layer."""

    classifiers: tuple[str, ...]
    heads: tuple[str, ...]
    auxiliary: tuple[str, ...]
    first_convolution: str
    calls: Calls


# The structure and the layouts of one model are asked for in a row.
@functools.lru_cache(maxsize=4)
def _skeleton(name: str) -> nn.Module:
    return skeleton(lambda: _raw(name, _native(name)))


@functools.lru_cache
def _structure(name: str) -> _Structure:
    size, model = _native(name), _skeleton(name)
    classifiers = class_dependent(model, skeleton(lambda: _raw(name, size, CLASSES + 1)))
    calls = trace(model, size=size)
    heads, auxiliary = find_heads(classifiers, calls)
    convolutions = (p for p in calls.entered if isinstance(model.get_submodule(p), nn.Conv2d))
    if auxiliary:
        calls = trace(model, size=size, train=True)
    return _Structure(classifiers, heads, auxiliary, next(convolutions), calls)


@functools.lru_cache
def _layout(name: str, granularity: str) -> Layout:
    found = _structure(name)
    return layout(
        _skeleton(name),
        found.heads,
        found.calls,
        auxiliary=found.auxiliary,
        granularity=granularity,
    )


def _build(
    name: str, convolutional: bool, channels: int, classes: int, size: int | None
) -> nn.Module:
    if channels != 3 and name in _AUXILIARY_WEIGHTS:
        raise ConfigError(
            f"{name} takes RGB images (it changes the normalization of the three channels itself), "
            f"not {channels} channels; set model.channels=3"
        )
    if size not in (None, _native(name)):
        _check_size(name, convolutional, size)
    return _assemble(name, convolutional, channels, classes, size or _native(name))


def _assemble(name: str, convolutional: bool, channels: int, classes: int, size: int) -> nn.Module:
    structure = _structure(name)
    model = _raw(name, size)
    for path in structure.classifiers:
        replace_head(model, path, classes)
    if channels != 3:
        replace_first_convolution(model, structure.first_convolution, channels)
    if convolutional:
        from warmstart.models.convolutional import fully_convolutional

        model = fully_convolutional(model)
    return model


@functools.lru_cache
def _check_size(name: str, convolutional: bool, size: int) -> None:
    native = _native(name)
    try:
        model = skeleton(lambda: _assemble(name, convolutional, 3, 2, size))
    except Exception as error:  # torchvision's own code, which may fail in any way
        raise wrong_size(name, error, size=size, native=native) from error
    check_size(name, model, size=size, native=native, train=bool(_structure(name).auxiliary))
