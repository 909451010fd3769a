"""What to watch in training, per layer group and at a low rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from warmstart.callbacks.recorder import Recorder, Row
from warmstart.callbacks.relus import ReLUs
from warmstart.models.layers import LayerGroup
from warmstart.task import Classification

# About so many looks in a run, besides those at its start, and so many steps apart at least: a look
# takes up to a seventh of a step.
_LOOKS, _APART = 20, 10
# Digits that are kept: no rule asks for more, and a record holds thousands of these numbers.
_DIGITS = 4


def look_interval(steps: int, every: int | None) -> int:
    """Return the steps between two looks; 0 without looks.

    Args:
        steps: Of the whole run.
        every: As ``watch_every_steps`` says it; None for about 20 looks.
    """
    if every is not None:
        return every if steps else 0
    return max(math.ceil(steps / _LOOKS), _APART) if steps else 0


def is_look(done: int, interval: int) -> bool:
    """Return whether the step after which `done` steps are done is looked at.

    Every `interval` steps, and before the first of these after 1, 2, 4, 8, ... steps: rates that
    are far too large show at once.
    """
    if not interval:
        return False
    return done % interval == 0 or (done < interval and done & (done - 1) == 0)


def copies(groups: Sequence[LayerGroup]) -> dict[int, list[Tensor]]:
    """Return copies of the parameters of `groups`, by the groups' index."""
    return {
        group.index: [tensor.detach().clone() for tensor in _parameters(group)] for group in groups
    }


class Watch(pl.Callback):
    """Write for each layer group that trains how it moves.

    The columns of a row are ``NAME/GROUP``, where the name is one of

    - ``update_ratio``: |w' - w| / |w|, of the step's update and the weights before it,
    - ``gradient_norm``: of the loss, before any clipping,
    - ``distance``: |w' - w0| / |w0|, from the weights w0 before step 0,
    - ``dead_relus``: the share of ReLU units that give 0 for the whole batch,
    - ``lr``: the learning rate,

    with Euclidean norms over all parameters of the group. A group has no column in the rows of
    steps in which it is frozen, nor where a number is not finite (0 weights, for example). What is
    written is a function of the step alone, so that a resumed run needs no state of this callback.
    It comes before the recorder, and after what freezes.

    Args:
        groups: That train at any step.
        initial: Their weights before step 0, see `copies`.
        recorder: Whose rows these become, as the list ``watch``.
        interval: See `look_interval`.
    """

    def __init__(
        self,
        groups: Sequence[LayerGroup],
        initial: Mapping[int, list[Tensor]],
        recorder: Recorder,
        *,
        interval: int,
    ) -> None:
        self.groups = groups
        self.interval = interval
        self._initial = initial
        self._initial_norms: dict[int, float] = {}
        self._recorder = recorder
        self._rows: list[Row] = recorder.rows.setdefault("watch", [])
        self._relus = ReLUs(groups)
        self._trained: list[LayerGroup] = []
        self._before: list[Tensor] = []
        self._gradients: tuple[list[int], Tensor] = ([], torch.empty(0))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._initial = {
            index: [tensor.to(pl_module.device) for tensor in tensors]
            for index, tensors in self._initial.items()
        }
        flat = [tensor for tensors in self._initial.values() for tensor in tensors]
        places = [index for index, tensors in self._initial.items() for _ in tensors]
        self._initial_norms = _by_group(places, _norms(flat).tolist())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Classification)
        if not is_look(pl_module.first_step + batch_idx + 1, self.interval):
            return
        self._trained = [
            group for group in self.groups if any(p.requires_grad for p in _parameters(group))
        ]
        self._before = [tensor for group in copies(self._trained).values() for tensor in group]
        self._relus.clear()
        pl_module.look = self._relus.run

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        if not self._trained:
            return
        found = [(group.index, p.grad) for group in self._trained for p in _parameters(group)]
        places, gradients = zip(*((i, grad) for i, grad in found if grad is not None), strict=True)
        self._gradients = list(places), _norms(gradients)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Classification)
        if not self._trained:
            return
        done = pl_module.first_step + batch_idx + 1
        row: Row = {"step": done, "seconds": self._recorder.seconds}
        rates = {part["layer_group"]: part["lr"] for part in trainer.optimizers[0].param_groups}
        columns = self._measured() | {"lr": rates}
        for name, values in columns.items():
            for group in self._trained:
                value = float(values.get(group.index, math.nan))
                if math.isfinite(value):
                    row[f"{name}/{group.name}"] = float(f"{value:.{_DIGITS}g}")
        self._rows.append(row)
        pl_module.look, self._trained, self._before = None, [], []

    def _measured(self) -> dict[str, dict[int, float]]:
        """Return what the tensors say, by name and group."""
        now = [tensor.detach() for group in self._trained for tensor in _parameters(group)]
        start = [tensor for group in self._trained for tensor in self._initial[group.index]]
        places = [group.index for group in self._trained for _ in _parameters(group)]
        dead = self._relus.dead()
        shares = torch.stack(list(dead.values())) if dead else torch.empty(0, device=now[0].device)
        parts = {
            "moved": (places, _norms([a - b for a, b in zip(now, self._before, strict=True)])),
            "before": (places, _norms(self._before)),
            "away": (places, _norms([a - b for a, b in zip(now, start, strict=True)])),
            "gradient_norm": self._gradients,
            "dead_relus": (list(dead), shares),
        }
        # One wait for the device, not one for each number.
        numbers = iter(torch.cat([values for _, values in parts.values()]).tolist())
        found = {
            name: _by_group(places, [next(numbers) for _ in places])
            for name, (places, _) in parts.items()
        }
        moved, before, away = found.pop("moved"), found.pop("before"), found.pop("away")
        return {
            "update_ratio": {i: _ratio(moved[i], before[i]) for i in moved},
            "distance": {i: _ratio(away[i], self._initial_norms[i]) for i in away},
            **found,
        }


def _parameters(group: LayerGroup) -> list[torch.nn.Parameter]:
    return list(group.parameters.values())


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of each tensor, in float64, where squares of large numbers fit."""
    return torch.stack(torch._foreach_norm(list(tensors), 2, dtype=torch.float64))


def _by_group(places: Iterable[int], norms: Iterable[float]) -> dict[int, float]:
    """Return the norm over all tensors of each group; a single number stays as it is."""
    squares: dict[int, float] = {}
    for place, norm in zip(places, norms, strict=True):
        squares[place] = math.hypot(squares.get(place, 0.0), norm)
    return squares


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
