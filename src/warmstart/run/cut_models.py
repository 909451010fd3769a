"""The model that a config names, cut off behind ``group`` where one is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from warmstart import configs
from warmstart.errors import ConfigError
from warmstart.models.architecture import Architecture
from warmstart.models.truncated import truncated


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a run's config.

    Args:
        config: Plain; of it ``model``, ``group`` and ``features.pool`` are read.

    Raises:
        ConfigError: There is no such model or group, or ``features.pool`` has nothing to pool.
    """
    whole: Architecture = configs.build("model", config["model"])
    group, pool = config.get("group"), config["features"]["pool"]
    if group is not None:
        return truncated(whole, group, pool)
    if pool is not None:
        raise ConfigError(
            f"features.pool is {pool!r}, but no group is named whose output it would pool; give "
            "group=NAME too, or features.pool=null"
        )
    return whole


def model_node(config: Mapping[str, Any]) -> str:
    """Return as JSON what `architecture_of` reads, a key for caches."""
    pool = config["features"]["pool"]
    content = {
        "model": config["model"],
        "group": config.get("group"),
        "features": {"pool": pool},
    }
    return json.dumps(content, sort_keys=True)
