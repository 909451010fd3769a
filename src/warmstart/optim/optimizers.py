"""Optimizers over layer groups: every group stands in the optimizer before step 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.layers import LayerGroup


def sgd(
    groups: Sequence[LayerGroup],
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_all: bool = False,
) -> torch.optim.Optimizer:
    """Return SGD with momentum over `groups`; `decay_all` as in `parameter_groups`."""
    _check_range("momentum", momentum, below=1)
    if nesterov and not momentum:
        raise ConfigError(
            "optimizer.nesterov is true, but optimizer.momentum is 0; set one of them"
        )
    parameters = parameter_groups(groups, lr=lr, weight_decay=weight_decay, decay_all=decay_all)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)


def adam(
    groups: Sequence[LayerGroup],
    *,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    decay_all: bool = False,
) -> torch.optim.Optimizer:
    """Return Adam over `groups` (weight decay as an L2 gradient).

    Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
    """
    first, second = _betas(betas)
    parameters = parameter_groups(groups, lr=lr, weight_decay=weight_decay, decay_all=decay_all)
    return torch.optim.Adam(parameters, lr=lr, betas=(first, second), fused=True)


def adamw(
    groups: Sequence[LayerGroup],
    *,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float = 0.01,
    decay_all: bool = False,
) -> torch.optim.Optimizer:
    """Return AdamW over `groups` (decoupled weight decay).

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.
    """
    first, second = _betas(betas)
    parameters = parameter_groups(groups, lr=lr, weight_decay=weight_decay, decay_all=decay_all)
    return torch.optim.AdamW(parameters, lr=lr, betas=(first, second), fused=True)


def parameter_groups(
    groups: Sequence[LayerGroup], *, lr: float, weight_decay: float, decay_all: bool
) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups: one or two per layer group, input first.

    Args:
        groups: The model's layer groups.
        lr: The base rate; the active phase sets the real one of each group at every step.
        weight_decay: For matrices and convolutions.
        decay_all: Decay biases and the weights of norms too.

    Raises:
        ConfigError: A rate or decay is negative or no number.
    """
    _check_range("lr", lr)
    _check_range("weight_decay", weight_decay)
    result = []
    for group in groups:
        matrices: list[nn.Parameter] = []
        vectors: list[nn.Parameter] = []
        for parameter in group.parameters.values():
            (matrices if parameter.ndim > 1 or decay_all else vectors).append(parameter)
        for parameters, decay in ((matrices, weight_decay), (vectors, 0.0)):
            if parameters:
                result.append(
                    {
                        "params": parameters,
                        "lr": lr,
                        "weight_decay": decay,
                        "layer_group": group.index,
                        "name": f"{group.name}{'' if decay == weight_decay else ' (no decay)'}",
                    }
                )
    return result


def _betas(betas: Sequence[float]) -> tuple[float, float]:
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise ConfigError(f"optimizer.betas is {betas!r}, but must be two numbers in [0, 1)")
    for beta in betas:
        _check_range("betas", beta, below=1)
    return betas[0], betas[1]


def _check_range(name: str, value: float, *, below: float = math.inf) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < below:
        wanted = "a number of at least 0" + ("" if below == math.inf else f" and below {below}")
        raise ConfigError(f"optimizer.{name} is {value!r}, but must be {wanted}")
