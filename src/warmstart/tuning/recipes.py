"""What a search has found, as arms: a config folder that the user can give with --config-dir."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from warmstart.cells import AXES
from warmstart.results.tuning import CONFIGS, arm_name
from warmstart.store import publish
from warmstart.targets import TARGETS
from warmstart.tuning.arms import Arm

# What of a config is a recipe: everything but the images, the model and the machine.
_PARTS = set(TARGETS) - {"data", "model", "trainer", "logger"}


def recipe(arm: Arm, values: Mapping[str, Any], *, command: str, score: str) -> str:
    """Return an arm of its own: the arm, with the values that were found."""
    told = list(_told(arm))
    chosen = arm.cell.config["choices"]
    groups = {key: option for key, option in told if key in TARGETS}
    if arm.cell.config["arm"] is None:
        groups = {"init": chosen["init"], "strategy": chosen["strategy"], **groups}
    found = {key: value for key, value in values.items() if key in TARGETS}
    defaults: list[Any] = []
    if arm.cell.config["arm"] is not None:
        defaults.append(f"/arm/{arm.cell.config['arm']}")
    defaults += [{f"override /{key}": option} for key, option in {**groups, **found}.items()]
    content: dict[str, Any] = {"defaults": [*defaults, "_self_"]}
    own = {key: yaml.safe_load(text) for key, text in told if key not in TARGETS}
    for key, value in {**own, **values}.items():
        if key not in TARGETS:
            _set(content, key.split("."), value)
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    header = f"# The arm {arm.label} with what a search has found: {score}.\n# {command}"
    return f"# @package _global_\n{header}\n{text}"


def _told(arm: Arm) -> Iterator[tuple[str, str]]:
    """Yield key and value of what makes the arm besides its file: swept, or told for all arms."""
    for line in arm.cell.overrides:
        key, _, text = line.lstrip("+").partition("=")
        if key not in AXES and (line in arm.cell.swept or key.partition(".")[0] in _PARTS):
            yield key, text


def write(folder: Path, arm: Arm, text: str) -> str:
    """Write an arm into a tuning's folder; return its name, as ``arm=`` takes it."""
    name = arm_name(arm.label)
    path = folder / CONFIGS / "arm" / f"{name}.yaml"
    publish(path, lambda part: part.write_text(text, encoding="utf-8"))
    return name


def _set(node: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        node = node.setdefault(name, {})
    node[path[-1]] = value
