"""Which weights of a run are kept, and when it ends: its average, early stopping, snapshots."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from warmstart import configs
from warmstart.callbacks.averaging import Average
from warmstart.callbacks.early import METRICS, EarlyStopping
from warmstart.errors import ConfigError, choose
from warmstart.optim.schedules import cycle_ends
from warmstart.strategies.phases import Phase

_CYCLIC = "warmstart.optim.schedules.sgdr"
_EARLY = {"patience", "metric", "min_delta"}


@dataclasses.dataclass(frozen=True)
class Keeping:
    """What a run keeps beside the weights of its best validation.

    Attributes:
        average: Of its weights; None for the weights themselves.
        early: When it ends before its last step; None lets it take all.
        snapshots: After how many steps the weights are kept for an ensemble.
    """

    average: Average | None = None
    early: EarlyStopping | None = None
    snapshots: tuple[int, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether nothing here is asked for."""
        return self == Keeping()

    def sentences(self, steps: int) -> list[str]:
        """Return what it asks for in a run of so many steps, in words."""
        found = []
        if self.average is not None and self.average.decay is not None:
            reach = f"{1 / self.average.share(steps):.2g} steps"
            found.append(f"the moving average of its weights, in the end over about {reach}")
        elif self.average is not None:
            every = "step" if self.average.every == 1 else f"{self.average.every} steps"
            found.append(f"the mean of its weights every {every} from {self.average.first} on")
        if self.early is not None:
            old = f"{self.early.patience} validation{'' if self.early.patience == 1 else 's'}"
            found.append(f"ends when the best val/{self.early.metric} is more than {old} old")
        if self.snapshots:
            what = "snapshots" if self.average is None else "snapshots of the average"
            found.append(f"{what} after steps {', '.join(map(str, self.snapshots))}")
        return found


def keeping_of(config: Mapping[str, Any], phases: Sequence[Phase], *, images: int) -> Keeping:
    """Return what a run keeps.

    Args:
        config: Of the run, with its length; that of a probe has 0 steps.
        phases: Of the run.
        images: That it trains on.

    Raises:
        ConfigError: A value is wrong, or cannot take effect.
    """
    steps, epoch = config["steps"], math.ceil(images / config["batch_size"])
    name = config["choices"].get("average", "none")
    wanted = config["average"]["_target_"] != "warmstart.callbacks.averaging.none"
    early, snapshots = config["early_stopping"], config["snapshots"]
    _check_early(early)
    if not isinstance(snapshots, bool):
        raise ConfigError(f"snapshots is {snapshots!r}, but must be true or false")
    for asked, given, neutral in (
        (wanted, f"average={name}", "average=none"),
        (
            early["patience"] is not None,
            f"early_stopping.patience={early['patience']}",
            "early_stopping.patience=null",
        ),
        (snapshots, "snapshots=true", "snapshots=false"),
    ):
        if asked and steps == 0:
            raise ConfigError(f"{given}, but the run takes no steps; give {neutral}")
    average = configs.build("average", config["average"], steps=steps, steps_per_epoch=epoch)
    # Before there is an average, another kind of weights is validated.
    start = max(phases[-1].start if phases else 0, average.first - 1 if average else 0)
    return Keeping(
        average,
        _early(early, start, steps=steps, every=config["val_every_steps"]),
        _snapshots(config, phases) if snapshots else (),
    )


def _check_early(node: Any) -> None:
    if not isinstance(node, Mapping) or set(node) != _EARLY:
        raise ConfigError(
            f"early_stopping is {node!r}, but must have the keys metric, min_delta and patience; "
            "for example early_stopping.patience=5"
        )
    patience, delta = node["patience"], node["min_delta"]
    if patience is not None and (
        isinstance(patience, bool) or not isinstance(patience, int) or patience < 0
    ):
        raise ConfigError(
            f"early_stopping.patience is {patience!r}, but must be a whole number of at least 0, "
            "or null"
        )
    if node["metric"] not in METRICS:
        raise choose("early_stopping.metric", node["metric"], METRICS)
    number = isinstance(delta, (int, float)) and not isinstance(delta, bool)
    if not number or not 0 <= delta < math.inf:
        raise ConfigError(
            f"early_stopping.min_delta is {delta!r}, but must be a number of at least 0"
        )
    for key, neutral in (("metric", "accuracy"), ("min_delta", 0)):
        if patience is None and node[key] != neutral:
            raise ConfigError(
                f"early_stopping.{key} is {node[key]!r}, but early_stopping.patience is null, "
                "which never stops early; give a patience, such as early_stopping.patience=5"
            )


def _early(node: Mapping[str, Any], start: int, *, steps: int, every: int) -> EarlyStopping | None:
    if node["patience"] is None:
        return None
    # At every multiple of `every`, and after the last step.
    count = math.ceil(steps / every) - start // every
    # The first one may be the best, which is then more than patience validations old.
    earliest = node["patience"] + 2
    if earliest >= count:
        where = f" that count (after step {start})" if start else ""
        raise ConfigError(
            f"early_stopping.patience is {node['patience']}, but the run has {count} "
            f"validation{'' if count == 1 else 's'}{where} and cannot stop before validation "
            f"{earliest}; give a lower patience, a lower val_every_steps, or a longer run"
        )
    return EarlyStopping(**node, start=start)


def _snapshots(config: Mapping[str, Any], phases: Sequence[Phase]) -> tuple[int, ...]:
    """Return after how many steps a cycle of the schedule has ended.

    Where the schedule starts anew with each phase, its cycles lie within the phases.
    """
    node, steps = config["scheduler"], config["steps"]
    if node["_target_"] != _CYCLIC:
        raise ConfigError(
            f"snapshots=true, but scheduler={config['choices'].get('scheduler')} has no cycles at "
            "whose ends to take them; give scheduler=sgdr, or snapshots=false"
        )
    if config["early_stopping"]["patience"] is not None:
        raise ConfigError(
            "snapshots=true, but early_stopping.patience is set, and each new cycle starts with "
            "worse validations; give early_stopping.patience=null"
        )
    anew = [phase.start for phase in phases[1:] if phase.restart_schedule]
    found = [
        start + last + 1
        for start, end in pairwise([0, *anew, steps])
        for last in cycle_ends(steps=end - start, cycles=node["cycles"], growth=node["growth"])
    ]
    if len(found) < 2:
        raise ConfigError(
            f"snapshots=true, but scheduler.cycles is {node['cycles']}, and one snapshot is no "
            "ensemble; give at least 2"
        )
    return tuple(found)
