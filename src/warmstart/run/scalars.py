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
# What a run does that runs out of memory.
_ON_OOM = ("accumulate", "fail")
_RESOURCES = {"gpus", "cpus", "timeout"}
_FEATURES = {"cache", "views", "dtype", "gib", "pool"}
# A third of a GPU may be written 0.33.
_SHARE_TOLERANCE = 0.015
# About so many points of the training curve in a run, and at most and at least so many validations.
_POINTS, _MOST, _LEAST = 50, 20, 5


def check_scalars(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError for the first top-level value of a run's config that cannot be."""
    _check_length(config)
    for name, allowed in (("balance", _BALANCES), ("on_oom", _ON_OOM)):
        if config[name] not in allowed:
            raise choose(name, config[name], allowed)
    check_eval(config)
    _check_resources(config)
    _check_features(config)
    if config["keep"] not in ("best", "none"):
        raise ConfigError(f"keep is {config['keep']!r}, but must be best or none")
    for name in ("out", "store"):
        _check_folder(name, config[name])
    if not isinstance(config["test"], bool):
        raise ConfigError(f"test is {config['test']!r}, but must be true or false")
    for name in ("checkpoint_seconds", "cache_gib"):
        _check_amount(name, config[name])


def _check_length(config: Mapping[str, Any]) -> None:
    for name, least in (("seed", 0), ("batch_size", 1), ("steps", 0), ("epochs", 0)):
        _check_whole(config, name, least)
    _check_whole(config, "watch_every_steps", 0)
    for name in ("val_every_steps", "log_every_steps", "accumulate", "lr_batch"):
        _check_whole(config, name, 1)
    if (config["steps"] is None) == (config["epochs"] is None):
        raise ConfigError(
            f"steps is {config['steps']} and epochs is {config['epochs']}; give exactly one of "
            "them (steps=null epochs=10, for example)"
        )


def _check_whole(config: Mapping[str, Any], name: str, least: int) -> None:
    value = config[name]
    optional = name not in ("seed", "batch_size", "accumulate")
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}, but must be a whole number of at least {least}")


def _check_resources(config: Mapping[str, Any]) -> None:
    node = config["resources"]
    if not isinstance(node, Mapping) or set(node) != _RESOURCES:
        raise ConfigError(
            f"resources is {node!r}, but must have the keys gpus, cpus and timeout; for example "
            "resources.gpus=0.5 resources.timeout=3600"
        )
    gpu_share(node["gpus"])
    cpus, trainer = node["cpus"], config.get("trainer") or {}
    if cpus is not None:
        if isinstance(cpus, bool) or not isinstance(cpus, int) or cpus < 1:
            raise ConfigError(
                f"resources.cpus is {cpus!r}, but must be a whole number of at least 1, or null"
            )
        threads, devices = trainer.get("threads", 1), trainer.get("devices", 1)
        if cpus < threads * devices:
            raise ConfigError(
                f"resources.cpus is {cpus}, but the run computes with {threads * devices} threads; "
                f"give resources.cpus={threads * devices} or a lower trainer.threads"
            )
    timeout = node["timeout"]
    if timeout is not None and (not _is_number(timeout) or timeout <= 0):
        raise ConfigError(
            f"resources.timeout is {timeout!r}, but must be a number of seconds above 0, or null"
        )


def _check_features(config: Mapping[str, Any]) -> None:
    node = config["features"]
    if not isinstance(node, Mapping) or set(node) != _FEATURES:
        raise ConfigError(
            f"features is {node!r}, but must have the keys {', '.join(sorted(_FEATURES))}; for "
            "example features.cache=off"
        )
    for name, allowed in (("cache", ("auto", "off")), ("dtype", ("float32", "float16"))):
        if node[name] not in allowed:
            raise choose(f"features.{name}", node[name], allowed)
    _check_amount("features.gib", node["gib"])
    views = node["views"]
    if views is None:
        return
    if isinstance(views, bool) or not isinstance(views, int) or views < 1:
        raise ConfigError(
            f"features.views is {views!r}, but must be a whole number of at least 1, or null"
        )
    if node["cache"] == "off":
        raise ConfigError(
            f"features.views is {views}, but features.cache=off computes no features; leave out "
            "one of them"
        )


def _check_amount(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ConfigError(f"{name} is {value!r}, but must be a number of at least 0")


def gpu_share(gpus: Any) -> float | None:
    """Return a value of ``resources.gpus`` with a share as exactly 1/k: 0.33 is a third.

    Raises:
        ConfigError: It is neither 0, a whole number, a share 1/k of one GPU, nor None.
    """
    if gpus is None:
        return None
    if _is_number(gpus) and gpus >= 0:
        if gpus == int(gpus):
            return float(gpus)
        runs = round(1 / gpus) if gpus > _SHARE_TOLERANCE else 0
        if gpus < 1 and abs(gpus * runs - 1) <= _SHARE_TOLERANCE:
            return 1 / runs
    raise ConfigError(
        f"resources.gpus is {gpus!r}, but must be 0, a whole number, the share of one GPU that k "
        "runs get each (0.5, 0.33, 0.25, ...), or null"
    )


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)


def _check_folder(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} is {value!r}, but must be the path of a folder")
    if Path(value).is_file():
        raise ConfigError(f"{name} is {value!r}, a file, but must be a folder")


def length(config: Mapping[str, Any], *, images: int, validated: int) -> dict[str, Any]:
    """Return length and intervals in steps; an epoch is one pass over the training images.

    Args:
        config: Of the run.
        images: To train on.
        validated: Images of a validation.

    Raises:
        ConfigError: A batch has fewer images than micro-batches, or devices cannot share it.
    """
    batch = min(config["batch_size"], images)
    if config["accumulate"] > batch:
        raise ConfigError(
            f"accumulate is {config['accumulate']}, but a batch has {batch} images; give at most "
            f"accumulate={batch}"
        )
    devices = config["trainer"].get("devices", 1)
    if devices > 1 and config["accumulate"] > 1:
        raise ConfigError(
            f"accumulate is {config['accumulate']}, but trainer.devices is {devices}, which share "
            "the batch already; give more trainer.devices, or accumulate=1"
        )
    if batch % devices:
        raise ConfigError(
            f"batch_size is {batch}, which cannot be shared out evenly to {devices} devices "
            f"(trainer.devices); give a multiple of {devices}"
            + (f" that is at most {images}, the training images" if batch == images else "")
        )
    steps = config["steps"]
    if steps is None:
        steps = math.ceil(config["epochs"] * images / batch)
    return {
        "steps": steps,
        "epochs": None,
        "batch_size": batch,
        "val_every_steps": config["val_every_steps"] or _interval(steps, batch, validated),
        "log_every_steps": config["log_every_steps"] or max(1, math.ceil(steps / _POINTS)),
    }


def _interval(steps: int, batch: int, validated: int) -> int:
    """Return the steps between two validations, which see no more images than the steps do.

    Forward and backward pass are three times a forward pass: validation takes a quarter of the
    time at most, but where the few that a curve needs take more.
    """
    count = min(_MOST, max(_LEAST, steps * batch // max(1, validated)))
    return max(1, math.ceil(steps / count))


def scaled_rate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that change where ``optimizer.lr`` was chosen for another batch.

    The rate belongs to the batch of all devices together, and grows with it: the linear scaling
    rule of Goyal et al., Accurate, Large Minibatch SGD, 2017, section 2.1.

    Args:
        config: With the `length` of the run.
    """
    chosen_for, optimizer = config["lr_batch"], config["optimizer"]
    if chosen_for is None:
        return {}
    lr = optimizer["lr"] * config["batch_size"] / chosen_for
    return {"optimizer": {**optimizer, "lr": lr}, "lr_batch": None}
