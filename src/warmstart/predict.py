"""The one evaluation of a run: predictions on whole splits, kept in a file, and their metrics."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from warmstart.data.batches import eval_loader
from warmstart.data.images import Split
from warmstart.metrics import classification_metrics
from warmstart.store import publish
from warmstart.task import Classification


def evaluate(
    task: Classification,
    splits: Mapping[str, Split],
    *,
    trainer: pl.Trainer,
    classes: Sequence[str],
    weights: str,
    path: Path,
) -> dict[str, float]:
    """Predict every split once, write the predictions, and return the metrics.

    Nothing later opens the test split again: tables, intervals and ensembles read this file. So
    does a run that was killed right after it was written.

    Args:
        task: With the weights to evaluate.
        splits: By name, ``val`` and perhaps ``test``.
        trainer: Gives the device and the precision.
        classes: Names, kept in the file.
        weights: Digest of the weights, kept in the file.
        path: ``predictions.npz``: ``classes``, ``weights``, and for each split S ``S_ids``,
            ``S_labels`` (int64 [n]) and ``S_logits`` (float32 [n, classes]).

    Returns:
        ``split/name`` to value.
    """
    arrays = _written(path, weights)
    if any(f"{name}_logits" not in arrays for name in splits):
        arrays = {"classes": np.array(classes), "weights": np.array(weights)}
        for name, split in splits.items():
            batches = trainer.predict(task, eval_loader(split, workers=0))
            logits = [batch for batch in batches or () if isinstance(batch, torch.Tensor)]
            arrays[f"{name}_ids"] = np.array(split.ids)
            arrays[f"{name}_labels"] = split.labels
            arrays[f"{name}_logits"] = torch.cat(logits).numpy()
        publish(path, lambda part: _write(part, arrays))
    metrics: dict[str, float] = {}
    for name, split in splits.items():
        logits_of = torch.from_numpy(arrays[f"{name}_logits"])
        values = classification_metrics(logits_of, torch.from_numpy(split.labels))
        metrics |= {f"{name}/{metric}": value for metric, value in values.items()}
    return metrics


def _written(path: Path, weights: str) -> dict[str, np.ndarray]:
    """Return the predictions in a file, empty unless they are of these weights."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    return arrays if str(arrays.get("weights")) == weights else {}


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
