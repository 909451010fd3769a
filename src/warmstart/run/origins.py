"""Which weights a run starts from, and whether another run's fit its model."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError
from warmstart.models.architecture import Architecture
from warmstart.models.init import Init, Pretrained
from warmstart.models.weights import FORMS, Weights, resolve
from warmstart.results.record import read

WEIGHTS_FILE = "best.safetensors"
# Options of a model that change no weights, or change them in a way that loading undoes.
_SAME_WEIGHTS = {"granularity", "weights", "channels", "auxiliary_weight", "fully_convolutional"}


def named_weights(config: Mapping[str, Any], init: Init) -> str | None:
    """Return the name of the weights whose preprocessing the run takes over, or None.

    Those that it loads; and from scratch, within a comparison, those of the other arms
    (``model.weights``), so that all arms see the same pixels.

    Raises:
        ConfigError: The run loads weights, and none are named.
    """
    own = config["model"]["weights"]
    if isinstance(init, Pretrained):
        if init.weights is None and own is None:
            raise ConfigError(
                f"init={config['choices']['init']}, but this model has no weights of its own; "
                f"give init.weights={FORMS}"
            )
        return str(init.weights or own)
    return None if own is None or config["comparison"] is None else str(own)


def weights_of_run(start: str, config: Mapping[str, Any], architecture: Architecture) -> Weights:
    """Return the weights of the finished run whose key begins with `start`."""
    places = [Path(config["out"]) / "runs", Path(config["store"]) / "runs"]
    pattern = f"{glob.escape(start)}*"
    # A run may stand in both places, as a run of its own and as a source.
    found = {path.name: path for place in places for path in place.glob(pattern) if path.is_dir()}
    name = f"run:{start}"
    if len(found) != 1 or not start:
        raise ConfigError(
            f"init.weights is {name!r}, but {len(found) or 'no'} runs in "
            f"{' and '.join(map(str, dict.fromkeys(places)))} have a key that starts so; give the "
            "first digits of one key, enough to tell it from others"
        )
    folder = next(iter(found.values()))
    record, file = read(folder), folder / WEIGHTS_FILE
    if record is None or record.status != "finished" or not file.is_file():
        raise ConfigError(
            f"init.weights is {name!r}, but that run has no weights to start from; "
            "finish it with keep=best"
        )
    check_same_net(name, record.config["model"], config["model"])
    weights = resolve(str(file), architecture, store=Path(config["store"]))
    return dataclasses.replace(weights, origin=f"run:{record.key[:12]}", digest=record.key)


def check_same_net(name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    differing = [
        f"model.{option} is {theirs.get(option)} there and {ours.get(option)} here"
        for option in sorted({*theirs, *ours} - _SAME_WEIGHTS)
        if theirs.get(option) != ours.get(option)
    ]
    if differing:
        raise ConfigError(
            f"init.weights={name} is of another net ({'; '.join(differing)}); "
            "use the same model, or other weights"
        )
