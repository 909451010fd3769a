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
from zipfile import BadZipFile

import numpy as np
from scipy.special import log_softmax

from warmstart.errors import ConfigError
from warmstart.randomness import numpy_generator
from warmstart.results.comparison import Cell
from warmstart.results.members import together
from warmstart.results.metric import Metric
from warmstart.results.statistics import Interval

LEVEL = 0.95
DRAWS = 2000
_FILE = "predictions.npz"
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


@dataclasses.dataclass(frozen=True)
class _Member:
    """Predictions in ascending order of image ids, and where they are from."""

    path: Path
    ids: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    logits: np.ndarray


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
    files = [_read(cell.folder) for cell in cells]
    split = "test" if all("test_logits" in arrays for arrays in files) else "val"
    members = [
        _member(cell.folder, arrays, split, arrays[f"{split}_logits"])
        for cell, arrays in zip(cells, files, strict=True)
    ]
    seeds = [f"seed {cell.seed}" for cell in cells]
    same = len(set(seeds)) < len(seeds)
    labels = [cell.key[:12] for cell in cells] if same else seeds
    return _ensemble(name, labels, split, members)


def _of_snapshots(name: str, cell: Cell) -> Ensemble | None:
    """Return the ensemble of a run's snapshots; None where it kept none."""
    arrays = _read(cell.folder)
    split = "test" if "test_snapshot_logits" in arrays else "val"
    kept = arrays.get(f"{split}_snapshot_logits")
    if kept is None:
        return None
    members = [_member(cell.folder, arrays, split, logits) for logits in kept]
    labels = [f"snapshot {number}" for number in range(1, len(members) + 1)]
    return _ensemble(f"{name}, seed {cell.seed} ({cell.key[:12]})", labels, split, members)


def _read(folder: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(folder / _FILE, allow_pickle=False) as file:
            return dict(file)
    except (ValueError, OSError, BadZipFile) as error:
        raise _damaged(folder, error) from error


def _member(folder: Path, arrays: dict[str, np.ndarray], split: str, logits: np.ndarray) -> _Member:
    try:
        ids, labels, classes = arrays[f"{split}_ids"], arrays[f"{split}_labels"], arrays["classes"]
    except KeyError as error:
        raise _damaged(folder, error) from error
    order = ids.argsort()
    return _Member(folder, ids[order], labels[order], classes, logits[order].astype(np.float64))


def _damaged(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{folder / _FILE} is missing or damaged ({error}); delete its folder and run the cell "
        "again"
    )


def _ensemble(name: str, labels: Sequence[str], split: str, members: Sequence[_Member]) -> Ensemble:
    first = members[0]
    for other in members[1:]:
        for what, words in (("classes", "classes"), ("ids", "images"), ("labels", "labels")):
            if not np.array_equal(getattr(first, what), getattr(other, what)):
                raise ConfigError(
                    f"{first.path} and {other.path} do not predict the same {split} {words}, so "
                    "their predictions cannot be averaged; give runs of the same data and split"
                )
    logs = np.stack([log_softmax(member.logits, axis=1) for member in members])
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
