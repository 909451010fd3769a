"""The one callback that freezes, unfreezes and sets rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.layers import LayerGroup
from warmstart.optim.schedules import Schedule
from warmstart.strategies.phases import Phase, active
from warmstart.task import Classification


class PhaseSchedule(pl.Callback):
    """Apply the active phase and the learning rates: both are functions of the step alone.

    That is why a resumed run needs no state of this callback. Frozen parameters keep their place
    in the optimizer, with ``requires_grad=False`` and no gradient, so that neither momentum nor
    weight decay moves them.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        schedule: Schedule,
        groups: Sequence[LayerGroup],
        *,
        lr: float,
    ) -> None:
        self.phases = phases
        self.schedule = schedule
        self.groups = groups
        self.lr = lr
        self.starts = {phase.start for phase in phases}
        self.rates: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        self.apply(pl_module, pl_module.first_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Classification)
        step = pl_module.first_step + batch_idx
        if step in self.starts:
            self.apply(pl_module, step)
        self.set_rates(trainer.optimizers[0], step)

    def set_rates(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Write the rates of `step`, which lies in the phase that was applied last."""
        factor = self.schedule(step)
        for parameters in optimizer.param_groups:
            parameters["lr"] = self.rates[parameters["layer_group"]] * factor

    def apply(self, module: nn.Module, step: int) -> None:
        """Freeze, unfreeze and set modes as in `step`; `module` holds the layer groups."""
        phase = active(self.phases, step)
        self.rates = phase.rates(self.lr, len(self.groups))
        module.train()
        for group, eval_mode in zip(
            self.groups, batchnorm_eval(phase, len(self.groups)), strict=True
        ):
            trains = group.index >= len(self.groups) - phase.groups
            for parameter in group.parameters.values():
                parameter.requires_grad_(trains)
                if not trains:
                    parameter.grad = None
            for norm in group.batch_norms():
                norm.train(not eval_mode)


def batchnorm_eval(phase: Phase, groups: int) -> list[bool]:
    """Return for each of the model's groups whether its BatchNorm uses running statistics."""
    if phase.batchnorm == "train":
        return [False] * groups
    if phase.batchnorm == "eval":
        return [True] * groups
    return [index < groups - phase.groups for index in range(groups)]


def check_statistics(
    phases: Sequence[Phase], groups: Sequence[LayerGroup], loaded: Sequence[str]
) -> None:
    """Refuse phases that normalize by running statistics that nothing has set.

    Args:
        phases: Of the run.
        groups: Of the model.
        loaded: Names of the tensors that came from weights.

    Raises:
        ConfigError: A BatchNorm layer is in eval mode before its statistics were loaded or learned.
    """
    known = [
        all(name in loaded for name in group.buffers if name.endswith("running_mean"))
        for group in groups
    ]
    for phase in phases:
        for group, eval_mode in zip(groups, batchnorm_eval(phase, len(groups)), strict=True):
            if eval_mode and not known[group.index]:
                raise ConfigError(
                    f"BatchNorm in group {group.name} would use running statistics from step "
                    f"{phase.start} on, but none were loaded or learned; use init=pretrained, "
                    "init.statistics=data, strategy.batchnorm=train, or a strategy that trains the "
                    "group first"
                )
            known[group.index] |= not eval_mode
