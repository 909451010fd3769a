"""Random weights from scratch, by the published schemes.

With weights [out, in, *kernel], fan_in = in * kernel and fan_out = out * kernel (of a grouped
convolution: `in` per group, but all of `out`, as torch counts), the schemes are

- ``default``: what the model's own constructor left; the heads alone are drawn again, by torch's
  default for their layers, so that they depend on the seed and their name only;
- ``kaiming_normal``, ``kaiming_uniform``: std = gain / sqrt(fan); He et al., Delving Deep into
  Rectifiers, ICCV 2015, eq. 10 (in) and 14 (out); gain sqrt(2), for ReLU;
- ``xavier_normal``, ``xavier_uniform``: std = sqrt(2 / (fan_in + fan_out)); Glorot and Bengio,
  Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010, eq. 12
  and 16;
- ``lecun_normal``, ``lecun_uniform``: std = 1 / sqrt(fan_in); LeCun et al., Efficient BackProp,
  1998, eq. 16;
- ``orthogonal``: gain sqrt(2) times orthonormal rows or columns of the matrix [out, in * kernel],
  each group of a convolution by itself; Saxe et al., Exact solutions to the nonlinear dynamics of
  learning in deep linear neural networks, ICLR 2014.

They are drawn for convolutions, linear layers and the query, key and value matrices of
``nn.MultiheadAttention`` (each by itself), whose biases become zero. Norms start with weight 1,
bias 0 and fresh statistics. All else (class tokens, positional embeddings, layer scales) keeps the
constructor's values. In the heads, which no ReLU follows, the gain is 1 and the fan is fan_in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as BatchOrInstanceNorm
from torch.nn.modules.conv import _ConvNd as Convolution

from warmstart.errors import ConfigError, choose
from warmstart.randomness import derive

_FANS = ("in", "out")
_NORMS = (BatchOrInstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
# Fills one weight [out, in, *kernel] in place, given a gain and the fan to divide by.
_Fill = Callable[[Tensor, float, str], object]


def _by_one_fan(weight: Tensor, gain: float, fan: str, *, uniform: bool) -> None:
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    std = gain / math.sqrt(fan_in if fan == "in" else fan_out)
    if uniform:
        nn.init.uniform_(weight, -math.sqrt(3) * std, math.sqrt(3) * std)
    else:
        nn.init.normal_(weight, std=std)


def _by_fan_in(weight: Tensor, gain: float, fan: str, *, uniform: bool) -> None:
    _by_one_fan(weight, 1.0, "in", uniform=uniform)


_KAIMING: dict[str, _Fill] = {
    "kaiming_normal": functools.partial(_by_one_fan, uniform=False),
    "kaiming_uniform": functools.partial(_by_one_fan, uniform=True),
}
_OTHERS: dict[str, _Fill] = {
    "xavier_normal": lambda weight, gain, fan: nn.init.xavier_normal_(weight),
    "xavier_uniform": lambda weight, gain, fan: nn.init.xavier_uniform_(weight),
    "lecun_normal": functools.partial(_by_fan_in, uniform=False),
    "lecun_uniform": functools.partial(_by_fan_in, uniform=True),
    "orthogonal": lambda weight, gain, fan: nn.init.orthogonal_(weight, gain),
}
SCHEMES = ("default", *_KAIMING, *_OTHERS)


def check_scheme(scheme: str, fan: str | None) -> None:
    """Check the two options of `initialize`.

    Raises:
        ConfigError: An unknown name, or a `fan` for a scheme that has no choice of it.
    """
    if scheme not in SCHEMES:
        raise choose("init.scheme", scheme, SCHEMES)
    if fan is None:
        return
    if fan not in _FANS:
        raise choose("init.fan", fan, _FANS)
    if scheme not in _KAIMING:
        raise ConfigError(
            f"init.fan={fan} has no effect under init.scheme={scheme}; "
            f"leave it out, or use one of {', '.join(_KAIMING)}"
        )


def initialize(
    model: nn.Module, *, scheme: str, fan: str | None, seed: int, heads: Sequence[str]
) -> None:
    """Give `model` fresh weights, in place.

    A layer's numbers depend on the seed and its own name only, so another head, or one more
    layer, changes nothing elsewhere. The schemes stand at the top of this file.

    Args:
        model: As its constructor left it.
        scheme: One of `SCHEMES`.
        fan: ``in`` or ``out``, for Kaiming only; None means out for convolutions, in for the rest.
        seed: Of the run.
        heads: Paths of the classifiers, auxiliary ones too.

    Raises:
        ConfigError: `check_scheme` raises it, or a layer computes its weight from other parameters.
    """
    check_scheme(scheme, fan)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name, module in model.named_modules():
            in_head = any(name == head or name.startswith(f"{head}.") for head in heads)
            torch.default_generator.manual_seed(derive(seed, "init", name))
            if scheme == "default":
                if in_head and hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            elif isinstance(module, _NORMS):
                module.reset_parameters()
            elif isinstance(module, Convolution | nn.Linear | nn.MultiheadAttention):
                _draw(module, name, scheme=scheme, fan=fan, in_head=in_head)


def _draw(layer: nn.Module, name: str, *, scheme: str, fan: str | None, in_head: bool) -> None:
    gain = 1.0 if in_head else math.sqrt(2.0)
    default_fan = "out" if isinstance(layer, Convolution) else "in"
    fill = (_KAIMING | _OTHERS)[scheme]
    for weight in _weights(layer):
        if not isinstance(weight, nn.Parameter):
            raise ConfigError(
                f"init.scheme={scheme} cannot set the weight of the layer {name}, which is computed"
                " from other parameters; use init.scheme=default"
            )
        for matrix in _matrices(layer, weight, scheme):
            fill(matrix, gain, "in" if in_head else fan or default_fan)
    for bias in (getattr(layer, "bias", None), getattr(layer, "in_proj_bias", None)):
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)


def _weights(layer: nn.Module) -> Iterator[object]:
    if not isinstance(layer, nn.MultiheadAttention):
        yield layer.weight
    elif layer._qkv_same_embed_dim:
        yield layer.in_proj_weight
    else:  # keys or values of another width than the queries
        yield from (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)


def _matrices(layer: nn.Module, weight: Tensor, scheme: str) -> Sequence[Tensor]:
    """Cut what is stored together but drawn apart, along the outputs."""
    if isinstance(layer, nn.MultiheadAttention) and weight is layer.in_proj_weight:
        return weight.chunk(3)
    # Over all groups at once the filters of a depthwise convolution would be far too small:
    # there are more of them than a kernel has entries, and only so many can be orthonormal.
    if isinstance(layer, Convolution) and scheme == "orthogonal":
        return weight.chunk(layer.groups)
    return (weight,)
