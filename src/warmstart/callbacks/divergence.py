"""What to say of a run whose loss is not finite any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from warmstart.errors import RunError

Rows = Mapping[str, Sequence[Mapping[str, float]]]

# An update as large as the weights replaces them: a thousand times what is usual.
_REPLACED = 1.0
_UPDATE = "update_ratio/"


class Diverged(RunError):  # noqa: N818 - a RunError, with more to say
    """The training loss is not finite.

    Attributes:
        rows: Of the run up to there.
    """

    def __init__(self, text: str, rows: Rows) -> None:
        super().__init__(text)
        self.rows = rows


class FiniteSteps:
    """Count the steps up to the first whose loss is not finite, without waiting for the device.

    Args:
        done: Steps before the first one that is counted, all of them with a finite loss.
    """

    def __init__(self, done: int) -> None:
        self._count = torch.tensor(done)

    def add(self, loss_sum: Tensor) -> None:
        """Count a step; once a term of the sum is not finite, the sum never is again."""
        if self._count.device != loss_sum.device:
            self._count = self._count.to(loss_sum.device)
        self._count += loss_sum.isfinite()

    @property
    def count(self) -> int:
        return int(self._count)


def diverged(rows: Rows, *, finite: int, lr: float) -> Diverged:
    """Return the error that names the first bad step, the group that broke, its rate and the fix.

    Args:
        rows: Of the run.
        finite: Steps whose loss was finite.
        lr: The rate of the head.
    """
    text = f"the training loss is not finite at step {finite + 1}"
    if look := _breaking(rows, finite):
        group = max(_ratios(look), key=_ratios(look).__getitem__)
        text += (
            f"; the largest update at step {look['step']} was {_ratios(look)[group]:.2g} times the "
            f"weights of group {group} (about 0.001 is usual) at a rate of {look[f'lr/{group}']:g}"
        )
    else:
        text += f" with a rate of {lr:g} at the head"
    return Diverged(f"{text}; lower optimizer.lr or add scheduler.warmup_steps", rows)


def _breaking(rows: Rows, finite: int) -> Mapping[str, Any] | None:
    """Return the last look before the loss broke, or the first of those that led to it.

    Where updates replaced the weights at look after look, the later ones are the consequence.
    """
    found: Mapping[str, Any] | None = None
    for look in reversed(rows.get("watch", [])):
        if look["step"] > finite or not _ratios(look):
            continue
        if found is not None and max(_ratios(look).values()) < _REPLACED:
            break
        found = look
        if max(_ratios(look).values()) < _REPLACED:
            break
    return found


def _ratios(look: Mapping[str, Any]) -> dict[str, float]:
    return {k.removeprefix(_UPDATE): v for k, v in look.items() if k.startswith(_UPDATE)}
