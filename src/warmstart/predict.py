"""The one evaluation of a run: predictions on whole splits, kept in a file, and their metrics."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from warmstart.data.batches import Batch
from warmstart.data.images import Split, Vault
from warmstart.data.views import Crops
from warmstart.metrics import classification_metrics
from warmstart.ranks import ALONE, Ranks
from warmstart.store import publish
from warmstart.task import Classification

OPENINGS = "test_openings"
"""Beside the predictions: the file in which every opening of a closed split is written down."""


def evaluate(
    task: Classification,
    splits: Mapping[str, Split | Vault],
    *,
    trainer: pl.Trainer,
    classes: Sequence[str],
    weights: str,
    path: Path,
    loader_of: Callable[[str, Split], DataLoader[Batch]],
    crops: Crops | None = None,
    snapshots: Sequence[Mapping[str, Tensor]] = (),
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Predict every split once, write the predictions, and return the metrics.

    Nothing later opens the test split again: tables, intervals and ensembles read this file. So
    does a run that was killed right after it was written.

    Args:
        task: With the weights to evaluate.
        splits: By name, ``val`` and perhaps ``test``. A vault is opened when its predictions are
            not there yet, and this is written down in `OPENINGS`.
        trainer: Gives the device and the precision.
        classes: Names, kept in the file.
        weights: Digest of the weights, kept in the file.
        path: ``predictions.npz``: ``classes``, ``weights``, and for each split S ``S_ids``,
            ``S_labels`` (int64 [n]) and ``S_logits`` (float32 [n, classes]): with several crops
            their mean, or the logarithm of their mean probabilities. With snapshots also
            ``S_snapshot_logits`` (float32 [snapshots, n, classes]).
        loader_of: Returns the batches of a split by its name, in its order.
        crops: What these show of each image; None for the pictures that training had.
        snapshots: Other weights of the model, by name, that predict the splits too; in the end it
            has those that it came with.
        progress: Called with the images that are predicted, and all images.
        ranks: This process among those that share the batches; the first one opens vaults, writes
            and knows the metrics.

    Returns:
        ``split/name`` to value; nothing on other ranks than the first.
    """
    arrays = _written(path, weights) if ranks.leads else {}
    absent = ranks.from_first([name for name in splits if f"{name}_logits" not in arrays])
    if absent:
        arrays |= {"classes": np.array(classes), "weights": np.array(weights)}
        images = sum(len(splits[name]) for name in absent)
        collect = _Collect(crops, images * (1 + len(snapshots)), progress)
        trainer.callbacks.append(collect)  # type: ignore[attr-defined]
        for name in absent:
            split = splits[name]
            opened = split if isinstance(split, Split) else _opened(split, path, ranks)
            loader = loader_of(name, opened)
            predict = functools.partial(_logits, trainer, task, loader, collect, ranks)
            arrays[f"{name}_ids"] = np.array(split.ids)
            arrays[f"{name}_labels"] = split.labels
            arrays[f"{name}_logits"] = predict()
            if snapshots:
                others = _with_each(snapshots, task.model, predict)
                arrays[f"{name}_snapshot_logits"] = np.stack(others)
        trainer.callbacks.remove(collect)  # type: ignore[attr-defined]
        if ranks.leads:
            publish(path, lambda part: _write(part, arrays))
    if not ranks.leads:
        return {}
    metrics: dict[str, float] = {}
    for name, split in splits.items():
        logits_of = torch.from_numpy(arrays[f"{name}_logits"])
        values = classification_metrics(logits_of, torch.from_numpy(split.labels))
        metrics |= {f"{name}/{metric}": value for metric, value in values.items()}
    return metrics


def _logits(
    trainer: pl.Trainer,
    task: Classification,
    loader: DataLoader[Batch],
    collect: _Collect,
    ranks: Ranks,
) -> np.ndarray:
    """Return the predictions of all images, float32 [n, classes]; empty but on the first rank."""
    try:
        trainer.predict(task, loader, return_predictions=False)
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit with code 1, as after a failure.
        raise KeyboardInterrupt from error
    count = len(loader.dataset)  # type: ignore[arg-type]
    logits = ranks.collected(collect.take(), count, everywhere=False)
    return torch.cat(logits).numpy() if ranks.leads else np.empty(0)


def _with_each(
    weights: Sequence[Mapping[str, Tensor]], model: nn.Module, predict: Callable[[], np.ndarray]
) -> list[np.ndarray]:
    """Return what is predicted with each of some weights, and give the model its own back."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = []
    for one in weights:
        model.load_state_dict(one)
        found.append(predict())
    model.load_state_dict(own)
    return found


class _Collect(pl.Callback):
    """Keep one prediction per image: those of all crops of a large set would fill the memory."""

    def __init__(
        self, crops: Crops | None, images: int, progress: Callable[[int, int], None] | None
    ) -> None:
        self._crops, self._images, self._progress = crops, images, progress
        self._logits: list[Tensor] = []
        self._done = 0

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._logits.append(outputs if self._crops is None else self._crops.mean(outputs))
        self._done += len(self._logits[-1])
        if self._progress is not None:
            self._progress(self._done, self._images)

    def take(self) -> list[Tensor]:
        """Return the predictions since the last call, by batch: float32 [n, classes]."""
        logits, self._logits = self._logits, []
        return logits


def _opened(vault: Vault, path: Path, ranks: Ranks) -> Split:
    """Return a closed split, once the first rank has written down that it was opened."""
    split = vault.open(path.with_name(OPENINGS) if ranks.leads else None)
    ranks.from_first(None)
    return split


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
