"""The one callback that watches a run: curves, the best snapshot, checkpoints, progress."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
from torch import Tensor

from warmstart import stopping
from warmstart.callbacks import checkpoint
from warmstart.callbacks.averaging import Averaging
from warmstart.callbacks.divergence import FiniteSteps, diverged
from warmstart.callbacks.early import EarlyStopping
from warmstart.callbacks.proof import FreezeProof
from warmstart.results import pruning
from warmstart.task import Classification, means

Row = dict[str, float]


class Logger(Protocol):
    """Where the rows of a run go as well; the record does not depend on it."""

    def log(self, rows: dict[str, list[Row]]) -> None:
        """Take all rows so far: lists named ``train``, ``val`` and, with looks, ``watch``."""
        ...

    def finish(self, rows: dict[str, list[Row]], metrics: dict[str, float]) -> None:
        """Take all rows of the finished run, and its metrics."""
        ...


class Recorder(pl.Callback):
    """Collect what becomes the record, and save the state from which a killed run goes on.

    Args:
        folder: Of the run.
        steps: Of the whole run.
        log_every: Steps between two rows of the training curve.
        checkpoint_seconds: Least time between two checkpoints.
        proof: Whose state a checkpoint holds.
        loggers: Mirrors of the rows.
        averaging: Of the weights: those that are validated and kept; a checkpoint holds its state.
        early: When the training ends before its last step.
        snapshots_at: After how many steps the weights are kept as snapshots.
        progress: Called with the number of finished steps.
        writes: Whether it writes checkpoints; of the processes of a run only one does.
        limits: Pairs of a step and the accuracy without which the run, a trial, ends there.
        accumulated: Micro-batches of a step that a lack of memory forced; a checkpoint says it.
        resume: The state of a checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        log_every: int,
        checkpoint_seconds: float,
        proof: FreezeProof,
        loggers: Sequence[Logger] = (),
        averaging: Averaging | None = None,
        early: EarlyStopping | None = None,
        snapshots_at: Sequence[int] = (),
        progress: Callable[[int], None] = lambda step: None,
        accumulated: int = 0,
        writes: bool = True,
        limits: Sequence[Sequence[float]] = (),
        resume: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.steps = steps
        self.log_every = log_every
        self.checkpoint_seconds = checkpoint_seconds
        self.proof = proof
        self.loggers = loggers
        self.averaging = averaging
        self.early = early
        self.snapshots_at = frozenset(snapshots_at)
        self.progress = progress
        self.writes = writes
        self.limits = limits
        self.accumulated = accumulated
        self.done = 0
        self.rows: dict[str, list[Row]] = {"train": [], "val": []}
        self.best: dict[str, Any] | None = None
        self.snapshots: list[dict[str, Any]] = []
        self._seconds_before = 0.0
        self._window: Tensor | None = None
        if resume is not None:
            self.done = resume["step"]
            self.rows, self.best = resume["rows"], resume["best"]
            self._seconds_before, self._window = resume["seconds"], resume["window"]
            self.snapshots = resume.get("snapshots", [])
        self._finite = FiniteSteps(resume.get("finite", self.done) if resume else 0)
        self._owes_validation = resume is not None and not resume.get("validated", True)
        self._started = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def stopped_at(self) -> int | None:
        """After how many steps early stopping has ended the training; None where it has not."""
        over = self.early is not None and self.early.stops(self.rows["val"])
        return self.done if over and self.done < self.steps else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        self._started = self._saved = time.monotonic()
        # Lightning validates at multiples of the batches that it counts: those before a resume
        # belong to them, or the validations would move.
        trainer.fit_loop.epoch_loop.batch_progress.total.ready = pl_module.first_step
        if self._window is not None:
            pl_module.train_sums += self._window.to(pl_module.device)
        if self._owes_validation:
            self._validate(trainer)
        if self.writes:
            pruning.forget(self.folder)
        self._prune()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Classification)
        self.done = pl_module.first_step + batch_idx + 1
        self._finite.add(pl_module.train_sums[0])
        self.progress(self.done)
        if self.done in self.snapshots_at:
            self.snapshots.append({"step": self.done, "model": self._weights(pl_module)})
        if self.done % self.log_every == 0 or self.done == self.steps:
            self._log_train(trainer, pl_module)
        if self.done == self.steps:
            # Lightning validates on a stop, also where the validation interval does not end.
            trainer.should_stop = True
        elif not self._validates(trainer) and (stopping.requested() or self._due()):
            self._save(trainer, pl_module)
            stopping.check()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *of_the_batch: Any
    ) -> None:
        assert isinstance(pl_module, Classification)
        # A whole validation may take longer than a signal leaves time for. The processes of one
        # run must agree on where they stop, and do so after steps.
        if stopping.requested() and self.done < self.steps and trainer.world_size == 1:
            self._save(trainer, pl_module, validated=False)
            stopping.check()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        row = {"step": self.done, "seconds": self.seconds, **means(pl_module.val_sums)}
        self.rows["val"].append(row)
        # Ties of the accuracy are common on small sets; the lower loss decides, then the earlier.
        rank = (row["accuracy"], -row["loss"])
        first = self.best is None or rank > (self.best["accuracy"], -self.best["loss"])
        if first and self._of_what_is_kept():
            self.best = {**row, "model": self._weights(pl_module)}
        for logger in self.loggers:
            logger.log(self.rows)
        hopeless = pruning.pruned_at(self.rows["val"], self.limits) is not None
        if self.stopped_at is not None:
            trainer.should_stop = True
        elif self.done < self.steps and (hopeless or stopping.requested() or self._due()):
            self._save(trainer, pl_module)
            self._prune()
            stopping.check()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        # After the last step: the proof, which comes first, is complete now.
        if stopping.requested() and trainer.world_size == 1:
            self._save(trainer, pl_module)
            stopping.check()

    def _of_what_is_kept(self) -> bool:
        """Return whether a validation was of the average, where there will be one."""
        return self.averaging is None or self.done >= self.averaging.average.first

    def _weights(self, task: Classification) -> dict[str, Tensor]:
        """Return a copy of the weights that validations see, by name."""
        model = task.model
        kept = model.state_dict() if self.averaging is None else self.averaging.weights(model)
        return {name: tensor.detach().cpu().clone() for name, tensor in kept.items()}

    def _log_train(self, trainer: pl.Trainer, task: Classification) -> None:
        row = {"step": self.done, "seconds": self.seconds, **means(task.train_sums)}
        row["lr"] = trainer.optimizers[0].param_groups[-1]["lr"]
        task.train_sums.zero_()
        if not math.isfinite(row["loss"]):
            raise diverged(self.rows, finite=self._finite.count, lr=row["lr"])
        self.rows["train"].append(row)

    def _prune(self) -> None:
        """End a hopeless trial, also where a checkpoint was written after it had become so."""
        step = pruning.pruned_at(self.rows["val"], self.limits)
        if step is None or self.done >= self.steps:
            return
        if self.writes:
            pruning.write(self.folder, step, self.rows["val"])
        best = max(row["accuracy"] for row in self.rows["val"])
        raise stopping.Pruned(f"pruned at step {step} of {self.steps}, val/accuracy {best:.4f}")

    def _validates(self, trainer: pl.Trainer) -> bool:
        # Right before a validation would lose it on resume; on_validation_end saves instead.
        return self.done % int(trainer.val_check_interval) == 0

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= self.checkpoint_seconds

    def _validate(self, trainer: pl.Trainer) -> None:
        """Validate as Lightning does between two steps."""
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True

    def save_trained(self, task: Classification) -> None:
        """Save the state after the last step, which needs no optimizer any more."""
        self._write(task, optimizer=None, validated=True)

    def _save(self, trainer: pl.Trainer, task: Classification, *, validated: bool = True) -> None:
        if self.writes:
            self._write(task, trainer.optimizers[0].state_dict(), validated=validated)

    def _write(
        self, task: Classification, optimizer: dict[str, Any] | None, *, validated: bool
    ) -> None:
        if self.averaging is not None:
            self.averaging.restore(task.model)
        state = {
            "step": self.done,
            "model": task.model.state_dict(),
            "optimizer": optimizer,
            "rows": copy.deepcopy(self.rows),
            "best": self.best,
            "average": self.averaging and self.averaging.state(),
            "snapshots": self.snapshots,
            "seconds": self.seconds,
            "window": task.train_sums.cpu(),
            "finite": self._finite.count,
            "proof": self.proof.state(),
            "accumulated": self.accumulated,
            "validated": validated,
        }
        checkpoint.save(self.folder, self.done, state)
        self._saved = time.monotonic()
