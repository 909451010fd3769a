"""What the weights are before step 0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as Norm

from warmstart.errors import ConfigError, choose
from warmstart.randomness import derive

SCHEMES = ("default", "kaiming", "xavier")


@dataclasses.dataclass(frozen=True)
class Scratch:
    """Fresh weights everywhere.

    Attributes:
        scheme: ``default`` (what torch's layers do themselves), ``kaiming`` (normal, fan-out, for
            ReLU; He et al., Delving Deep into Rectifiers, ICCV 2015, eq. 10 and 14) or ``xavier``
            (uniform; Glorot and Bengio, AISTATS 2010, eq. 16). Linear layers under ``kaiming`` keep
            unit variance (no ReLU follows the head); biases are zero under the latter two.
    """

    scheme: str = "kaiming"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise choose("init.scheme", self.scheme, SCHEMES)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Loaded weights under a fresh head.

    Attributes:
        weights: A file, the name of one of torchvision's weights, or ``source:NAME``; None takes
            the model's own default.
        head: ``fresh`` (torch's default initialization) or ``copy``, for weights of the same task.
    """

    weights: str | None = None
    head: str = "fresh"

    def __post_init__(self) -> None:
        if self.head not in ("fresh", "copy"):
            raise choose("init.head", self.head, ("fresh", "copy"))


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of the model and of the file.

    Attributes:
        matched: Names of the tensors that were loaded.
        fresh: Name to reason, for each tensor that was initialized instead.
        unused: Names in the file that the model has no place for.
    """

    matched: tuple[str, ...]
    fresh: dict[str, str]
    unused: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for the record."""
        return {"matched": len(self.matched), "fresh": self.fresh, "unused": list(self.unused)}

    def __str__(self) -> str:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in self.fresh.items())
        text = f"{len(self.matched)} tensors loaded"
        if self.fresh:
            text += f", {len(self.fresh)} initialized: {reasons}"
        if self.unused:
            text += f"; {len(self.unused)} in the file not used: {', '.join(self.unused[:6])}"
            text += ", ..." if len(self.unused) > 6 else ""
        return text


def initialize(model: nn.Module, *, scheme: str, seed: int) -> None:
    """Initialize every layer of `model` in place.

    A layer's numbers depend on the seed and its own name only, so another head, or one more
    layer, changes nothing elsewhere.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name, module in model.named_modules():
            if not any(True for _ in module.parameters(recurse=False)):
                continue
            torch.default_generator.manual_seed(derive(seed, "init", name))
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and scheme != "default":
                _initialize_layer(module, scheme)
            elif hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif not isinstance(module, Norm):
                raise ConfigError(
                    f"the layer {name} of type {type(module).__name__} has no initialization"
                )


def _initialize_layer(layer: nn.Module, scheme: str) -> None:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    if scheme == "xavier":
        nn.init.xavier_uniform_(weight)
    elif isinstance(layer, nn.Linear):
        nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[1]))
    else:
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)


def load(
    model: nn.Module, state: Mapping[str, Tensor], *, head: str, keep_head: bool, origin: str
) -> LoadReport:
    """Copy the tensors of `state` into `model`, in place, and say what became of each.

    Args:
        model: Already initialized: what is not loaded stays as it is.
        state: Tensor names without wrappers' prefixes.
        head: Path of the classifier.
        keep_head: Take over the classifier too.
        origin: The name of the weights, for messages.

    Raises:
        ConfigError: Less than half of the model's tensors below the head are in the file with
            their shape, or less than half of the file's are used: another architecture.
    """
    matched, fresh = [], {}
    own = model.state_dict()
    for name, tensor in own.items():
        if name.startswith(f"{head}.") and not keep_head:
            fresh[name] = "head"
        elif name not in state:
            # Older files do not have this counter, and nothing reads it.
            if not name.endswith("num_batches_tracked"):
                fresh[name] = "not in the file"
        elif state[name].shape != tensor.shape:
            fresh[name] = f"{_shape(state[name])} in the file, {_shape(tensor)} in the model"
        else:
            tensor.copy_(state[name])
            matched.append(name)
    unused = tuple(name for name in state if name not in own)
    body = [
        n for n in own if not n.startswith(f"{head}.") and not n.endswith("num_batches_tracked")
    ]
    loaded = len(set(body) & set(matched))
    offered = [n for n in state if not n.startswith(f"{head}.") and "num_batches" not in n]
    if loaded < max(1, len(body) / 2, len(offered) / 2):
        misfits = [f"{name} ({reason})" for name, reason in fresh.items() if reason != "head"]
        misfits += [f"{name} (not in the model)" for name in unused]
        raise ConfigError(
            f"{origin} fits {loaded} of the model's {len(body)} tensors below the head and holds "
            f"{len(offered)}, e.g. {next(iter(misfits), 'none')}: it is of another architecture; "
            "name the model that it was trained as, or other weights"
        )
    if keep_head and any(name.startswith(f"{head}.") for name in fresh):
        raise ConfigError(
            f"init.head=copy, but the head of {origin} does not fit the data's classes; "
            "use init.head=fresh"
        )
    return LoadReport(tuple(matched), fresh, unused)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
