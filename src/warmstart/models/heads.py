"""The classifier of a model: found by what the number of classes changes, and replaced alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from warmstart.errors import ConfigError
from warmstart.models.trace import Calls

# Models are built for this many classes and then get another classifier, so that all the other
# weights are drawn from the same numbers for every task. It is that of the published weights.
CLASSES = 1000


def class_dependent(model: nn.Module, other: nn.Module) -> tuple[str, ...]:
    """Return the paths of the modules whose parameters depend on the number of classes.

    Args:
        model: Built for some number of classes.
        other: The same for another number.
    """
    shapes = {name: parameter.shape for name, parameter in other.named_parameters()}
    changed = [name for name, p in model.named_parameters() if shapes.get(name) != p.shape]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in changed))


def find_heads(candidates: Sequence[str], calls: Calls) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tell the classifier from auxiliary heads, which do not run in evaluation.

    Args:
        candidates: Paths of the modules that depend on the number of classes.
        calls: What a forward pass of the model in evaluation did.

    Returns:
        The paths of the classifier, and those of the auxiliary heads: outermost modules that do
        not run in evaluation.
    """
    heads = tuple(path for path in candidates if path in calls.entered)
    auxiliary = (_outermost(path, calls.entered) for path in candidates if path not in heads)
    return heads, tuple(dict.fromkeys(auxiliary))


def _outermost(path: str, called: dict[str, int]) -> str:
    parts = path.split(".")
    prefixes = [".".join(parts[: length + 1]) for length in range(len(parts))]
    return next(prefix for prefix in prefixes if not any(_within(p, prefix) for p in called))


def _within(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}.")


def last_layer(model: nn.Module, path: str) -> str:
    """Return the path of the last layer with weights under `path`, which gives the classes."""
    layers = (n for n, m in model.get_submodule(path).named_modules() if hasattr(m, "weight"))
    return f"{path}.{list(layers)[-1]}"


def replace_head(model: nn.Module, path: str, classes: int) -> None:
    """Put a classifier for `classes` classes in the place of the one at `path`.

    It is like the old one in all else. Its weights are torch's default; the generator is left as
    it was, so that everything built later is the same for every number of classes.

    Raises:
        ConfigError: The module is neither a linear layer nor an ordinary convolution.
    """
    old = model.get_submodule(path)
    if not isinstance(old, nn.Linear | nn.Conv2d) or getattr(old, "groups", 1) != 1:
        raise ConfigError(
            f"the classifier {path} is a {type(old).__name__}, but must be a linear layer or a "
            "convolution to be replaced; choose another model"
        )
    new = _like(old, old.weight.new_empty(classes, *old.weight.shape[1:]))
    if old.bias is not None:
        new.bias = nn.Parameter(old.bias.new_empty(classes))
    setattr(new, "out_features" if isinstance(old, nn.Linear) else "out_channels", classes)
    _put(model, path, new)
    # timm and some of torchvision keep the number beside the layer.
    parents = [path[:place] for place, letter in enumerate(path) if letter == "."]
    for module in (model, *(model.get_submodule(parent) for parent in parents)):
        if isinstance(getattr(module, "num_classes", None), int):
            setattr(module, "num_classes", classes)  # noqa: B010 (typed as a Module or Tensor)


def replace_first_convolution(model: nn.Module, path: str, channels: int) -> None:
    """Put a convolution that takes `channels` channels in the place of the one at `path`.

    Its weights are torch's default; everything else, and the generator, is left as it was.
    """
    old = model.get_submodule(path)
    assert isinstance(old, nn.Conv2d)
    new = _like(old, old.weight.new_empty(old.out_channels, channels, *old.kernel_size))
    setattr(new, "in_channels", channels)  # noqa: B010
    _put(model, path, new)


def _like(old: nn.Module, weight: Tensor) -> nn.Module:
    new = copy.deepcopy(old)
    new.weight = nn.Parameter(weight)
    return new


def _put(model: nn.Module, path: str, new: nn.Module) -> None:
    with torch.random.fork_rng(devices=[]):
        new.reset_parameters()  # type: ignore[operator]
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)
