"""How well features suit a task, from the features alone: nothing is trained."""

from __future__ import annotations

import math

import numpy as np

# Rows that are taken at once: a copy in double precision of so many fits beside the features.
_ROWS = 4096
_SIMILARITIES = 2**24  # that are compared at once: 128 MiB

# LogME's evidence has no bound where features separate the classes without any error. The
# targets are 0 and 1; a noise of a thousandth is as good as none.
_LEAST_VARIANCE = 1e-6
_LEAST_SIGNAL = 1e-12  # of the noise: a class that the features know nothing about
_ROUNDS, _TOLERANCE = 1000, 1e-9  # of the fixed point, and in the score that it gives


def log_me(features: np.ndarray, labels: np.ndarray) -> float:
    """Return LogME: the log evidence of linear models of the one-hot labels, per image.

    For each class the targets y, 1 for its images and 0 for the others, are modelled as
    F w + noise with w ~ N(0, I / alpha) and noise ~ N(0, I / beta). The evidence p(y | F) is
    maximized over alpha and beta by MacKay's fixed point, and its logarithm divided by n; the
    score is the mean over the classes that occur. 1 / beta is at least 1e-6. Features are taken
    as they are, neither centred nor scaled; one factor on all of them changes nothing.

    You, Liu, Wang and Long, LogME: Practical Assessment of Pre-trained Models for Transfer
    Learning, ICML 2021, equations 2 and 3 and algorithm 1.

    Args:
        features: Float [n, d].
        labels: Integers [n].

    Raises:
        ValueError: A feature is not finite, or all labels are equal.
    """
    targets = _one_hot(labels)
    if not np.isfinite(features).all():
        raise ValueError("some features are not finite")
    if targets.shape[1] < 2:
        raise ValueError("all labels are equal, so that there is nothing to tell apart")
    values, explained = _spectrum(features, targets)
    rest = np.maximum(targets.sum(axis=0) - explained.sum(axis=0), 0.0)
    return float(_evidence(values, explained, rest, n=len(labels)).mean()) / len(labels)


def _one_hot(labels: np.ndarray) -> np.ndarray:
    """Return the targets of the classes that occur: float64 [n, classes]."""
    targets: np.ndarray = labels[:, None] == np.unique(labels)[None, :]
    return targets.astype(np.float64)


def _spectrum(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the features' squared singular values, and how much of the targets lies along each.

    From the products of the shorter side, which take far less time than the decomposition itself.

    Args:
        features: Float [n, d] of rank r.
        targets: float64 [n, k].

    Returns:
        float64 [r], and the squares of the left singular vectors' products with the targets,
        float64 [r, k].
    """
    n, d = features.shape
    if d > n:
        wide = np.asarray(features, np.float64)
        values, vectors = _eigen(wide @ wide.T, n, d)
        return values, (vectors.T @ targets) ** 2
    gram, along = np.zeros((d, d)), np.zeros((d, targets.shape[1]))
    for start in range(0, n, _ROWS):
        rows = np.asarray(features[start : start + _ROWS], np.float64)
        gram += rows.T @ rows
        along += rows.T @ targets[start : start + _ROWS]
    values, vectors = _eigen(gram, n, d)
    return values, (vectors.T @ along) ** 2 / values[:, None]


def _eigen(products: np.ndarray, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues above rounding of a positive matrix, and their vectors in columns."""
    values, vectors = np.linalg.eigh(products)
    real = values > max(values[-1], 0.0) * max(n, d) * np.finfo(np.float64).eps
    return values[real], vectors[:, real]


def _evidence(values: np.ndarray, explained: np.ndarray, rest: np.ndarray, *, n: int) -> np.ndarray:
    """Return the greatest log evidence of each class's targets.

    Args:
        values: Squared singular values of the features, float64 [r], the largest one last.
        explained: Squared products of the left singular vectors with the targets, [r, k].
        rest: Squared norm of the targets outside the features' span, [k].
        n: Images.

    Returns:
        float64 [k].
    """
    if not len(values):  # features of zeros: noise alone
        values, explained = np.ones(1), np.zeros((1, len(rest)))
    squares = values[:, None]
    beta = np.ones(len(rest))
    # Not 1 as in the paper: from a start in the features' own scale, this does not matter.
    alpha = np.full(len(rest), values.mean())
    score = np.full(len(rest), -np.inf)
    for _ in range(_ROUNDS):
        both = alpha + beta * squares
        gamma = (beta * squares / both).sum(axis=0)
        weights = (beta**2 * squares * explained / both**2).sum(axis=0)
        residual = (explained * (alpha / both) ** 2).sum(axis=0) + rest
        free = np.maximum(n - gamma, np.finfo(np.float64).tiny)
        beta = 1 / np.maximum(residual / free, _LEAST_VARIANCE)
        alpha = gamma / np.maximum(weights, gamma * _LEAST_SIGNAL / (beta * values[-1]))
        before, score = score, _log_density(squares / alpha, 1 / beta, explained, rest, n=n)
        if np.abs(score - before).max() < _TOLERANCE * n:
            break
    return score


def _log_density(
    signal: np.ndarray, noise: np.ndarray, explained: np.ndarray, rest: np.ndarray, *, n: int
) -> np.ndarray:
    """Return log N(y; 0, F F^T / alpha + I / beta) in the features' singular basis.

    Args:
        signal: Variances that the features add along their r directions, [r, k].
        noise: 1 / beta, [k].
        explained: Squares of the targets along these directions, [r, k].
        rest: Their squared norm outside, [k].
        n: Images.
    """
    squares = (explained / (signal + noise)).sum(axis=0) + rest / noise
    volume = np.log1p(signal / noise).sum(axis=0) + n * np.log(2 * math.pi * noise)
    return np.asarray(-(squares + volume) / 2)


def knn_loo_accuracy(features: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """Return the leave-one-out accuracy of the k nearest neighbours by cosine similarity.

    Each image gets the label that most of its neighbours have; of labels with as many votes, that
    whose neighbour is nearest. Of neighbours that are equally near, it is left open which count.

    Args:
        features: Float [n, d].
        labels: Integers [n].
        k: Neighbours, 1 ... min(n - 1, 40).

    Raises:
        ValueError: `k` is outside of that.
    """
    n = len(features)
    # Up to there, the weights below are exact.
    if not 1 <= k <= min(n - 1, 40):
        raise ValueError(f"k is {k}, but must be between 1 and {min(n - 1, 40)}")
    places = np.unique(labels, return_inverse=True)[1]
    directions = np.asarray(features, np.float32)
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions / np.maximum(norms, np.finfo(np.float32).tiny)
    opposite = -directions.T
    # A nearer neighbour outweighs all later ones together, and all of that is less than a vote.
    votes = 1 + 0.5 ** np.arange(1, k + 1)
    right = 0
    for start in range(0, n, step := max(1, _SIMILARITIES // (4 * n))):
        far = directions[start : start + step] @ opposite
        rows = np.arange(len(far))
        far[rows, start + rows] = np.inf
        near = np.argpartition(far, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(far, near, axis=1), axis=1, kind="stable")
        near = np.take_along_axis(near, order, axis=1)
        counts = np.zeros((len(far), places.max() + 1))
        np.add.at(counts, (rows[:, None], places[near]), votes)
        right += int((counts.argmax(axis=1) == places[start + rows]).sum())
    return right / n


def nearest_mean_accuracy(
    train: np.ndarray, labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray
) -> float:
    """Return the accuracy on `val` of the class whose mean of `train` is nearest (Euclidean).

    Of means that are equally near, the one of the lower label counts.

    Args:
        train: Float [n, d].
        labels: Integers [n].
        val: Float [m, d].
        val_labels: Integers [m].
    """
    classes = np.unique(labels)
    means = np.stack([train[labels == label].mean(axis=0, dtype=np.float64) for label in classes])
    right = 0
    for start in range(0, len(val), _ROWS):
        rows = np.asarray(val[start : start + _ROWS], np.float64)
        # |x - m|^2 without |x|^2, which is the same for all means.
        distances = (means**2).sum(axis=1) - 2 * rows @ means.T
        right += int((classes[distances.argmin(axis=1)] == val_labels[start:][: len(rows)]).sum())
    return right / len(val)
