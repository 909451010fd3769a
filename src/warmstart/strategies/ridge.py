"""Ridge regression on one-hot targets, and its leave-one-out error, both in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from warmstart.strategies.blocks import Blocks

Solve = Callable[[float], Tensor]
"""From a penalty to weights [classes, d]."""

Targets = Callable[[slice], Tensor]
"""From some rows to their mean-free targets, float64 [b, classes]."""


def ridge_path(
    blocks: Blocks, labels: np.ndarray, *, classes: int, penalties: Sequence[float]
) -> tuple[list[float], Solve, Tensor]:
    """Return the leave-one-out error for each penalty, and what solves for one.

    With the mean-free features X [n, d] and targets Y [n, classes], the weights are
    (X'X + penalty I)^-1 X'Y, and the prediction of an image by a fit without it misses its target
    by r_i / (1 - h_i), where r_i is the residual of the fit with all, and h_i = 1/n + x_i'
    (X'X + penalty I)^-1 x_i its leverage; 1/n is that of the intercept. One eigendecomposition
    serves all penalties: that of X'X, which needs one block at a time, or with more dimensions
    than images that of XX'.

    Sources: A. Hoerl and R. Kennard, "Ridge Regression", Technometrics 1970; G. Golub, M. Heath
    and G. Wahba, "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter",
    Technometrics 1979, equation 1.3 (PRESS).

    Args:
        blocks: X, of mean 0.
        labels: int64 [n].
        classes: Their number.
        penalties: Each above 0.

    Returns:
        For each penalty the squared error, summed over classes, as a mean over images; a function
        from a penalty to weights [classes, d]; and the intercept [classes], which is that of all
        penalties: the share of each class.
    """
    own = torch.from_numpy(labels)
    intercept = torch.bincount(own, minlength=classes).double() / blocks.count

    def targets(place: slice) -> Tensor:
        return F.one_hot(own[place], classes) - intercept

    way = _by_images if blocks.count < blocks.width else _by_dimensions
    errors, solve = way(blocks, targets, penalties)
    return errors, solve, intercept


def _by_dimensions(
    blocks: Blocks, targets: Targets, penalties: Sequence[float]
) -> tuple[list[float], Solve]:
    products, moments = torch.zeros(()), torch.zeros(())
    for place, x in blocks:
        products = products + x.T @ x
        moments = moments + x.T @ targets(place)
    values, vectors = torch.linalg.eigh(products)
    values = values.clamp(min=0)  # rounding makes zeros negative
    rotated = vectors.T @ moments
    errors = [0.0] * len(penalties)
    for place, x in blocks:
        u = x @ vectors
        for index, penalty in enumerate(penalties):
            shrunk = 1 / (values + penalty)
            residual = targets(place) - u @ (shrunk[:, None] * rotated)
            spare = 1 - 1 / blocks.count - u.square() @ shrunk
            errors[index] += float((residual / spare[:, None]).square().sum()) / blocks.count
    return errors, lambda penalty: (vectors @ (rotated / (values + penalty)[:, None])).T


def _by_images(
    blocks: Blocks, targets: Targets, penalties: Sequence[float]
) -> tuple[list[float], Solve]:
    x = blocks.whole()
    values, vectors = torch.linalg.eigh(x @ x.T)
    values = values.clamp(min=0)
    rotated = vectors.T @ targets(slice(None))

    def dual(penalty: float) -> Tensor:
        coefficients: Tensor = vectors @ (rotated / (values + penalty)[:, None])
        return coefficients

    errors = []
    for penalty in penalties:
        # Both times the penalty, which cancels; a small residual over a small rest would not.
        spare = vectors.square() @ (1 / (values + penalty)) - 1 / (blocks.count * penalty)
        errors.append(float((dual(penalty) / spare[:, None]).square().sum()) / blocks.count)
    return errors, lambda penalty: dual(penalty).T @ x
