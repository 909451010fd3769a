"""The one evaluation of a run: predictions on whole splits, kept in a file, and their metrics."""

from __future__ import annotations

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
    path: Path,
) -> dict[str, float]:
    """Predict every split once, write the predictions, and return the metrics.

    Nothing later opens the test split again: tables, intervals and ensembles read this file.

    Args:
        task: With the weights to evaluate.
        splits: By name, ``val`` and perhaps ``test``.
        trainer: Gives the device and the precision.
        classes: Names, kept in the file.
        path: ``predictions.npz``: ``classes``, and for each split S ``S_ids``, ``S_labels`` (int64
            [n]) and ``S_logits`` (float32 [n, classes]).

    Returns:
        ``split/name`` to value.
    """
    arrays: dict[str, np.ndarray] = {"classes": np.array(classes)}
    metrics: dict[str, float] = {}
    for name, split in splits.items():
        batches = trainer.predict(task, eval_loader(split, workers=0))
        logits = torch.cat([batch for batch in batches or () if isinstance(batch, torch.Tensor)])
        values = classification_metrics(logits, torch.from_numpy(split.labels))
        metrics |= {f"{name}/{metric}": value for metric, value in values.items()}
        arrays[f"{name}_ids"] = np.array(split.ids)
        arrays[f"{name}_labels"] = split.labels
        arrays[f"{name}_logits"] = logits.numpy()
    publish(path, lambda part: _write(part, arrays))
    return metrics


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
