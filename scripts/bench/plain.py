"""What overhead.py compares with: the same nets and images in plain torch and plain Lightning."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import warmstart
from warmstart.data.batches import Batch, EvalBatches, TrainBatches
from warmstart.data.preprocess import Preprocess
from warmstart.run.preparing import prepare

Ready = tuple[Tensor, Tensor]


def ready(
    overrides: Sequence[str], *, steps: int
) -> tuple[Callable[[], nn.Module], dict[str, list[Ready]]]:
    """Return what makes the model of a run, and its batches: finished images and labels."""
    run = prepare(warmstart.compose(["trainer=cpu", *overrides]))
    images, size = run.images, run.config["batch_size"]
    train = TrainBatches(images.train, batch_size=size, seed=0)
    val = EvalBatches(images.val)
    test = EvalBatches(images.test.open(Path(os.devnull)))
    cut = {
        "train": [train[index] for index in range(steps)],
        "val": [val[index] for index in range(len(val))],
        "test": [test[index] for index in range(len(test))],
    }
    preprocess = Preprocess(run.input, augment=None, channels_last=False)

    def finished(batch: Batch) -> Ready:
        pixels, labels, uniforms = batch
        return preprocess(pixels, uniforms, train=False), labels

    batches = {name: list(map(finished, part)) for name, part in cut.items()}
    return run.build_model, batches


def loop(model: nn.Module, batches: Sequence[Ready], stamps: list[float]) -> None:
    """Train in a bare loop; `stamps` gets the CPU-seconds at which each step begins."""
    optimizer = _sgd(model.train())
    for images, labels in batches:
        stamps.append(time.process_time())
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()


def fit(model: nn.Module, batches: Sequence[Ready], stamps: list[float]) -> None:
    """Train with the barest module and trainer; `stamps` as in `loop`."""
    trainer(max_epochs=1).fit(Bare(model, stamps), loader(batches))


def fit_and_test(
    model: nn.Module,
    batches: Mapping[str, Sequence[Ready]],
    *,
    validate: int,
    folder: Path | None = None,
) -> None:
    """Train with a validation every `validate` steps, then test.

    With a folder, the last state is saved there: that is all that a short run of ours writes of it.
    """
    module = Bare(model, [])
    lightning = trainer(
        max_epochs=1,
        val_check_interval=validate,
        num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(folder, every_n_epochs=1)] if folder else [],
        enable_checkpointing=folder is not None,
    )
    lightning.fit(module, loader(batches["train"]), loader(batches["val"]))
    lightning.test(module, loader(batches["test"]), verbose=False)


class Bare(pl.LightningModule):
    """The barest LightningModule."""

    def __init__(self, model: nn.Module, stamps: list[float]) -> None:
        super().__init__()
        self.model = model
        self.stamps = stamps

    def training_step(self, batch: Ready, batch_idx: int) -> Tensor:
        self.stamps.append(time.process_time())
        images, labels = batch
        return cross_entropy(self.model(images), labels)

    def validation_step(self, batch: Ready, batch_idx: int) -> None:
        self.model(batch[0])

    def test_step(self, batch: Ready, batch_idx: int) -> None:
        self.model(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return _sgd(self.model)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    parameters = model.parameters()
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)


def trainer(**options: Any) -> pl.Trainer:
    """Return the barest trainer, for one CPU thread."""
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    return pl.Trainer(
        accelerator="cpu",
        **{"logger": False, "enable_checkpointing": False, **options},
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loader(batches: Sequence[Ready]) -> DataLoader[Any]:
    """Return what hands out batches as they are."""
    return DataLoader(batches, batch_size=None, collate_fn=_as_it_is)  # type: ignore[arg-type]


def _as_it_is(batch: Any) -> Any:
    return batch
