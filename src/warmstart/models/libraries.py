"""The models that can be named, by library, and what is counted of one of them."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

from warmstart.models.architecture import Architecture

INSTALL_TIMM = "pip install 'warmstart[timm]'"


@dataclasses.dataclass(frozen=True)
class Library:
    """Where models come from.

    Attributes:
        names: Returns the names of all models; empty where the library is not installed.
        architecture: ``architecture(name, granularity)``.
        weights: ``weights(name)`` returns the published names that ``init.weights`` takes.
        classes: What a model is counted with: those of the data set that the family is known for.
        size: Of the images to count with, in pixels, where the model takes any.
    """

    names: Callable[[], list[str]]
    architecture: Callable[[str, str], Architecture]
    weights: Callable[[str], list[str]]
    classes: int = 1000
    size: int = 224


def count(library: Library, name: str) -> dict[str, Any]:
    """Return what a model has and what it takes to run it, without making its weights.

    Parameters are counted from the modules. Work is counted as the papers do: a multiply-add is
    one operation, of convolutions and matrix products, for one RGB image in eval mode.

    Returns:
        ``parameters`` (without the auxiliary classifiers), ``auxiliary_parameters``, ``size``
        (pixels; None where any goes), ``multiply_adds`` (of an image of ``counted_at`` pixels, with
        ``classes`` classes), ``groups`` (granularity to the names of the layer groups), ``weights``
        (names for ``init.weights``).

    Raises:
        ConfigError: There is no such model, or it has no classifier.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from warmstart.models.skeleton import skeleton

    levels = {level: library.architecture(name, level) for level in ("stage", "block")}
    architecture = levels["stage"]
    size = architecture.input.size if architecture.input else None
    at, classes = size or library.size, library.classes
    model = skeleton(lambda: architecture.build(3, classes, at)).eval()
    # The counter's hooks would want a graph for a parameter that is some module's input.
    model.requires_grad_(False)
    heads = [model.get_submodule(path) for path in architecture.auxiliary]
    auxiliary = sum(p.numel() for head in heads for p in head.parameters())
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, at, at))
    return {
        "parameters": sum(p.numel() for p in model.parameters()) - auxiliary,
        "auxiliary_parameters": auxiliary,
        "size": size,
        "multiply_adds": counter.get_total_flops() // 2,
        "counted_at": at,
        "classes": classes,
        "groups": {level: list(found.layout) for level, found in levels.items()},
        "weights": library.weights(name),
    }


def has_timm() -> bool:
    """Tell whether timm, an optional extra, is installed."""
    return importlib.util.find_spec("timm") is not None


def _own_names() -> list[str]:
    return ["small_cnn", *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110))]


def _own(name: str, granularity: str) -> Architecture:
    from warmstart.models.cifar_resnet import cifar_resnet
    from warmstart.models.small import small_cnn

    if name == "small_cnn":
        return small_cnn(granularity=granularity)
    return cifar_resnet(depth=int(name.removeprefix("resnet")), granularity=granularity)


def _torchvision_names() -> list[str]:
    import torchvision.models

    return list(torchvision.models.list_models(module=torchvision.models))


def _torchvision(name: str, granularity: str) -> Architecture:
    from warmstart.models.torchvision import torchvision_model

    return torchvision_model(name=name, granularity=granularity)


def _torchvision_weights(name: str) -> list[str]:
    from warmstart.models.published import torchvision_entries

    return [weights for weights in torchvision_entries(name) if weights != "DEFAULT"]


def _timm_names() -> list[str]:
    if not has_timm():
        return []
    import timm

    return list(timm.list_models())


def _timm(name: str, granularity: str) -> Architecture:
    from warmstart.models.timm import timm_model

    return timm_model(name=name, granularity=granularity)


def _timm_weights(name: str) -> list[str]:
    from warmstart.models.published import timm_tags

    return list(timm_tags(name))


LIBRARIES = {
    "warmstart": Library(_own_names, _own, lambda name: [], classes=10, size=32),
    "torchvision": Library(_torchvision_names, _torchvision, _torchvision_weights),
    "timm": Library(_timm_names, _timm, _timm_weights),
}
