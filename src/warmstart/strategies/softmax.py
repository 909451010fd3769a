"""Multinomial logistic regression by L-BFGS."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from warmstart.strategies.blocks import Blocks

_TOLERANCE = 1e-5
_ITERATIONS = 1000


def softmax_regression(
    blocks: Blocks,
    labels: np.ndarray,
    *,
    classes: int,
    C: float,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = _TOLERANCE,
) -> tuple[Tensor, Tensor, int]:
    """Minimize |W|^2 / 2 + C sum_i -log softmax(W x_i + b)[y_i]; the bias b is not penalized.

    Divided by C n, so that the gradient's tolerance is one of the mean loss. It is scikit-learn's
    objective; theirs needs all features in memory.

    Args:
        blocks: Features x.
        labels: y, int64 [n].
        classes: Their number.
        C: Inverse strength of the penalty, above 0.
        start: Weight and bias to begin with; None for 0.
        tolerance: Of the gradient's largest entry.

    Returns:
        Weight, float64 [classes, d]; bias, [classes]; and the number of iterations, which ended at
        1000 before the tolerance was reached.
    """
    target = torch.from_numpy(labels)
    penalty = 1 / (C * blocks.count)
    shape = (classes, blocks.width + 1)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).view(shape)
        weight, bias = parameters[:, :-1], parameters[:, -1]
        loss, slope = 0.0, torch.zeros(shape, dtype=torch.float64)
        for place, x in blocks:
            logs = torch.log_softmax(x @ weight.T + bias, 1)
            own = target[place, None]
            loss -= float(logs.gather(1, own).sum())
            surplus = logs.exp_().scatter_add_(
                1, own, -torch.ones(own.shape).double()
            )  # p - onehot(y)
            slope[:, :-1] += surplus.T @ x
            slope[:, -1] += surplus.sum(0)
        slope /= blocks.count
        slope[:, :-1] += penalty * weight
        value = loss / blocks.count + penalty / 2 * float(weight.square().sum())
        return value, slope.flatten().numpy()

    first = torch.zeros(shape, dtype=torch.float64)
    if start is not None:
        first[:, :-1], first[:, -1] = start
    found = scipy.optimize.minimize(
        objective,
        first.flatten().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": _ITERATIONS,
            "maxfun": 2 * _ITERATIONS,
            "maxls": 50,
            "gtol": tolerance,
            "ftol": 64 * np.finfo(float).eps,
        },
    )
    result = torch.from_numpy(found.x).view(shape)
    return result[:, :-1].clone(), result[:, -1].clone(), int(found.nit)
