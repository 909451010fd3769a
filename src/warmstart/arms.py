"""What an arm sets is the arm's: no override may change it behind its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override

from warmstart.configs import folder as conf_folder
from warmstart.errors import ConfigError


def check_arm(config: Mapping[str, Any], arguments: Sequence[Override]) -> None:
    """Refuse to override on the command line what the swept arms set themselves.

    Otherwise a table would say ``scratch`` of something that is not the arm of this name.
    """
    if config["arm"] is None:
        return
    keys = _arm_keys(str(config["arm"]), config["config_dirs"])
    for override in arguments:
        key = override.key_or_group
        for own in keys:
            if own == key or own.startswith(f"{key}."):
                raise ConfigError(
                    f"{override.input_line!r} overrides what the arm {config['arm']} sets ({own}); "
                    "change the arm's file, or write an arm of your own with --config-dir"
                )


def _arm_keys(arm: str, config_dirs: Sequence[str]) -> list[str]:
    for root in (*map(Path, config_dirs), conf_folder()):
        path = root / "arm" / f"{arm}.yaml"
        if path.is_file():
            content = yaml.safe_load(path.read_text())
            keys = []
            for entry in content.pop("defaults", []):
                if isinstance(entry, str):  # another arm, whose keys are this arm's too
                    keys += _arm_keys(entry.removeprefix("/arm/"), config_dirs)
                else:
                    keys += [name.split("/")[-1] for name in entry]
            return [*keys, *_leaves(content)]
    return []


def _leaves(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [
        leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}.{key}".strip("."))
    ]
