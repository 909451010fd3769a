"""The plain values of a run's config: their checks, and the length in steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.data.views import check_eval
from warmstart.errors import ConfigError, choose

# The weights of the loss, and the order of the batches, in which classes count alike.
_BALANCES = ("none", "loss", "sampling")
# About so many validations, and so many points of the training curve, in a run.
_VALIDATIONS, _POINTS = 20, 50


def check_scalars(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError for the first top-level value of a run's config that cannot be."""
    for name, least in (("seed", 0), ("batch_size", 1), ("steps", 0), ("epochs", 0)):
        _check_whole(config, name, least)
    for name in ("val_every_steps", "log_every_steps"):
        _check_whole(config, name, 1)
    if (config["steps"] is None) == (config["epochs"] is None):
        raise ConfigError(
            f"steps is {config['steps']} and epochs is {config['epochs']}; give exactly one of "
            "them (steps=null epochs=10, for example)"
        )
    if config["balance"] not in _BALANCES:
        raise choose("balance", config["balance"], _BALANCES)
    check_eval(config)
    if config["keep"] not in ("best", "none"):
        raise ConfigError(f"keep is {config['keep']!r}, but must be best or none")
    for name in ("out", "store"):
        _check_folder(name, config[name])
    if not isinstance(config["test"], bool):
        raise ConfigError(f"test is {config['test']!r}, but must be true or false")
    for name in ("checkpoint_seconds", "cache_gib"):
        value = config[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ConfigError(f"{name} is {value!r}, but must be a number of at least 0")


def _check_whole(config: Mapping[str, Any], name: str, least: int) -> None:
    value = config[name]
    optional = name not in ("seed", "batch_size")
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}, but must be a whole number of at least {least}")


def _check_folder(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} is {value!r}, but must be the path of a folder")
    if Path(value).is_file():
        raise ConfigError(f"{name} is {value!r}, a file, but must be a folder")


def length(config: Mapping[str, Any], *, images: int) -> dict[str, Any]:
    """Return length and intervals in steps; an epoch is one pass over the training images."""
    batch = min(config["batch_size"], images)
    steps = config["steps"]
    if steps is None:
        steps = math.ceil(config["epochs"] * images / batch)
    return {
        "steps": steps,
        "epochs": None,
        "batch_size": batch,
        "val_every_steps": config["val_every_steps"] or max(1, math.ceil(steps / _VALIDATIONS)),
        "log_every_steps": config["log_every_steps"] or max(1, math.ceil(steps / _POINTS)),
    }
