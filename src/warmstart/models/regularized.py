"""An architecture whose training is noisier: dropout, DropConnect, stochastic depth, pooling.

Layers keep their names and weights, and what evaluation does is the same; only fractional pooling
changes that.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torchvision.ops import StochasticDepth

from warmstart.errors import ConfigError
from warmstart.models.architecture import Architecture
from warmstart.models.cifar_resnet import Block
from warmstart.models.noisy import FractionalMaxPool, noisy
from warmstart.models.skeleton import skeleton
from warmstart.models.trace import trace
from warmstart.optim.regularization import Regularization

# For models that take images of any size.
_SIZE, _CHANNELS = 32, 3
_TIMM, _POOL = "warmstart.models.timm.timm_model", "pool"


@dataclasses.dataclass(frozen=True)
class _Changes:
    """What is other than in the plain model.

    Attributes:
        rates: By the path of a dropout layer or a residual block's noise: its rate.
        heads: By the path of a head: its rates of dropout and DropConnect.
        pools: Paths of max pooling that becomes fractional.
    """

    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    heads: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    pools: tuple[str, ...] = ()


def told(node: Mapping[str, Any], options: Regularization) -> Mapping[str, Any]:
    """Return the config of a model with what its constructor must be told of a regularization.

    timm builds the layers of stochastic depth only where their rate is not 0.

    Raises:
        ConfigError: The rate is given twice.
    """
    rate = options.stochastic_depth
    if rate is None or node["_target_"] != _TIMM:
        return node
    own = dict(node.get("options") or {})
    if "drop_path_rate" in own:
        raise ConfigError(
            f"regularization.stochastic_depth is {rate} and model.options.drop_path_rate is "
            f"{own['drop_path_rate']}, which is the same; leave out one of them"
        )
    return {**node, "options": {**own, "drop_path_rate": rate}}


def no_depth(name: str, options: Regularization) -> ConfigError:
    """Return the error for a model without residual branches that can be left out."""
    return ConfigError(
        f"regularization.stochastic_depth is {options.stochastic_depth}, but {name} has no "
        "residual blocks whose branches can be left out; use model=resnet20 or resnet56, an "
        "EfficientNet, ConvNeXt or Swin of torchvision, a timm model that takes drop_path_rate, or "
        "regularization.stochastic_depth=null"
    )


def fractionally_pooled(architecture: Architecture) -> Architecture:
    """Return small_cnn with fractional max pooling.

    Raises:
        ConfigError: It is another one, or has none to replace.
    """
    if architecture.name != "small_cnn" or _POOL not in _Called(architecture).order:
        raise _no_pool(architecture)
    return _changed(architecture, _Changes(pools=(_POOL,)))


def regularized(architecture: Architecture, options: Regularization) -> Architecture:
    """Return the architecture with dropout, DropConnect and stochastic depth as asked for.

    Args:
        architecture: Already cut off behind a group, and with the pooling of `options`.
        options: Those that concern no model are not looked at.

    Raises:
        ConfigError: An option has nothing to act on.
    """
    wanted = (options.dropout, options.stochastic_depth)
    if wanted == (None, None) and not (options.drop_connect or options.fractional_max_pool):
        return architecture
    called = _Called(architecture)
    if options.fractional_max_pool and _POOL not in called.order:
        raise _no_pool(architecture)
    rates, heads = _dropouts(architecture, called, options.dropout)
    rates |= _depth(architecture, called, options)
    if options.drop_connect:
        _check_linear(architecture, called, options.drop_connect)
        heads = {path: heads.get(path, 0.0) for path in architecture.heads}
    changes = _Changes(rates, {path: (p, options.drop_connect) for path, p in heads.items()})
    return _changed(architecture, changes)


class _Called:
    """A model without numbers, and the paths of its modules in the order of their first calls."""

    def __init__(self, architecture: Architecture) -> None:
        wanted = architecture.input
        size = (wanted.size if wanted else None) or _SIZE
        channels = wanted.channels if wanted else _CHANNELS
        self.model = skeleton(lambda: architecture.build(channels, 2, size))
        train = bool(architecture.auxiliary)  # whose layers work in training alone
        entered = trace(self.model, size=size, channels=channels, train=train).entered
        self.order = sorted(entered, key=lambda path: entered[path])

    def of(self, *kinds: type[nn.Module]) -> list[str]:
        """Return the paths of the modules of some kinds."""
        return [path for path in self.order if isinstance(self.model.get_submodule(path), kinds)]

    def before(self, path: str) -> str | None:
        """Return the layer that is called just before the one at `path`."""
        earlier = self.order[: self.order.index(path)]
        layers = (p for p in reversed(earlier) if not list(self.model.get_submodule(p).children()))
        return next(layers, None)


def _dropouts(
    architecture: Architecture, called: _Called, wanted: float | Mapping[str, float] | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the rates of dropout layers, and of dropout that is put before heads."""
    if wanted is None:
        return {}, {}
    present = called.of(Dropout)
    if not isinstance(wanted, Mapping):
        if not present:
            return {}, dict.fromkeys(architecture.heads, wanted)
        # Those of attention are not called by themselves, but their rate is read.
        layers = called.model.named_modules()
        return {path: wanted for path, layer in layers if isinstance(layer, Dropout)}, {}
    rates, heads = dict[str, float](), dict[str, float]()
    for path, rate in wanted.items():
        if path not in architecture.heads:
            raise ConfigError(
                f"regularization.dropout names {path!r}, but the head of {architecture.name} is "
                f"{' and '.join(architecture.heads)}; give a rate for that, or one number for all "
                "dropout layers"
            )
        heads[path] = rate
        before = called.before(path)
        if before in present:  # which several heads may share
            rates[str(before)] = 0.0
    return rates, heads


def _depth(
    architecture: Architecture, called: _Called, options: Regularization
) -> dict[str, float]:
    """Return the rates of residual blocks: of block l of L, l / L times that of the last one.

    Huang et al., Deep Networks with Stochastic Depth, ECCV 2016, eq. 4.
    """
    rate = options.stochastic_depth
    blocks = called.of(Block, StochasticDepth)
    # timm's own have a rate that grows linearly from 0.
    if rate and not blocks and not any(map(is_drop_path, called.model.modules())):
        raise no_depth(architecture.name, options)
    if rate is None:
        return {}
    return {path: rate * (index + 1) / len(blocks) for index, path in enumerate(blocks)}


def is_drop_path(module: nn.Module) -> bool:
    """Return whether a module is timm's stochastic depth, whose rate is ``drop_prob``."""
    # By its name: timm is an optional package, and takes a while to import.
    return type(module).__name__ == "DropPath" and hasattr(module, "drop_prob")


def _check_linear(architecture: Architecture, called: _Called, rate: float) -> None:
    for path in architecture.heads:
        kind = type(called.model.get_submodule(path))
        if kind is not nn.Linear:
            raise ConfigError(
                f"regularization.drop_connect is {rate}, but the head of {architecture.name} is a "
                f"{kind.__name__} ({path}), not a linear layer; use regularization.dropout"
            )


def _no_pool(architecture: Architecture) -> ConfigError:
    return ConfigError(
        "regularization.fractional_max_pool is true, but works only for the max pooling of "
        f"small_cnn (behind its second convolution), which {architecture.name} as given does not "
        "have; leave it out"
    )


def _changed(architecture: Architecture, changes: _Changes) -> Architecture:
    return dataclasses.replace(
        architecture, build=functools.partial(_build, architecture.build, changes)
    )


def _build(
    build: Callable[[int, int, int | None], nn.Module],
    changes: _Changes,
    channels: int,
    classes: int,
    size: int | None,
) -> nn.Module:
    model = build(channels, classes, size)
    for path, rate in changes.rates.items():
        layer = model.get_submodule(path)
        if isinstance(layer, Block):
            layer.drop_rate = rate
        else:
            setattr(layer, "p", rate)  # noqa: B010 (typed as a Module or Tensor)
    for path, (dropout, drop_connect) in changes.heads.items():
        layer = noisy(model.get_submodule(path), dropout=dropout, drop_connect=drop_connect)
        _put(model, path, layer)
    for path in changes.pools:
        _put(model, path, FractionalMaxPool())
    return model


def _put(model: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)
