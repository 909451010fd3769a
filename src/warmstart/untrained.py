"""A run's model as it is before step 0, for those who look at features and train nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from warmstart.data.bar import Bar
from warmstart.errors import ConfigError
from warmstart.run.execution import execute
from warmstart.run.initial import Initial, initial_model
from warmstart.run.plan import Run


def untrained_model(run: Run) -> Initial:
    """Return the model before step 0, in eval mode.

    A source run, from which it starts, is run before that.

    Raises:
        ConfigError: The weights do not fit.
        RunError: The source run failed.
    """
    if run.source is not None and run.source.finished() is None:
        with Bar(f"{run.origins[0]}, once", total=run.source.steps) as bar:
            execute(run.source, progress=lambda done, steps: bar.update(done))
    run.hardware.apply()
    initial = initial_model(run)
    if run.config["trainer"]["channels_last"]:
        initial.model.to(memory_format=torch.channels_last)
    initial.model.eval()
    return initial


def check_features(node: Mapping[str, Any]) -> None:
    """Refuse options of ``features`` that cannot take effect where nothing trains.

    Raises:
        ConfigError: Which.
    """
    if node["views"] is not None:
        raise ConfigError(
            f"features.views is {node['views']}, but is of training: here each image is shown "
            "once, as it is; leave it out"
        )
    if node["cache"] in ("off", False):
        raise ConfigError(
            "features.cache is off, but here features are read from the store; leave it out, and "
            "`warmstart store --clear features` deletes them"
        )
