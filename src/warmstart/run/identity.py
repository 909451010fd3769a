"""Which run is which: the key of a run is a hash of all that can change its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from warmstart.optim.regularization import Regularization
from warmstart.results.record import RESULT_VERSION

# Keys of the config that cannot change a result, or whose effect a digest stands for.
NOT_IDENTITY = (
    "arm",
    "cache_gib",
    "checkpoint_seconds",
    "choices",
    "comparison",
    "config_dirs",
    "data.class_names",
    "data.download",
    "data.file",
    "data.images",
    "data.labels",
    "data.name",  # of a hub's set, or a folder
    "data.on_bad",
    "data.revision",
    "data.root",
    "data.strip",
    "data.test_file",
    "data.train_file",
    "data.val_file",
    "experiment",
    "init.unlabelled",
    "init.weights",
    "keep",
    "logger",
    "model.channels",  # the input of a run says it
    "lr_batch",  # the rate that follows from it stands in its place
    "model.weights",
    "on_oom",
    "out",
    "prune",  # a run that was ended early has no record
    "resources",
    "search",
    "source",
    "store",
    "trainer.workers",
)

_NO_REGULARIZATION = {
    "_target_": f"{Regularization.__module__}.{Regularization.__qualname__}",
    **dataclasses.asdict(Regularization()),
}
# Keys that came later, with the value at which all is as it was before: there they are left out,
# so that finished runs stay valid.
NEUTRAL: dict[str, Any] = {
    "accumulate": 1,
    "average": {"_target_": "warmstart.callbacks.averaging.none"},
    "early_stopping": {"patience": None, "metric": "accuracy", "min_delta": 0.0},
    "optimizer.decoupled": False,
    "regularization": _NO_REGULARIZATION,
    **{f"regularization.{name}": value for name, value in _NO_REGULARIZATION.items()},
    "scheduler.at_epochs": None,
    "snapshots": False,
    "strategy.restart_schedule": False,
    "trainer.devices": 1,
    "trainer.sync_batchnorm": False,
    "watch_every_steps": None,
}


# Keys that have no effect on a probe, which takes no steps.
_NOT_OF_PROBES = ("accumulate", "optimizer", "scheduler", "watch_every_steps")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that belongs to a run's identity."""
    if str(config["strategy"]["_target_"]).startswith("warmstart.strategies.probes."):
        config = {name: node for name, node in config.items() if name not in _NOT_OF_PROBES}
    result: dict[str, Any] = _without(config, "")
    return result


def key(
    config: Mapping[str, Any], *, input: Mapping[str, Any], data: str, weights: str | None
) -> str:
    """Return the key of a run.

    Args:
        config: Resolved, device and steps included.
        input: What the model sees, which other runs of a comparison may decide.
        data: Digest of the data set.
        weights: Digest of the weights, or the key of the source run; None from scratch.

    Returns:
        64 hexadecimal digits.
    """
    content = {
        "config": identity(config),
        "input": input,
        "data": data,
        "weights": weights,
        "result_version": RESULT_VERSION,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without(node: Any, path: str) -> Any:
    if not isinstance(node, Mapping):
        return node
    result = {}
    for name, value in node.items():
        below = f"{path}.{name}" if path else str(name)
        neutral = below in NEUTRAL and value == NEUTRAL[below]
        if below not in NOT_IDENTITY and not neutral:
            result[name] = _without(value, below)
    return result
