"""The regularization of a run: read from its config, and checked against its model and phases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from warmstart.errors import ConfigError
from warmstart.models.init import Init, Pretrained
from warmstart.models.layers import LayerGroup
from warmstart.models.transfer import taken
from warmstart.optim.penalties import GradientRegularizer
from warmstart.optim.regularization import OF_THE_MODEL, Regularization
from warmstart.strategies.phases import Phase

_OF_THE_GRADIENT = ("l2", "l1", "l2_sp", "l2_sp_head", "clip_norm", "clip_value")


def regularization_of(config: Mapping[str, Any]) -> Regularization:
    """Return the regularization of a run's config, or of a record's, which holds what is given.

    Raises:
        ConfigError: A value cannot be.
    """
    node = config.get("regularization")
    if node is None:
        return Regularization()
    return Regularization(**{name: value for name, value in node.items() if name != "_target_"})


def model_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a config's regularization with what changes the model; empty for none."""
    options = regularization_of(config)
    found = {name: value for name, value in options.given.items() if name in OF_THE_MODEL}
    return {"regularization": found} if found else {}


def check_transfer(
    options: Regularization, init: Init, groups: Sequence[LayerGroup], phases: Sequence[Phase]
) -> None:
    """Refuse penalties on transferred or new weights where there are none, or none that train.

    Args:
        options: Of the run.
        init: Of the run.
        groups: Of its model.
        phases: Of its strategy.

    Raises:
        ConfigError: Which penalty that is.
    """
    for name in ("l2_sp", "l2_sp_head"):
        value = getattr(options, name)
        if not value:
            continue
        if not isinstance(init, Pretrained):
            raise ConfigError(
                f"regularization.{name} is {value}, but the run starts without pretrained weights; "
                f"use init=pretrained, or regularization.{name}=0"
            )
        transferred = set(range(taken(groups, init.groups)))
        if init.head == "copy":
            transferred.add(len(groups) - 1)
        trained = set(range(len(groups) - max(phase.groups for phase in phases), len(groups)))
        if name == "l2_sp" and not transferred & trained:
            raise ConfigError(
                f"regularization.l2_sp is {value}, but the strategy trains no transferred weights; "
                "let more groups train (strategy=full), or give regularization.l2_sp=0"
            )
        if name == "l2_sp_head" and not trained - transferred:
            raise ConfigError(
                f"regularization.l2_sp_head is {value}, but all weights that train are "
                "transferred; give regularization.l2_sp_head=0"
            )


def gradients_of(
    config: Mapping[str, Any], groups: Sequence[LayerGroup], *, fresh: Collection[str]
) -> GradientRegularizer | None:
    """Return what changes the gradients of a run; None where nothing does.

    Args:
        config: Of the run.
        groups: Of its model, as it is before step 0.
        fresh: Names of the tensors that did not come from pretrained weights.
    """
    options = regularization_of(config)
    if not any(name in options.given for name in _OF_THE_GRADIENT):
        return None
    decay_all = bool(config["optimizer"].get("decay_all", False))
    return GradientRegularizer(options, groups, fresh=fresh, decay_all=decay_all)
