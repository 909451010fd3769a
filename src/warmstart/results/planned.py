"""The runs that a comparison plans, or a folder holds, and what may be said of each."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError
from warmstart.results import record as records
from warmstart.results import state as states
from warmstart.results.metric import size_phrase
from warmstart.results.outlook import Pace, seconds_left
from warmstart.results.state import State

PLAN = "cells.json"

STATUSES = ("done", "running", "waiting", "planned", "stopped", "died", "failed")
"""``done``: has its record. ``waiting``: given to a launcher. ``stopped``: after a checkpoint, on a
signal. ``died``: its process is gone without a word. ``failed``: with a reason."""
COMING = ("planned", "waiting", "stopped", "died")
"""Those that the same command, started again, brings to their end."""

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        key: Its identity.
        label: What tables call it.
        folder: Where its record is, or will be.
        predicted: Seconds, as its plan said; 0 where unknown.
        status: One of `STATUSES`.
        reason: Why it failed or died, in one line.
        device_seconds: What it has cost so far.
        state: Its last word; None of a run that never started, or left its record alone.
    """

    key: str
    label: str
    folder: Path
    predicted: float = 0.0
    status: str = "planned"
    reason: str = ""
    device_seconds: float = 0.0
    state: State | None = None

    @property
    def share(self) -> float:
        """How much of its training is done, 0 to 1."""
        return self.state.step / self.state.steps if self.state and self.state.steps else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data; what is not known is left out."""
        kept = ("stage", "step", "steps", "seconds_left", "device", "host", "job", "attempts")
        state = dataclasses.asdict(self.state) if self.state else {}
        content = {
            "key": self.key,
            "label": self.label,
            "folder": str(self.folder),
            "status": self.status,
            "reason": self.reason,
            "predicted_seconds": self.predicted,
            "device_seconds": round(self.device_seconds, 3),
            **{name: state.get(name) for name in kept},
        }
        return {name: value for name, value in content.items() if value not in (None, "", 0)}


@dataclasses.dataclass(frozen=True)
class Status:
    """Runs that belong together.

    Attributes:
        name: Of the comparison.
        folder: Of the comparison, or the output folder.
        cells: Its runs, in the order of its plan.
        stages: The source runs that they share.
        command: Brings the rest to its end.
    """

    name: str
    folder: Path
    cells: tuple[RunStatus, ...]
    stages: tuple[RunStatus, ...] = ()
    command: str = ""

    @property
    def runs(self) -> tuple[RunStatus, ...]:
        return (*self.stages, *self.cells)

    @property
    def counts(self) -> dict[str, int]:
        """How many cells have each status; those that none has are left out."""
        found = [cell.status for cell in self.cells]
        return {status: found.count(status) for status in STATUSES if status in found}

    @property
    def device_seconds(self) -> float:
        return sum(run.device_seconds for run in self.runs)

    @property
    def ended(self) -> bool:
        """Whether no cell is under way or still to come."""
        return all(cell.status in ("done", "failed") for cell in self.cells)

    @functools.cached_property
    def seconds_left(self) -> float | None:
        """The seconds until all is done; None while nothing runs, or nothing is known."""
        # Finished stages would tell nothing about cells, which may be much shorter.
        runs = [run for run in self.stages if run.status != "done"] + list(self.cells)
        return seconds_left([_pace(run) for run in runs], coming=COMING)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "command": self.command,
            "counts": {status: self.counts.get(status, 0) for status in STATUSES},
            "device_seconds": round(self.device_seconds, 3),
            "seconds_left": self.seconds_left,
            "cells": [run.as_dict() for run in self.cells],
            "stages": [run.as_dict() for run in self.stages],
        }


def plans(folder: Path) -> list[Status]:
    """Return the runs that `folder` holds, all of them as if they were still to be started.

    Raises:
        ConfigError: As `status`.
    """
    if (folder / PLAN).is_file():
        return [_planned(folder)]
    if any((folder / name).is_file() for name in (records.FILE, states.FILE)):
        run = RunStatus(*_names_of(folder.resolve()))
        return [Status(run.label, folder, (run,))]
    found = [_planned(path.parent) for path in sorted(folder.glob(f"comparisons/*/{PLAN}"))]
    known = {run.key for one in found for run in one.runs}
    runs, stages = (
        tuple(
            RunStatus(*_names_of(one))
            for one in (parent / name for name in sorted(names(parent)))
            if _KEY.fullmatch(one.name) and one.name not in known
        )
        for parent in (folder / "runs", folder / "store" / "runs")
    )
    if runs or (stages and not found):
        name = "other runs" if found else folder.resolve().name
        found.append(Status(name, folder, runs, stages if not known else ()))
    if found:
        return found
    problem = "holds no run" if folder.is_dir() else "is not a folder"
    raise ConfigError(
        f"{folder} {problem}; give an output folder (with runs/ or comparisons/), "
        "a folder in its comparisons/, or one in its runs/"
    )


def _names_of(folder: Path) -> tuple[str, str, Path]:
    """Return key, label and folder of a run of which no plan says more."""
    return folder.name, folder.name[:12], folder


def _planned(folder: Path) -> Status:
    path, out = folder / PLAN, folder.resolve().parent.parent
    try:
        plan = json.loads(path.read_text())
        cells = {cell["key"]: _cell(cell, out / "runs") for cell in plan["cells"]}
        stages = {one["key"]: _stage(one, out) for one in plan.get("stages", ())}
        name, command = str(plan["name"]), str(plan.get("command", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not a plan of warmstart ({type(error).__name__}: {error}); "
            "delete it and start the comparison again"
        ) from error
    return Status(name, folder, tuple(cells.values()), tuple(stages.values()), command)


def _cell(cell: dict[str, Any], runs: Path) -> RunStatus:
    label = cell.get("label")
    if not label:  # of an older plan
        fold = "" if cell.get("fold") is None else f" fold {cell['fold']}"
        label = f"{cell['arm']}, {size_phrase(cell['size'])}, seed {cell['seed']}{fold}"
    return RunStatus(cell["key"], label, runs / cell["key"], float(cell.get("seconds") or 0))


def _stage(stage: dict[str, Any], out: Path) -> RunStatus:
    # The folder as the planning machine saw it; elsewhere the store usually lies in the output.
    folder = Path(stage["folder"])
    if not folder.is_dir():
        folder = out / "store" / "runs" / stage["key"]
    return RunStatus(stage["key"], stage["label"], folder, float(stage.get("seconds") or 0))


def names(parent: Path) -> set[str]:
    """Return the names in a folder; none where there is no such folder."""
    try:
        with os.scandir(parent) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def _pace(run: RunStatus) -> Pace:
    state = run.state
    devices = state.devices if state else 1
    left = state.seconds_left if state and run.status == "running" else None
    return Pace(run.status, run.predicted, run.device_seconds / max(1, devices), left, run.share)
