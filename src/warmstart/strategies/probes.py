"""Probes: classifiers that are fitted to features by a solver of their own, without steps.

Where several strengths are tried, validation decides: by the loss of logistic regression, since few
images leave many accuracies equal; otherwise by the accuracy, and of equal ones by the loss that
was minimized. At last the simplest wins (the smallest C, the smallest k).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warmstart.errors import ConfigError
from warmstart.models.calibration import nearest_mean
from warmstart.models.neighbours import Neighbours
from warmstart.strategies.blocks import Blocks, Loss, Rows, judged
from warmstart.strategies.ridge import ridge_path
from warmstart.strategies.softmax import softmax_regression

# Validation images that look for their neighbours at once.
_QUERIES = 256
# Of liblinear. What needs more is separated with too small a margin to be worth it.
_PASSES = 50

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Features [n, d] of images, and their labels, int64 [n]."""

    rows: Rows
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier of features.

    Attributes:
        head: Maps float32 [b, d] to logits [b, classes].
        notes: What was chosen, and ``candidates``: an entry for each choice that there was.
    """

    head: nn.Linear | Neighbours
    notes: dict[str, Any]


@runtime_checkable
class Probe(Protocol):
    """A strategy that fits the head to features."""

    def fit(self, train: Sample, val: Sample, *, classes: int, seed: int) -> Fitted:
        """Return the head for `classes` classes, fitted to `train` and chosen on `val`."""
        ...


class SVM:
    """A linear support vector machine for each class against the rest, by scikit-learn.

    Each minimizes |w|^2 / 2 + C sum_i max(0, 1 - y_i (w x_i + b))^2. All features are in memory.
    A C that 50 passes do not suffice for is the last one: larger ones take longer still.

    Source: R.-E. Fan et al., "LIBLINEAR: A Library for Large Linear Classification", JMLR 2008.

    Args:
        C: One, or several to choose from.
        standardize: Bring each dimension to mean 0 and variance 1 first.
    """

    def __init__(self, *, C: float | Sequence[float], standardize: bool = True) -> None:
        self.C, self.standardize = _strengths(C), standardize

    def fit(self, train: Sample, val: Sample, *, classes: int, seed: int) -> Fitted:
        from sklearn.svm import LinearSVC

        blocks = Blocks(train.rows)
        if self.standardize:
            blocks = blocks.centered(standardize=True)
        x = blocks.whole().numpy()
        judge = _Judge(val, "val/squared_hinge", _squared_hinge, accuracy_first=True)
        for C in self.C:
            solver = LinearSVC(C=C, random_state=seed, max_iter=_PASSES)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it did not converge: the record says it
                solver.fit(x, train.labels)
            weight, bias = torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_)
            if classes == 2:  # it gives the second class alone
                weight, bias = torch.cat([-weight, weight]), torch.cat([-bias, bias])
            judge.see(C, blocks.unfolded(weight, bias), passes=int(solver.n_iter_))
            if solver.n_iter_ >= _PASSES:
                break
        return judge.best()


class Logistic:
    """Multinomial logistic regression: see `softmax_regression`.

    Args:
        C: One, or several to choose from.
        standardize: Bring each dimension to mean 0 and variance 1 first.
    """

    def __init__(self, *, C: float | Sequence[float], standardize: bool = True) -> None:
        self.C, self.standardize = _strengths(C), standardize

    def fit(self, train: Sample, val: Sample, *, classes: int, seed: int) -> Fitted:
        blocks = Blocks(train.rows)
        if self.standardize:
            blocks = blocks.centered(standardize=True)
        judge, found = _Judge(val, "val/loss", _cross_entropy, accuracy_first=False), None
        for C in self.C:  # the solution of one is a good start for the next
            weight, bias, iterations = softmax_regression(
                blocks, train.labels, classes=classes, C=C, start=found
            )
            found = weight, bias
            judge.see(C, blocks.unfolded(weight, bias), iterations=iterations)
        return judge.best()


class Ridge:
    """Least squares on one-hot targets: |W|^2 / 2 + C sum_i |y_i - W x_i - b|^2 is minimal.

    Of several C that with the least squared error when each image is left out: see `ridge_path`.

    Args:
        C: One, or several to choose from.
        standardize: Bring each dimension to mean 0 and variance 1 first.
    """

    def __init__(self, *, C: float | Sequence[float], standardize: bool = True) -> None:
        self.C, self.standardize = _strengths(C), standardize

    def fit(self, train: Sample, val: Sample, *, classes: int, seed: int) -> Fitted:
        blocks = Blocks(train.rows).centered(standardize=self.standardize)
        penalties = [1 / (2 * C) for C in self.C]
        errors, solve, intercept = ridge_path(
            blocks, train.labels, classes=classes, penalties=penalties
        )
        best = int(np.argmin(errors))
        candidates = [
            {"C": C, "leave_one_out/squared_error": error}
            for C, error in zip(self.C, errors, strict=True)
        ]
        _tell_edge(self.C, best)
        linear = blocks.unfolded(solve(penalties[best]), intercept)
        return Fitted(_linear(*linear), {"C": self.C[best], "candidates": candidates})


class NearestMean:
    """The class whose mean is nearest; a linear classifier. See `calibration.class_means`."""

    def fit(self, train: Sample, val: Sample, *, classes: int, seed: int) -> Fitted:
        labels = torch.from_numpy(train.labels)
        features = ((x, labels[place]) for place, x in Blocks(train.rows))
        return Fitted(_linear(*nearest_mean(features, classes, option="strategy=nearest_mean")), {})


class KNN:
    """The vote of the nearest training images: see `Neighbours`. Their features are in memory.

    Args:
        k: How many vote: one number, or several to choose from.
        distance: ``cosine`` or ``euclidean``.
    """

    def __init__(self, *, k: int | Sequence[int], distance: str = "cosine") -> None:
        values = [k] if isinstance(k, int) else list(k)
        if not values or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
            raise ConfigError(f"strategy.k is {k!r}, but must be a whole number, or a list of some")
        if min(values) < 1:
            raise ConfigError(f"strategy.k is {k!r}, but must be at least 1")
        if distance not in ("cosine", "euclidean"):
            raise ConfigError(f"strategy.distance is {distance!r}, but must be cosine or euclidean")
        self.k, self.cosine = sorted(set(values)), distance == "cosine"

    def fit(self, train: Sample, val: Sample, *, classes: int, seed: int) -> Fitted:
        count = len(train.labels)
        usable = [k for k in self.k if k <= count]
        if not usable:
            raise ConfigError(
                f"strategy.k is {self.k[0]}, but there are only {count} training images; give "
                f"strategy.k={count} or less"
            )
        bank = train.rows[np.arange(count)].float()
        labels = torch.from_numpy(train.labels)

        def head(k: int) -> Neighbours:
            return Neighbours(bank, labels, k=k, classes=classes, cosine=self.cosine)

        search = head(usable[-1])
        rows = np.arange(len(val.labels))
        parts = [rows[start : start + _QUERIES] for start in range(0, len(rows), _QUERIES)]
        nearest = torch.cat([search.nearest(val.rows[part], usable[-1]) for part in parts])
        right = [_right(search.votes(nearest[:, :k]), val.labels) for k in usable]
        best = int(np.argmax(right))
        pairs = zip(usable, right, strict=True)
        candidates = [{"k": k, "val/accuracy": value} for k, value in pairs]
        return Fitted(head(usable[best]), {"k": usable[best], "candidates": candidates})


class _Judge:
    """Keeps the best of several linear classifiers on validation.

    Args:
        val: The features and labels of validation.
        name: Of the loss, for the record.
        loss: Of which the smallest is best.
        accuracy_first: The loss only decides between equal accuracies.
    """

    def __init__(self, val: Sample, name: str, loss: Loss, *, accuracy_first: bool) -> None:
        self._blocks, self._labels = Blocks(val.rows), val.labels
        self._name, self._loss, self._accuracy_first = name, loss, accuracy_first
        self._candidates: list[dict[str, Any]] = []
        self._best: tuple[tuple[float, float], int, tuple[Tensor, Tensor]] | None = None

    def see(self, C: float, linear: tuple[Tensor, Tensor], **notes: int) -> None:
        """Note the classifier for a C; the smallest comes first."""
        accuracy, loss = judged(self._blocks, self._labels, linear, self._loss)
        rank = (-accuracy if self._accuracy_first else 0.0, loss)
        if self._best is None or rank < self._best[0]:
            self._best = rank, len(self._candidates), linear
        self._candidates.append({"C": C, "val/accuracy": accuracy, self._name: loss, **notes})

    def best(self) -> Fitted:
        """Return the best of what was seen."""
        assert self._best is not None
        _, best, linear = self._best
        strengths = [candidate["C"] for candidate in self._candidates]
        _tell_edge(strengths, best)
        return Fitted(_linear(*linear), {"C": strengths[best], "candidates": self._candidates})


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum")


def _squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    signs = 2 * F.one_hot(labels, logits.shape[1]) - 1
    return (1 - signs * logits).clamp(min=0).square().sum()


def _right(logits: Tensor, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == torch.from_numpy(labels)).double().mean())


def _tell_edge(strengths: Sequence[float], best: int) -> None:
    if len(strengths) > 1 and best == len(strengths) - 1:
        _log.info(
            "the best C is the largest that was tried, %g: strategy.C may name larger ones",
            strengths[best],
        )


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    classes, width = weight.shape
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(width, classes)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def _strengths(C: float | Sequence[float]) -> list[float]:
    values = [C] if isinstance(C, int | float) else list(C)
    numbers = all(not isinstance(v, bool) and isinstance(v, int | float) for v in values)
    if not values or not numbers or not all(0 < v < math.inf for v in values):
        raise ConfigError(
            f"strategy.C is {C!r}, but must be a number above 0, or a list of some: "
            "strategy.C=[0.001,0.01]"
        )
    return sorted({float(value) for value in values})
