"""The proof that what is frozen does not move."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from warmstart.callbacks.phases import batchnorm_eval
from warmstart.digests import tensors_digest
from warmstart.errors import RunError
from warmstart.models.layers import LayerGroup
from warmstart.strategies.phases import Phase
from warmstart.task import Classification

# Group name -> tensor name -> SHA-256.
Digests = dict[str, dict[str, str]]

_NAMED = 5  # tensors of a group that an error names


class FreezeProof(pl.Callback):
    """Compare every frozen group at the end of each phase with what it was at its start.

    Parameters and buffers are compared by their SHA-256. Where frozen BatchNorm layers normalize
    by the batch (``strategy.batchnorm=train``) their running statistics move by the user's choice:
    these alone are left out, and the entry names the groups. It comes before the callback that
    applies the phases, and costs nothing between two phases.

    Args:
        phases: Of the run.
        groups: Of the model.
        steps: Of the whole run.
        resume: The `state` of a checkpoint.

    Attributes:
        entries: One per finished phase: ``phase``, ``first_step``, ``last_step``, ``groups`` (name
            of each frozen group to its `group_digest`), ``moving_statistics`` (names of the frozen
            groups whose running statistics are left out).

    Raises:
        RunError: In training, when a frozen tensor has moved, or is not as it was when the
            checkpoint was written.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        groups: Sequence[LayerGroup],
        *,
        steps: int,
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        self.phases = phases
        self.groups = groups
        self.steps = steps
        self.entries: list[dict[str, Any]] = []
        self._held: Digests = {}
        self._starts = {phase.start for phase in phases}
        if resume is not None:
            self.entries, self._held = resume["entries"], resume["held"]

    def begin(self, model: nn.Module) -> None:
        """Take the digests at the start of the phase that is under way."""
        self._held = self._digests(model)

    def end(self, model: nn.Module) -> None:
        """Compare with them after the last step."""
        self._close(model, self.steps - 1)

    def state(self) -> dict[str, Any]:
        """Return, as plain data, what a resumed run needs: it starts in the middle of a phase."""
        return {"entries": self.entries, "held": self._held}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        if pl_module.first_step:
            last = pl_module.first_step - 1
            self._compare(pl_module.model, last, " before the checkpoint was read")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Classification)
        step = pl_module.first_step + batch_idx
        if step not in self._starts:
            return
        if step:
            self._close(pl_module.model, step - 1)
        self.begin(pl_module.model)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classification)
        self._close(pl_module.model, pl_module.last_step)

    def _phase(self) -> Phase:
        """Return the phase that is under way: one entry stands for each that came before."""
        return self.phases[len(self.entries)]

    def _close(self, model: nn.Module, last_step: int) -> None:
        self._compare(model, last_step)
        moving = [name for name, statistics in self._moving(model).items() if statistics]
        self.entries.append(
            {
                "phase": len(self.entries),
                "first_step": self._phase().start,
                "last_step": last_step,
                "groups": {name: group_digest(digests) for name, digests in self._held.items()},
                "moving_statistics": moving,
            }
        )

    def _compare(self, model: nn.Module, last_step: int, when: str = "") -> None:
        now = self._digests(model)
        moved = {
            group: [name for name, digest in held.items() if now[group][name] != digest]
            for group, held in self._held.items()
        }
        found = [f"{group} ({_some(names)})" for group, names in moved.items() if names]
        if found:
            raise RunError(
                f"frozen tensors moved in phase {len(self.entries)} (steps {self._phase().start} "
                f"to {last_step}){when}: {', '.join(found)}; something besides the optimizer "
                "writes to them: look at callbacks, hooks and the model's forward"
            )

    def _frozen(self) -> Sequence[LayerGroup]:
        return self.groups[: len(self.groups) - self._phase().groups]

    def _moving(self, model: nn.Module) -> dict[str, set[str]]:
        """Return for each frozen group the statistics that move by the user's choice."""
        statistics = _statistics(model)
        evaluates = batchnorm_eval(self._phase(), len(self.groups))
        return {
            group.name: set() if evaluates[group.index] else statistics & group.buffers.keys()
            for group in self._frozen()
        }

    def _digests(self, model: nn.Module) -> Digests:
        # From the model of now: moving it to a device has put other tensors for the buffers.
        tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        tensors |= model.named_buffers(remove_duplicate=False)
        moving = self._moving(model)
        return {
            group.name: {
                name: tensors_digest({name: tensors[name]})
                for name in (*group.parameters, *group.buffers)
                if name not in moving[group.name]
            }
            for group in self._frozen()
        }


def group_digest(digests: Mapping[str, str]) -> str:
    """Return the SHA-256 over the digests of a group's tensors, one in a line, in their order."""
    return hashlib.sha256("\n".join(digests.values()).encode()).hexdigest()


def _statistics(model: nn.Module) -> set[str]:
    """Return the names of all running statistics of BatchNorm."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, BatchNorm)
        for name, _ in module.named_buffers(recurse=False)
    }


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
