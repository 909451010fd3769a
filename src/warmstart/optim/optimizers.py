"""Optimizers over layer groups: every group stands in the optimizer before step 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.layers import LayerGroup
from warmstart.optim.decoupled import DecoupledSgd


def sgd(
    groups: Sequence[LayerGroup],
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    decay_all: bool = False,
) -> torch.optim.Optimizer:
    """Return SGD over `groups`; `decay_all` as in `parameter_groups`.

    With momentum v <- momentum v + g and w <- w - lr v. Nesterov's moves by g + momentum v in place
    of v: Sutskever et al., On the importance of initialization and momentum in deep learning, ICML
    2013, written for the weights at which the gradient is taken.

    Args:
        groups: Of the model.
        lr: The base rate.
        momentum: In [0, 1); 0 is plain SGD.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: An L2 gradient, or as `DecoupledSgd` says.
        decoupled: Which of both.
    """
    _check_range("momentum", momentum, below=1)
    if nesterov and not momentum:
        raise ConfigError(
            "optimizer.nesterov is true, but optimizer.momentum is 0; set one of them"
        )
    parameters = parameter_groups(groups, lr=lr, weight_decay=weight_decay, decay_all=decay_all)
    if decoupled and not weight_decay:
        raise ConfigError(
            "optimizer.decoupled is true, but optimizer.weight_decay is 0; set one of them"
        )
    if decoupled:
        return DecoupledSgd(parameters, lr=lr, momentum=momentum, nesterov=nesterov)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)


def adagrad(
    groups: Sequence[LayerGroup],
    *,
    lr: float,
    weight_decay: float = 0.0,
    decay_all: bool = False,
) -> torch.optim.Optimizer:
    """Return Adagrad over `groups` (weight decay as an L2 gradient).

    Duchi, Hazan and Singer, Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization, JMLR 2011, section 1.1, with a diagonal matrix: w <- w - lr g / sqrt(sum g^2).
    """
    parameters = parameter_groups(groups, lr=lr, weight_decay=weight_decay, decay_all=decay_all)
    return torch.optim.Adagrad(parameters, lr=lr, fused=True)


def rmsprop(
    groups: Sequence[LayerGroup],
    *,
    lr: float,
    alpha: float = 0.9,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    decay_all: bool = False,
) -> torch.optim.Optimizer:
    """Return RMSProp over `groups` (weight decay as an L2 gradient).

    Tieleman and Hinton, Neural Networks for Machine Learning, lecture 6.5, 2012:
    s <- alpha s + (1 - alpha) g^2 and w <- w - lr g / sqrt(s), which momentum sums up as in `sgd`.
    """
    _check_range("alpha", alpha, below=1)
    _check_range("momentum", momentum, below=1)
    parameters = parameter_groups(groups, lr=lr, weight_decay=weight_decay, decay_all=decay_all)
    return torch.optim.RMSprop(parameters, lr=lr, alpha=alpha, momentum=momentum)


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
