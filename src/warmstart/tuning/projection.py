"""What readers get of a search: the file ``tuning.json``, written anew after every change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.store import publish
from warmstart.tuning.arms import Arm, Question, before
from warmstart.tuning.trials import Trial, winner

FILE = "tuning.json"
METRIC = "val/accuracy"


def write(
    folder: Path,
    asked: Question,
    arms: Sequence[Arm],
    trials: Mapping[str, Sequence[Trial]],
    finals: Mapping[str, Sequence[Trial]],
    *,
    command: str,
    created: str,
) -> None:
    """Write the file into a tuning's folder, in one piece.

    Args:
        folder: Of the tuning.
        asked: What is tuned.
        arms: All of them.
        trials: Of both rounds, by arm.
        finals: The finalists' runs, by arm.
        command: That the user typed.
        created: When the search began, in ISO 8601.
    """
    found = {arm.label: winner(finals.get(arm.label, ())) for arm in arms}
    best = {label: of_arm for label, of_arm in found.items() if of_arm is not None}
    search = asked.search
    content = {
        "name": asked.name,
        "of": asked.of,
        "command": command,
        "metric": METRIC,
        "sampler": search.sampler,
        "created": created,
        "arms": {
            arm.label: {"steps": arm.steps, "config": before(arm.cell.config, search)}
            for arm in arms
        },
        "space": {key: axis.as_dict() for key, axis in search.space.items()},
        "trials": [
            _entry(trial)
            for arm in arms
            for trial in (*trials[arm.label], *finals.get(arm.label, ()))
        ],
        "best": {
            label: {"values": dict(values), "value": value, "trials": numbers}
            for label, (values, value, numbers) in best.items()
        },
    }
    text = json.dumps(content, indent=1)
    publish(folder / FILE, lambda part: part.write_text(text))


def begun(folder: Path) -> dict[str, str] | None:
    """Return when (``created``) and by which ``command`` a search began; None for none."""
    try:
        content = json.loads((folder / FILE).read_text())
        return {name: str(content[name]) for name in ("created", "command")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entry(trial: Trial) -> dict[str, Any]:
    entry = dataclasses.asdict(trial)
    del entry["loss"]
    return entry
