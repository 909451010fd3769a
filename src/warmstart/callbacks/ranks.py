"""What keeps the ranks of one run in the same state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from warmstart import stopping
from warmstart.errors import RunError
from warmstart.ranks import Ranks
from warmstart.strategies.phases import Phase, active
from warmstart.task import Classification

_NAMED = 5  # tensors that an error names


class RankSync(pl.Callback):
    """Make all ranks agree at the end of every step, and check at the end of each phase.

    Lightning averages the gradients; what a forward pass moves besides is averaged here: running
    statistics of BatchNorm layers that normalize by the rank's part of the batch. The sums of the
    step (loss, right answers, images) and the request to stop are exchanged with them, in one
    message. So every rank holds the same state at a step's end, and the first one can write a
    checkpoint alone.

    It comes before all other callbacks.

    Args:
        ranks: This process's place.
        phases: Of the run.
        val_batches: Of a validation, on all ranks together.
        first_step: Where a resumed run continues.

    Attributes:
        divergence: The largest difference of any parameter or buffer between ranks, at the end of
            each finished phase. A run whose ranks differ goes no further, so what came before a
            checkpoint is 0.

    Raises:
        RunError: In training, when ranks differ at the end of a phase.
    """

    def __init__(
        self,
        ranks: Ranks,
        phases: Sequence[Phase],
        *,
        val_batches: int,
        first_step: int = 0,
    ) -> None:
        self.ranks = ranks
        self.phases = phases
        self.val_batches = val_batches
        before = phases.index(active(phases, first_step - 1)) if first_step else 0
        self.divergence = [0.0] * before
        self._starts = {phase.start for phase in phases}
        self._statistics: list[Tensor] | None = None
        self._window = torch.zeros(3)
        self._val_sums: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Classification)
        step = pl_module.first_step + batch_idx
        if step in self._starts:
            self._statistics = None  # the modes change with the phase
            if step:
                self._check(pl_module.model, step - 1)
        # What the sums hold is of all ranks; what the step adds is of this one.
        self._window = pl_module.train_sums.clone()
        pl_module.train_sums.zero_()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Classification)
        if self._statistics is None:
            self._statistics = _moving_statistics(pl_module.model)
        asked = pl_module.train_sums.new_tensor([self.ranks.asked()])
        message = torch.cat([pl_module.train_sums, asked, *map(torch.flatten, self._statistics)])
        self.ranks.add(message)
        pl_module.train_sums.copy_(self._window + message[:3])
        start = 4
        for tensor in self._statistics:
            total = message[start : start + tensor.numel()]
            tensor.copy_(total.view_as(tensor) / self.ranks.world)
            start += tensor.numel()
        if message[3].item():
            stopping.request()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._val_sums = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, Classification)
        self._val_sums.append(pl_module.val_sums)
        pl_module.val_sums = torch.zeros_like(pl_module.val_sums)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        own = [sums.cpu() for sums in self._val_sums]
        # One batch after the other, as a single process adds them: the same numbers to the bit.
        total = torch.zeros(3)
        for sums in self.ranks.collected(own, self.val_batches, everywhere=True):
            total += sums
        pl_module.val_sums = total

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        self._check(pl_module.model, pl_module.last_step)

    def _check(self, model: nn.Module, last_step: int) -> None:
        """Compare all tensors over all ranks at the end of a phase."""
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        differences = self.ranks.divergence(tensors)
        found = {name: value for name, value in differences.items() if value}
        phase = len(self.divergence)
        if found:
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise RunError(
                f"the {self.ranks.world} processes of the run differ after phase {phase} (steps "
                f"{self.phases[phase].start} to {last_step}) by up to {max(found.values()):.3g} "
                f"in {', '.join(list(found)[:_NAMED])}{more}; something besides the optimizer "
                "writes to these tensors: look at callbacks, hooks and the model's forward"
            )
        self.divergence.append(0.0)


def _moving_statistics(model: nn.Module) -> list[Tensor]:
    """Return the running statistics that a forward pass moves, each rank by its own images.

    The count of batches is not among them, which is the same everywhere; nor what synchronized
    layers hold, which see the images of all ranks.
    """
    return [
        statistics
        for module in model.modules()
        if isinstance(module, BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        if module.training and module.track_running_stats
        for statistics in (module.running_mean, module.running_var)
        if statistics is not None
    ]
