"""Averages of the weights over the steps of a run: what is validated, tested and kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from warmstart.errors import ConfigError
from warmstart.task import Classification


@dataclasses.dataclass(frozen=True)
class Average:
    """Which weights are averaged, and how.

    Attributes:
        decay: The average becomes ``decay * average + (1 - decay) * weights``; None gives all
            weights that are taken the same share.
        first: After how many steps the first weights are taken, which are the average then.
        every: Steps from there to the next ones.
        warmup: Of n weights that were taken before, decay at most (1 + n) / (10 + n): a short run
            forgets its first weights too.
    """

    decay: float | None
    first: int = 1
    every: int = 1
    warmup: bool = False

    def takes(self, done: int) -> bool:
        """Return whether the weights after so many steps are taken."""
        return done >= self.first and (done - self.first) % self.every == 0

    def blend(self, averaged: Sequence[Tensor], current: Sequence[Tensor], taken: Any) -> None:
        """Take more weights into the average, in place; what is equal stays so, bit for bit.

        Args:
            averaged: The average of `taken` weights.
            current: More weights, of the same shapes.
            taken: A whole number, or a tensor with one.
        """
        share = self.share(int(taken))
        with torch.no_grad():
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(list(averaged), list(current), share)
            else:  # counts of batches
                torch._foreach_copy_(list(averaged), list(current))

    def share(self, taken: int) -> float:
        """Return what the newest weights are of the average that holds so many others."""
        if self.decay is None:
            return 1 / (taken + 1)
        return 1 - (min(self.decay, (1 + taken) / (10 + taken)) if self.warmup else self.decay)


def none() -> None:
    """Take the weights as they are."""


def ema(*, decay: float = 0.995, warmup: bool = True) -> Average:
    """Return the exponential moving average, from the first step on; `warmup` as in `Average`.

    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control and
    Optimization 30, 1992, average all weights alike; the exponential form forgets the early ones.
    """
    number = isinstance(decay, (int, float)) and not isinstance(decay, bool)
    if not number or not 0 < decay < 1:
        raise ConfigError(
            f"average.decay is {decay!r}, but must be a number between 0 (the weights themselves; "
            "that is average=none) and 1 (those of the first step for good)"
        )
    return Average(float(decay), warmup=warmup)


def swa(
    *, steps: int, steps_per_epoch: int, start: float = 0.75, every_steps: int | None = None
) -> Average:
    """Return the equal average of the weights at even steps after the fraction `start` of the run.

    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018.

    Args:
        steps: Of the run.
        steps_per_epoch: Of a pass over the training images.
        start: From here on.
        every_steps: From one to the next; None is a pass, or 1 where fewer than two are left.
    """
    number = isinstance(start, (int, float)) and not isinstance(start, bool)
    if not number or not 0 <= start < 1:
        raise ConfigError(
            f"average.start is {start!r}, but must be a fraction of the run, at least 0 and below 1"
        )
    if every_steps is not None and (
        isinstance(every_steps, bool) or not isinstance(every_steps, int) or every_steps < 1
    ):
        raise ConfigError(
            f"average.every_steps is {every_steps!r}, but must be a whole number of at least 1, or "
            "null"
        )
    begin = round(start * steps)
    left = steps - begin
    every = every_steps or (steps_per_epoch if 2 * steps_per_epoch <= left else 1)
    if left < 2 * every:
        raise ConfigError(
            f"average.start is {start:g}, which leaves {left} of {steps} steps, too few for two "
            f"weights to average, {every} steps apart; lower average.start or "
            "average.every_steps, or give a longer run"
        )
    return Average(None, begin + every, every)


class Averaging(WeightAveraging):
    """Keep the average of a model's weights, and put it in the model's place in validations.

    Lightning's own callback, on the model alone: a copy of the whole task would hold its data too.
    Buffers are averaged with the parameters, so that BatchNorm's statistics belong to the weights.
    Between validations the model has its own weights, at the end of training as well: what is kept
    of a run are those of a validation. It comes before the callback that writes checkpoints, and
    behind the one that makes the processes of a run agree.

    Args:
        average: Which.
        resume: The `state` of a checkpoint.
    """

    def __init__(self, average: Average, *, resume: Mapping[str, Any] | None = None) -> None:
        super().__init__(multi_avg_fn=average.blend)
        self.average = average
        self._resume = resume
        self._first_step = 0
        self._swapped = False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether the weights after a step of this fit are taken; see `Average.takes`."""
        return step_idx is not None and self.average.takes(self._first_step + step_idx + 1)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the average by name; as long as there is none, the tensors of the model."""
        averaged = self._averaged
        return (averaged.module if averaged.n_averaged > 0 else model).state_dict()

    def state(self) -> dict[str, Any]:
        """Return, as plain data and tensors, what a resumed run needs."""
        if self._average_model is None and self._resume is not None:  # nothing has trained since
            return dict(self._resume)
        return {
            "model": self._averaged.module.state_dict(),
            "taken": int(self._averaged.n_averaged),
        }

    def restore(self, model: nn.Module) -> None:
        """Give the model its own weights back, where a validation has begun and not ended."""
        if self._swapped:
            self._swap_models(_as_task(model))
            self._swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Wait for `on_train_start`: the model is not on its device yet."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        self._first_step = pl_module.first_step
        self._average_model = AveragedModel(
            pl_module.model, use_buffers=self._use_buffers, **self._kwargs
        )
        if self._resume is not None:
            self._averaged.module.load_state_dict(self._resume["model"])
            self._averaged.n_averaged.fill_(self._resume["taken"])

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Classification)
        super().on_train_batch_end(trainer, _as_task(pl_module.model), outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        if self._averaged.n_averaged > 0:
            self._swap_models(_as_task(pl_module.model))
            self._swapped = True

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        self.restore(pl_module.model)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the model as it is: a checkpoint of now holds its weights and the average."""

    @property
    def _averaged(self) -> AveragedModel:
        assert self._average_model is not None
        return self._average_model


def _as_task(model: nn.Module) -> pl.LightningModule:
    """Return the model for Lightning's code, which asks a task for tensors alone."""
    return cast(pl.LightningModule, model)
