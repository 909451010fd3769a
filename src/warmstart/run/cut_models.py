"""The model that a config names, cut off behind ``group`` where one is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from warmstart import configs
from warmstart.errors import ConfigError
from warmstart.models.architecture import Architecture
from warmstart.models.regularized import fractionally_pooled, no_depth, regularized, told
from warmstart.models.truncated import truncated
from warmstart.optim.regularization import Regularization
from warmstart.run.regularizing import model_part, regularization_of


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a run's config.

    Args:
        config: Plain; of it ``model``, ``group``, ``features.pool`` and ``regularization`` are
            read.

    Raises:
        ConfigError: There is no such model or group, ``features.pool`` has nothing to pool, or a
            regularization nothing to act on.
    """
    options = regularization_of(config)
    whole = _whole(config["model"], options)
    group, pool = config.get("group"), config["features"]["pool"]
    if group is not None:
        return regularized(truncated(whole, group, pool), options)
    if pool is not None:
        raise ConfigError(
            f"features.pool is {pool!r}, but no group is named whose output it would pool; give "
            "group=NAME too, or features.pool=null"
        )
    return regularized(whole, options)


def _whole(node: Mapping[str, Any], options: Regularization) -> Architecture:
    """Return the model with what of a regularization lies before any cut."""
    whole: Architecture = configs.build("model", node)
    given = told(node, options)
    if given is not node:
        try:
            whole = configs.build("model", given)
        except ConfigError as error:
            raise no_depth(whole.name, options) from error
    return fractionally_pooled(whole) if options.fractional_max_pool else whole


def model_node(config: Mapping[str, Any]) -> str:
    """Return as JSON what `architecture_of` reads, a key for caches."""
    pool = config["features"]["pool"]
    content = {
        "model": config["model"],
        "group": config.get("group"),
        "features": {"pool": pool},
    }
    content |= model_part(config)
    return json.dumps(content, sort_keys=True)
