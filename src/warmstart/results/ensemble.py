"""Ensembles of finished runs: what their mean probabilities predict, from files alone.

Averaging the predicted probabilities of independently trained networks: Lakshminarayanan et al.,
Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, NIPS 2017. Members that
are the ends of one run's cycles: Huang et al., Snapshot Ensembles: Train 1, Get M for Free, ICLR
2017.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from warmstart.errors import ConfigError
from warmstart.randomness import numpy_generator
from warmstart.results import predictions
from warmstart.results.comparison import Cell
from warmstart.results.members import together
from warmstart.results.metric import Metric
from warmstart.results.predictions import Predictions
from warmstart.results.statistics import Interval

LEVEL = 0.95
DRAWS = 2000
_DRAWN_AT_ONCE = 50  # bounds the memory for large test sets


@dataclasses.dataclass(frozen=True)
class Score:
    """One metric of the members and of their ensemble.

    Attributes:
        metric: Which.
        members: Of each.
        ensemble: With its interval over the images, the members fixed; so has `gain`.
        gain: Ensemble minus the mean of the members, image by image.
    """

    metric: Metric
    members: tuple[float, ...]
    ensemble: Interval
    gain: Interval

    @property
    def mean(self) -> float:
        """Of the members."""
        return sum(self.members) / len(self.members)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Members whose probabilities are averaged.

    Attributes:
        name: Of what they have in common.
        members: What each is: ``seed 0``, or ``snapshot 1``.
        images: How many are predicted.
        scores: Accuracy and log loss, on test where all members predict it, else on validation.
    """

    name: str
    members: tuple[str, ...]
    images: int
    scores: tuple[Score, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for programs."""
        scores = {
            score.metric.name: {
                "members": list(score.members),
                "mean": score.mean,
                "ensemble": _plain(score.ensemble),
                "gain": _plain(score.gain),
            }
            for score in self.scores
        }
        members = list(self.members)
        return {"name": self.name, "members": members, "images": self.images, "scores": scores}


def ensembles(folders: Sequence[Path], *, snapshots: bool = False) -> list[Ensemble]:
    """Return an ensemble of the runs of each arm and size, or of each run's snapshots.

    Args:
        folders: Output folders, comparisons or runs; runs that are given themselves make one
            ensemble together.
        snapshots: Take those that each run kept.

    Raises:
        ConfigError: No ensemble has two members, members predict other images, or a file is
            damaged.
    """
    folders = [folder for folder in folders if folder.suffix != ".lock"]  # in OUT/runs/*
    groups = list(together(folders))
    where = ", ".join(map(str, folders))
    if snapshots:
        found = [e for name, cells in groups for cell in cells if (e := _of_snapshots(name, cell))]
        if not found:
            raise ConfigError(
                f"no run in {where} kept snapshots; train with scheduler=sgdr snapshots=true"
            )
        return found
    found = [_of_runs(name, cells) for name, cells in groups if len(cells) > 1]
    if not found:
        raise ConfigError(
            f"{where} holds no two finished runs of one arm and size, and an ensemble needs at "
            "least 2 members; run more seeds, or give the folders of runs"
        )
    return found


def _of_runs(name: str, cells: Sequence[Cell]) -> Ensemble:
    for split in ("test", "val"):
        members = [predictions.read(cell.folder, split) for cell in cells]
        if all(members):
            break
    whole = [_present(member, cell) for member, cell in zip(members, cells, strict=True)]
    seeds = [f"seed {cell.seed}" for cell in cells]
    same = len(set(seeds)) < len(seeds)
    labels = [cell.key[:12] for cell in cells] if same else seeds
    return _ensemble(name, labels, split, whole)


def _present(member: Predictions | None, cell: Cell) -> Predictions:
    if member is None:
        raise ConfigError(
            f"{cell.folder / predictions.FILE} is missing, or without predictions of val; delete "
            "its folder and run the cell again"
        )
    return member


def _of_snapshots(name: str, cell: Cell) -> Ensemble | None:
    """Return the ensemble of a run's snapshots; None where it kept none."""
    for split in ("test", "val"):
        kept = predictions.read(cell.folder, split, snapshots=True)
        if kept is not None:
            members = [dataclasses.replace(kept, logits=logits) for logits in kept.logits]
            labels = [f"snapshot {number}" for number in range(1, len(members) + 1)]
            return _ensemble(f"{name}, seed {cell.seed} ({cell.key[:12]})", labels, split, members)
    return None


def _ensemble(
    name: str, labels: Sequence[str], split: str, members: Sequence[Predictions]
) -> Ensemble:
    first = members[0]
    for other in members[1:]:
        for what, words in (("classes", "classes"), ("ids", "images"), ("labels", "labels")):
            if not np.array_equal(getattr(first, what), getattr(other, what)):
                raise ConfigError(
                    f"{first.folder} and {other.folder} do not predict the same {split} {words}, "
                    "so their predictions cannot be averaged; give runs of the same data and split"
                )
    logits = np.stack([member.logits for member in members]).astype(np.float64)
    logs = log_softmax(logits, axis=-1)
    # The mean of probabilities, which may be too small for floats, as logarithms.
    mean = np.logaddexp.reduce(logs, axis=0) - np.log(len(members))
    scores = []
    for metric, of in (("accuracy", _right), ("loss", _losses)):
        own = np.stack([of(one, first.labels) for one in logs])
        together = of(mean, first.labels)
        ensemble, gain = _intervals(np.stack([together, together - own.mean(axis=0)], axis=1))
        values = tuple(float(value) for value in own.mean(axis=1))
        scores.append(Score(Metric(f"{split}/{metric}"), values, ensemble, gain))
    return Ensemble(name, tuple(labels), len(first.ids), tuple(scores))


def _right(logs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    result: np.ndarray = (logs.argmax(axis=1) == labels).astype(np.float64)
    return result


def _losses(logs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    result: np.ndarray = -logs[np.arange(len(labels)), labels]
    return result


def _intervals(values: np.ndarray) -> list[Interval]:
    """Return the mean of each column with its percentile interval of the bootstrap over rows.

    Efron, Bootstrap Methods: Another Look at the Jackknife, Annals of Statistics 7, 1979. The rows
    are images, of which there are enough for it; the draws are the same at every call.

    Args:
        values: Shape [n, columns].
    """
    n = len(values)
    generator = numpy_generator(0, "ensemble", n)
    means = [
        values[generator.integers(0, n, (_DRAWN_AT_ONCE, n))].mean(axis=1)
        for _ in range(DRAWS // _DRAWN_AT_ONCE)
    ]
    tail = (1 - LEVEL) / 2
    ends = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return [
        Interval(float(mean), float(low), float(high), n)
        for mean, low, high in zip(values.mean(axis=0), *ends, strict=True)
    ]


def _plain(interval: Interval) -> dict[str, float | None]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
