"""Models of timm, an optional extra, with the preprocessing of their published weights."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from warmstart.errors import ConfigError, nearest
from warmstart.models.architecture import Architecture, Input
from warmstart.models.grouping import check_granularity, layout
from warmstart.models.heads import CLASSES, class_dependent, replace_head
from warmstart.models.layers import Layout
from warmstart.models.skeleton import check_size, skeleton, wrong_size
from warmstart.models.trace import Calls, trace


@dataclasses.dataclass(frozen=True)
class _Spec:
    """A model's name and, as JSON, the options of its constructor."""

    name: str
    options: str


def timm_model(
    *, name: str, granularity: str = "stage", options: Mapping[str, Any] | None = None
) -> Architecture:
    """Return a model of timm by its name, with or without the tag of its weights.

    Args:
        name: ``resnet50`` or ``resnet50.a1_in1k``, for example.
        granularity: ``stage`` (at most 8 groups) or ``block``.
        options: More arguments of timm's constructor, such as ``{"drop_path_rate": 0.1}``.

    Raises:
        ConfigError: timm is not installed, has no such model, the model has no classifier or
            does not take the options.
            `build` raises it for images of a size that the model does not take.
    """
    check_granularity(granularity)
    _check_name(name)
    spec = _Spec(name, json.dumps(dict(options or {}), sort_keys=True))
    try:
        groups = _layout(spec, granularity)
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise ConfigError(
            f"model.options is {dict(options)}, which timm's {name} does not take ({error}); "
            "see its documentation"
        ) from error
    return Architecture(
        name=name, build=functools.partial(_build, spec), layout=groups, input=_input(name)
    )


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            "model=timm needs the package timm, which is not installed; install warmstart[timm]"
        ) from error
    return timm


def _check_name(name: str) -> None:
    timm = _timm()
    known = isinstance(name, str) and timm.is_model(name)
    if not known:
        names = timm.list_models()
        raise ConfigError(
            f"model.name is {name!r}, but timm has no such model"
            f"{nearest(str(name).partition('.')[0], names)}; `warmstart models` lists them"
        )
    model, _, tag = name.partition(".")
    tagged = {full for full in timm.list_pretrained() if full.startswith(f"{model}.")}
    if tag and name not in tagged:
        raise ConfigError(
            f"model.name is {name!r}, but timm has no weights of that tag; use {model} or one of "
            f"{', '.join(sorted(tagged))}{nearest(name, tagged)}"
        )


@functools.lru_cache
def _configuration(name: str) -> dict[str, Any]:
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(name)
    return dataclasses.asdict(configuration) if configuration else {}


def _input(name: str) -> Input:
    published = _configuration(name)
    channels, size, _ = published.get("input_size") or (3, 224, 224)
    mean = published.get("mean") or (0.485, 0.456, 0.406)
    std = published.get("std") or (0.229, 0.224, 0.225)
    return Input(size=size, channels=channels, mean=tuple(mean), std=tuple(std))


def _raw(
    spec: _Spec, classes: int = CLASSES, *, channels: int = 3, size: int | None = None
) -> nn.Module:
    options = json.loads(spec.options) | ({"img_size": size} if size else {})
    model: nn.Module = _timm().create_model(
        spec.name, pretrained=False, num_classes=classes, in_chans=channels, **options
    )
    return model


# The heads and the layouts of one model are asked for in a row.
@functools.lru_cache(maxsize=4)
def _skeleton(spec: _Spec) -> nn.Module:
    return skeleton(lambda: _raw(spec, channels=_input(spec.name).channels))


@functools.lru_cache
def _heads(spec: _Spec) -> tuple[str, ...]:
    """Return the classifier's paths by timm's metadata, held against what the classes change."""
    named = _configuration(spec.name).get("classifier") or ()
    named = (named,) if isinstance(named, str) else tuple(named)
    channels = _input(spec.name).channels
    other = skeleton(lambda: _raw(spec, CLASSES + 1, channels=channels))
    changed = class_dependent(_skeleton(spec), other)
    if not changed:
        raise ConfigError(
            f"model.name is {spec.name!r}, a model without a classifier; choose one that has one"
        )
    if named and set(named) != set(changed):
        raise ConfigError(
            f"model.name is {spec.name!r}, for which timm names the classifier "
            f"{', '.join(named)}, but the number of classes changes {', '.join(changed)}; "
            "choose another model"
        )
    return named or changed


@functools.lru_cache(maxsize=4)
def _calls(spec: _Spec) -> Calls:
    wanted = _input(spec.name)
    assert wanted.size is not None
    return trace(_skeleton(spec), size=wanted.size, channels=wanted.channels)


@functools.lru_cache
def _layout(spec: _Spec, granularity: str) -> Layout:
    return layout(_skeleton(spec), _heads(spec), _calls(spec), granularity=granularity)


def _build(spec: _Spec, channels: int, classes: int, size: int | None) -> nn.Module:
    native = size is None or size == _input(spec.name).size
    option = None if native or size is None else _size_option(spec, size)
    model = _raw(spec, channels=channels, size=option)
    for path in _heads(spec):
        replace_head(model, path, classes)
    return model


@functools.lru_cache
def _size_option(spec: _Spec, size: int) -> int | None:
    """Return the size to build for, or None for a model that takes any without being told."""
    wanted = _input(spec.name)
    native = wanted.size or size
    try:
        option: int | None
        try:
            model, option = skeleton(lambda: _raw(spec, size=size)), size
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            model, option = skeleton(lambda: _raw(spec)), None
    except Exception as error:  # timm's own code, which may fail in any way
        raise wrong_size(spec.name, error, size=size, native=native) from error
    check_size(spec.name, model, size=size, native=native)
    return option
