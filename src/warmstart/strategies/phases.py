"""A strategy as data: a list of phases.

A phase says from which step on how many top groups train, at which rates, and how BatchNorm
behaves. Each function here returns the phases of one strategy for a model of `groups` layer groups
and a run of `steps` steps; all check what they are given and say what is wrong with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.errors import ConfigError, choose

BATCHNORM = ("train", "eval", "eval_frozen")


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of a run, up to the start of the next.

    Attributes:
        start: Its first step.
        groups: How many groups train, counted from the head down.
        lr_scale: Factor on the base rate.
        group_decay: The rate of a group is base x lr_scale x group_decay^(groups above it).
        batchnorm: ``train`` (all normalize by the batch), ``eval`` (all by their running
            statistics), or ``eval_frozen`` (those of frozen groups by their running statistics).
        restart_schedule: The schedule of the rates, warm-up included, begins anew at its start.
    """

    start: int
    groups: int
    lr_scale: float = 1.0
    group_decay: float = 1.0
    batchnorm: str = "eval_frozen"
    restart_schedule: bool = False

    def rates(self, base: float, groups: int) -> list[float]:
        """Return the learning rate of each of the model's `groups`, input first; 0 where frozen."""
        frozen = groups - self.groups
        return [
            base * self.lr_scale * self.group_decay ** (groups - 1 - index)
            if index >= frozen
            else 0.0
            for index in range(groups)
        ]


def full(
    *, groups: int, steps: int, group_decay: float = 1.0, batchnorm: str = "eval_frozen"
) -> list[Phase]:
    """Train everything from the first step."""
    return checked([Phase(0, groups, 1.0, group_decay, batchnorm)], groups=groups, steps=steps)


def linear_probe(*, groups: int, steps: int, batchnorm: str = "eval_frozen") -> list[Phase]:
    """Train the head alone."""
    return checked([Phase(0, 1, batchnorm=batchnorm)], groups=groups, steps=steps)


def partial(
    *,
    groups: int,
    steps: int,
    top: int | None = None,
    frozen: int | None = None,
    group_decay: float = 1.0,
    batchnorm: str = "eval_frozen",
) -> list[Phase]:
    """Train the `top` groups, head included, or all but the first `frozen` ones; give one of both.

    Freezing what was transferred (``frozen=${init.groups}``) is the AnB of Yosinski et al., How
    transferable are features in deep neural networks?, NIPS 2014.
    """
    if (top is None) == (frozen is None):
        raise ConfigError(
            f"strategy.top is {top} and strategy.frozen is {frozen}, but exactly one of them must "
            f"be a number of the model's {groups} groups (strategy.top=null strategy.frozen=1)"
        )
    if frozen is not None:
        if isinstance(frozen, bool) or not isinstance(frozen, int) or not 0 < frozen < groups:
            raise ConfigError(
                f"strategy.frozen is {frozen!r}, but must be 1 to {groups - 1} of the model's "
                f"{groups} groups; with none frozen it is strategy=full"
            )
        top = groups - frozen
    assert top is not None
    return checked([Phase(0, top, 1.0, group_decay, batchnorm)], groups=groups, steps=steps)


def gradual(
    *,
    groups: int,
    steps: int,
    all_by: float = 0.5,
    group_decay: float = 1.0,
    batchnorm: str = "eval_frozen",
    restart_schedule: bool = False,
) -> list[Phase]:
    """Unfreeze one group after the other from the head down, evenly, all by `all_by` of the run.

    Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, ACL 2018, 3.3.
    """
    _check_fraction("strategy.all_by", all_by)
    phases = [
        Phase(
            round(all_by * steps * index / max(1, groups - 1)),
            index + 1,
            1.0,
            group_decay,
            batchnorm,
            restart_schedule,
        )
        for index in range(groups)
    ]
    return checked(phases, groups=groups, steps=steps)


def lp_ft(
    *,
    groups: int,
    steps: int,
    probe_until: float = 0.5,
    full_lr_scale: float = 0.1,
    group_decay: float = 1.0,
    batchnorm: str = "eval_frozen",
    restart_schedule: bool = False,
) -> list[Phase]:
    """Train the head first, then everything at a lower rate.

    Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution,
    ICLR 2022.

    Args:
        probe_until: Fraction of the run after which everything trains.
        full_lr_scale: Factor on the base rate from then on.
        restart_schedule: As in `Phase`.
    """
    rest = group_decay, batchnorm, restart_schedule
    _check_fraction("strategy.probe_until", probe_until)
    phases = [
        Phase(0, 1, 1.0, *rest),
        Phase(round(probe_until * steps), groups, full_lr_scale, *rest),
    ]
    return checked(phases, groups=groups, steps=steps)


def listed(
    *,
    groups: int,
    steps: int,
    phases: Sequence[Mapping[str, Any]],
    batchnorm: str = "eval_frozen",
    restart_schedule: bool = False,
) -> list[Phase]:
    """Take the phases as the user wrote them.

    Args:
        phases: Each with ``start`` (a fraction of the run in [0, 1]), ``groups`` (a number or
            ``all``), and optionally ``lr_scale``, ``group_decay``, ``batchnorm`` and
            ``restart_schedule``.
    """
    if not isinstance(phases, Sequence) or not phases:
        raise ConfigError(
            f"strategy.phases is {phases!r}, but must be a list with one phase at least"
        )
    result = []
    for index, phase in enumerate(phases):
        if not isinstance(phase, Mapping):
            raise ConfigError(
                f"strategy.phases[{index}] is {phase!r}, but must be a mapping such as "
                "{start: 0.5, groups: all}"
            )
        given = {"batchnorm": batchnorm, "restart_schedule": restart_schedule}
        entry = {"start": 0.0, **given, **phase}
        allowed = [field.name for field in dataclasses.fields(Phase)]
        for key in entry:
            if key not in allowed:
                raise choose(f"a key of strategy.phases[{index}]", key, allowed)
        _check_number(f"strategy.phases[{index}].start", entry["start"])
        entry["start"] = round(float(entry["start"]) * steps)
        entry["groups"] = groups if entry.get("groups", "all") == "all" else entry["groups"]
        result.append(Phase(**entry))
    return checked(result, groups=groups, steps=steps)


def checked(phases: list[Phase], *, groups: int, steps: int) -> list[Phase]:
    """Return `phases` if a run of `steps` steps on `groups` groups can execute each of them.

    A run of 0 steps, which only evaluates its initialization, keeps the first phase alone.

    Raises:
        ConfigError: For a phase that never starts, or values out of range.
    """
    if phases[0].start != 0:
        raise ConfigError(f"the first phase starts at step {phases[0].start}, but must start at 0")
    for index, phase in enumerate(phases):
        _check_values(index, phase, groups)
    if steps == 0:
        return phases[:1]
    for index, phase in enumerate(phases):
        if phase.start >= steps:
            raise ConfigError(
                f"phase {index} starts at step {phase.start}, but the last step is {steps - 1}; "
                "start it earlier, or make the run longer with steps or epochs"
            )
        if index and phase.start <= phases[index - 1].start:
            raise ConfigError(
                f"phase {index} starts at step {phase.start}, not after phase {index - 1} at step "
                f"{phases[index - 1].start}; give the run more steps, or the phases other starts"
            )
    return phases


def active(phases: Sequence[Phase], step: int) -> Phase:
    """Return the phase that `step` lies in."""
    return [phase for phase in phases if phase.start <= step][-1]


def _check_values(index: int, phase: Phase, groups: int) -> None:
    if isinstance(phase.groups, bool) or not isinstance(phase.groups, int) or phase.groups < 1:
        raise ConfigError(
            f"phase {index} trains {phase.groups!r} groups, but must train 1 to {groups} of them"
        )
    if phase.groups > groups:
        raise ConfigError(
            f"phase {index} trains the top {phase.groups} groups, but the model has {groups}; "
            f"give at most {groups}, or a finer model.granularity"
        )
    _check_number(f"the group_decay of phase {index}", phase.group_decay)
    if not 0 < phase.group_decay <= 1:
        raise ConfigError(f"strategy.group_decay is {phase.group_decay}, but must be in (0, 1]")
    _check_number(f"the lr_scale of phase {index}", phase.lr_scale)
    if not phase.lr_scale > 0:
        raise ConfigError(f"the lr_scale of phase {index} is {phase.lr_scale}, but must be above 0")
    if phase.batchnorm not in BATCHNORM:
        raise choose("strategy.batchnorm", phase.batchnorm, BATCHNORM)
    if not isinstance(phase.restart_schedule, bool):
        raise ConfigError(
            f"the restart_schedule of phase {index} is {phase.restart_schedule!r}, but must be "
            "true or false"
        )


def _check_fraction(name: str, value: float) -> None:
    _check_number(name, value)
    if value <= 0:
        raise ConfigError(
            f"{name} is {value}, but must be a fraction of the run above 0 and below 1"
        )


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}, but must be a number")
