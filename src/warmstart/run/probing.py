"""The head of a probe: features of training and validation, and a classifier fitted to them."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models import layers
from warmstart.models.cuts import Cut, Tail
from warmstart.run.beat import Report
from warmstart.run.caching import Decision, features_of, first_images
from warmstart.run.initial import Initial
from warmstart.run.plan import Run
from warmstart.strategies.probes import Sample

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FittedModel:
    """A model before step 0, with the head of a probe where the strategy is one.

    Attributes:
        groups: Its layer groups, whose head may be another module than before.
        decisions: By phase, with the tail of this model.
        notes: For the record: what was chosen; empty where steps train.
        seconds: That features and head took.
    """

    groups: list[layers.LayerGroup]
    decisions: Sequence[Decision]
    notes: dict[str, Any]
    seconds: float


def fit_head(
    run: Run, initial: Initial, decisions: Sequence[Decision], report: Report
) -> FittedModel:
    """Fit the head of a run's model to features, where its strategy is a probe.

    Args:
        run: Which.
        initial: Its model, of which the head changes.
        decisions: Where features are; as `caching.decide` made them for the model.
        report: Is told the stage, and how far the features are.

    Raises:
        ConfigError: The model has no place where an image's features are one row of numbers, or
            there is no room for them.
    """
    if run.probe is None:
        return FittedModel(initial.groups, decisions, {}, 0.0)
    started, model, (path,) = time.monotonic(), initial.model, run.architecture.heads
    cut = _cut(run, decisions[0])
    samples = []
    for name, split in (("train", run.images.train), ("val", run.images.val)):
        report.stage(f"features of {name}")
        rows = features_of(run, model, cut, name, split, progress=report.step)
        samples.append(Sample(rows, np.tile(split.labels, len(rows) // len(split))))
    report.stage("fitting")
    model.cpu()
    fitted = run.probe.fit(*samples, classes=len(run.images.classes), seed=run.config["seed"])
    chosen = {key: value for key, value in fitted.notes.items() if key != "candidates"}
    _log.debug("%s on %d features: %s", _name(run), cut.shape[0], chosen)
    _put_head(model, path, fitted.head)
    tail = Tail(model.eval(), cut, first_images(run, model))
    return FittedModel(
        layers.layer_groups(model, run.architecture.layout),
        [dataclasses.replace(decisions[0], tail=tail)],
        {"features": cut.shape[0], **fitted.notes},
        time.monotonic() - started,
    )


def _name(run: Run) -> str:
    return f"strategy={run.config['choices']['strategy']}"


def _cut(run: Run, decision: Decision) -> Cut:
    """Return where features [d] of an image reach the head."""
    reason = decision.reason
    if decision.cut is not None:
        if len(decision.cut.shape) == 1:
            return decision.cut
        reason = f"an image has features of shape {list(decision.cut.shape)} there"
    raise ConfigError(
        f"{_name(run)} is fitted to what reaches the head {run.architecture.heads[0]}, which is "
        f"not to be had: {reason}; give another group=L or another model"
    )


def _put_head(model: nn.Module, path: str, head: nn.Module) -> None:
    """Make `head` the model's; a linear one gives its weights to the layer that is there."""
    if isinstance(head, nn.Linear):
        model.get_submodule(path).load_state_dict(head.state_dict())
        return
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, head)
