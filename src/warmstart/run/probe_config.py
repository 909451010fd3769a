"""Which probe a config asks for, and which options have no effect on one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from warmstart import configs
from warmstart.data.augment.pipeline import Augment
from warmstart.errors import ConfigError
from warmstart.models.architecture import Architecture
from warmstart.models.layers import LayerGroup
from warmstart.run.regularizing import regularization_of
from warmstart.strategies.phases import Phase
from warmstart.strategies.probes import Probe, Ridge

# A probe takes no steps; what is validated is its one result.
NO_STEPS = {"steps": 0, "epochs": None, "val_every_steps": 1, "log_every_steps": 1}


def strategy_of(
    node: Mapping[str, Any], *, groups: int, steps: int
) -> tuple[list[Phase], Probe | None]:
    """Return the phases of a strategy, and the probe that it is, or None.

    The layers of a probe are frozen but for the head, in a phase of no steps.

    Raises:
        ConfigError: A value is wrong.
    """
    found = configs.build("strategy", node, groups=groups, steps=steps)
    return ([Phase(0, 1)], found) if isinstance(found, Probe) else (found, None)


def check_probe(
    probe: Probe,
    config: Mapping[str, Any],
    *,
    augment: Augment,
    architecture: Architecture,
    groups: list[LayerGroup],
) -> None:
    """Refuse what a probe cannot do.

    Args:
        probe: The strategy.
        config: Of the run, with its length.
        augment: Of its training images.
        architecture: Of its model.
        groups: Of a model without numbers.

    Raises:
        ConfigError: What it is, in one sentence.
    """
    name, views = f"strategy={config['choices']['strategy']}", config["features"]["views"]
    _check_augment(name, augment, views)
    if config["features"]["cache"] == "off":
        raise ConfigError(
            f"features.cache=off, but {name} is fitted to features, which are computed once; give "
            "features.cache=auto"
        )
    if isinstance(probe, Ridge) and views not in (None, 1) and len(probe.C) > 1:
        raise ConfigError(
            f"features.views is {views}, but strategy=ridge chooses C by leaving out one row, of "
            "which other views would stay in; give one strategy.C, or strategy=logistic"
        )
    if config["balance"] != "none":
        raise ConfigError(
            f"balance={config['balance']}, but {name} weighs every image alike; give balance=none"
        )
    given = ", ".join(f"{key}={value}" for key, value in regularization_of(config).given.items())
    if given:
        raise ConfigError(
            f"regularization gives {given}, but {name} takes no steps, which is where it "
            "would work; give regularization=none"
        )
    if config["watch_every_steps"]:
        raise ConfigError(
            f"watch_every_steps is {config['watch_every_steps']}, but {name} takes no steps; give "
            "watch_every_steps=null"
        )
    devices = config["trainer"].get("devices", 1)
    if devices > 1:
        raise ConfigError(
            f"trainer.devices is {devices}, but {name} runs in one process; give trainer.devices=1"
        )
    _check_head(name, architecture, groups)


def _check_augment(name: str, augment: Augment, views: int | None) -> None:
    if augment.mix is not None:
        raise ConfigError(
            f"augment mixes images and their labels, but {name} takes one label for each image; "
            "give augment=none"
        )
    if augment.columns and views is None:
        raise ConfigError(
            f"augment draws anew in every pass, but {name} sees the features of each image once; "
            "give augment=none, or the number of views to fit to (features.views=5)"
        )


def _check_head(name: str, architecture: Architecture, groups: list[LayerGroup]) -> None:
    paths, modules = architecture.heads, groups[-1].modules
    layer = modules[0] if len(modules) == 1 == len(paths) else None
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        found = " and ".join(type(module).__name__ for module in modules) or "no module"
        raise ConfigError(
            f"{name} needs one linear layer with a bias as the head, but that of "
            f"{architecture.name} is {found} ({', '.join(paths)}); give group={groups[-2].name}, "
            "which puts one on the features there"
        )
