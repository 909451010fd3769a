"""A tuning as its files tell it: ``tuning.json``, and the records of its trials."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError
from warmstart.results.metric import Metric
from warmstart.results.sharing import Reader
from warmstart.results.tuning_axis import Axis, text

FILE = "tuning.json"
PAGE = "report.html"
CONFIGS = "configs"  # a folder for --config-dir, with the recipes as arms
ROUNDS = ("coarse", "refine", "final")
"""``coarse`` draws from the whole space, ``refine`` near the best; ``final`` takes the best few for
the full length, on other seeds."""
STATES = ("finished", "pruned", "failed", "running", "planned")
ENDED = STATES[:3]

Curve = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a tuning.

    Attributes:
        arm: Whose.
        number: Within the arm, from 0.
        round: One of `ROUNDS`.
        values: Of the searched keys.
        seed: Of the run.
        steps: Its length.
        key: Its identity.
        state: One of `STATES`.
        value: The best that the metric was at a validation; None where there was none.
        pruned_at: The step at which it was given up, or None.
        error: Why it failed, or None.
        curve: Of validation, columns ``step``, ``accuracy`` and ``loss`` of equal length.
        seconds: Of training, where it has a record.
        test_opened: How often it looked at test; must be 0.
    """

    arm: str
    number: int
    round: str
    values: Mapping[str, Any]
    seed: int
    steps: int
    key: str
    state: str
    value: float | None
    pruned_at: int | None = None
    error: str | None = None
    curve: Curve = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    test_opened: int = 0

    @property
    def recipe(self) -> str:
        """The searched values, much like overrides."""
        return " ".join(f"{key}={text(value)}" for key, value in self.values.items())


@dataclasses.dataclass(frozen=True)
class Best:
    """What a tuning chose for an arm.

    Attributes:
        values: Of the searched keys.
        value: Of the metric, as the tuning judged it.
        trials: Numbers of the trials of the final round that had these values.
    """

    values: Mapping[str, Any]
    value: float
    trials: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tuning:
    """All trials of all arms.

    Attributes:
        folder: Where ``tuning.json`` lies.
        name: Of the comparison or experiment.
        command: Goes on with it, or repeats it.
        metric: By which recipes are chosen; of validation.
        sampler: ``random``, ``grid`` or ``tpe``.
        created: When it began; ISO 8601.
        lengths: Steps of a whole run, by arm.
        axes: The searched keys.
        trials: In the order of the file.
        best: By arm, for the arms that have come to their end.
    """

    folder: Path
    name: str
    command: str
    metric: Metric
    sampler: str
    created: str
    lengths: Mapping[str, int]
    axes: tuple[Axis, ...]
    trials: tuple[Trial, ...]
    best: Mapping[str, Best]

    @property
    def arms(self) -> list[str]:
        return list(self.lengths)

    @functools.cached_property
    def by_arm(self) -> dict[str, list[Trial]]:
        """The trials of each arm, also of one that has none yet."""
        return {arm: [t for t in self.trials if t.arm == arm] for arm in self.lengths}

    @property
    def finished(self) -> bool:
        """Whether every trial has ended and every arm has its recipe."""
        return self.best.keys() >= self.lengths.keys() and all(
            trial.state in ENDED for trial in self.trials
        )

    def ranked(self, arm: str) -> list[Trial]:
        """Return an arm's trials that have a value, the best first; of equals the earlier one."""
        sign = -1 if self.metric.higher_is_better else 1
        return sorted(
            (trial for trial in self.by_arm[arm] if trial.value is not None),
            key=lambda trial: sign * (trial.value or 0.0),
        )

    def chosen(self, arm: str) -> Mapping[str, Any]:
        """Return the values of the arm's recipe, or of its best trial so far; empty without one."""
        if arm in self.best:
            return self.best[arm].values
        return next((trial.values for trial in self.ranked(arm)), {})


def is_tuning(folder: Path) -> bool:
    """Return whether a folder is that of a tuning."""
    return (folder / FILE).is_file()


def trial_keys(folder: Path) -> set[str]:
    """Return the keys of a tuning's runs; none of a damaged one."""
    try:
        return {str(one["key"]) for one in json.loads((folder / FILE).read_text())["trials"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def load(folder: Path) -> Tuning:
    """Read a tuning from OUT/tunings/NAME and the records of its trials in OUT/runs.

    A record fills in what the file does not hold: the curve, the seconds, and the end of a trial
    that the file still calls planned or running, as after its process was killed.

    Raises:
        ConfigError: It is none, or a file is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = _tuning(folder, content)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} holds no {FILE}; give a folder in OUT/tunings, which warmstart tune writes"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not a tuning of warmstart ({type(error).__name__}: {error}); delete it and "
            "start warmstart tune again, which keeps the finished runs"
        ) from error
    reader, runs = Reader(), folder.resolve().parent.parent / "runs"
    trials = [_with_record(trial, runs / trial.key, found.metric, reader) for trial in found.trials]
    return dataclasses.replace(found, trials=tuple(trials))


def arm_name(arm: str) -> str:
    """Return the name, as ``arm=`` takes it, under which a tuning writes an arm's recipe."""
    return "tuned/" + "".join(c if c.isalnum() or c in "/-_" else "_" for c in arm)


def recipe_file(folder: Path, arm: str) -> str | None:
    """Return the arm's recipe that a tuning has written into its folder; None without one."""
    path = folder / CONFIGS / "arm" / f"{arm_name(arm)}.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _tuning(folder: Path, content: dict[str, Any]) -> Tuning:
    lengths = {str(arm): int(entry["steps"]) for arm, entry in content["arms"].items()}
    trials = tuple(_trial(entry) for entry in content["trials"])
    if strangers := {trial.arm for trial in trials} - set(lengths):
        raise ValueError(f"a trial is of {min(strangers)!r}, which is none of its arms")
    return Tuning(
        folder=folder,
        name=str(content["name"]),
        command=str(content.get("command") or ""),
        metric=Metric(str(content["metric"])),
        sampler=str(content["sampler"]),
        created=str(content.get("created") or ""),
        lengths=lengths,
        axes=tuple(Axis.of(str(key), node) for key, node in content["space"].items()),
        trials=trials,
        best={
            str(arm): Best(dict(entry["values"]), float(entry["value"]), tuple(entry["trials"]))
            for arm, entry in (content.get("best") or {}).items()
        },
    )


def _trial(entry: Mapping[str, Any]) -> Trial:
    known = {field.name for field in dataclasses.fields(Trial)} & entry.keys()
    trial = Trial(**{name: entry[name] for name in known})
    for name, allowed in (("state", STATES), ("round", ROUNDS)):
        if getattr(trial, name) not in allowed:
            raise ValueError(f"a trial's {name} is {getattr(trial, name)!r}")
    return dataclasses.replace(trial, curve=trial.curve or {})


def _with_record(trial: Trial, folder: Path, metric: Metric, reader: Reader) -> Trial:
    record = reader(folder)
    if record is None:
        return trial
    curve: Curve = trial.curve if trial.curve.get("step") else dict(record.curves.get("val", {}))
    known = dataclasses.replace(
        trial,
        curve=curve,
        seconds=record.timing.get("train_seconds"),
        test_opened=record.test_opened,
    )
    if trial.state in ENDED:
        return known
    if record.status == "finished":
        return dataclasses.replace(known, state="finished", value=record.metrics.get(metric.name))
    return dataclasses.replace(known, state="failed", error=record.error)
