"""The activations of a model at its layer groups, for every split: what is exported as features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from warmstart.data.images import Split
from warmstart.errors import ConfigError
from warmstart.features.forms import Features
from warmstart.models.cuts import Cut, NoCut, activations, group_cut
from warmstart.models.layers import LayerGroup
from warmstart.models.pooling import Pooling, check_pool, pooling
from warmstart.run.caching import features_at, first_images
from warmstart.run.plan import Run
from warmstart.untrained import check_features, untrained_model

ALL = "all"
OPENINGS = "test_openings"
"""Behind the name of an export: the file in which every opening of the test split is written."""

_LOOKED_AT = 32  # images, of which it is said whether their activations are rectified


@dataclasses.dataclass(frozen=True)
class GroupFeatures:
    """What the images are at one layer group.

    Attributes:
        group: Its name.
        activation: Shape of one image's activation, before it is pooled.
        pool: How that is pooled: ``gap``, ``flatten``, ``cls``; None where it is a vector already.
        rectified: Whether no activation of the first training images is below 0, as behind a ReLU.
        splits: By name: the features [n, d], mapped from the store.
    """

    group: str
    activation: tuple[int, ...]
    pool: str | None
    rectified: bool
    splits: dict[str, Features]


@dataclasses.dataclass(frozen=True)
class Export:
    """The features of a data set.

    Attributes:
        groups: Input first.
        labels: By split: int64 [n].
        ids: By split: the images' names.
        classes: Names of the labels.
        half: Whether they are kept as float16.
    """

    groups: list[GroupFeatures]
    labels: dict[str, np.ndarray]
    ids: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]
    half: bool


def export_of(
    run: Run, *, group: str | int = ALL, pool: str | None = None, log: Path | None = None
) -> Export:
    """Return the activations of the model of a run before step 0, for all images as they are.

    Features are kept in the store, and who is killed goes on there.

    Args:
        run: Which; with ``test: false`` the test split stays closed.
        group: Name or number of a layer group; ``all`` for all but the head, from one pass.
        pool: ``gap`` (the mean over positions), ``flatten``, ``cls`` (the first token); None takes
            the mean where there are positions.
        log: Where the opening of the test split is written down; by default
            ``OUT/features/KEY.test_openings``.

    Raises:
        ConfigError: There is no such group, activations there cannot be had or pooled so, there is
            no room for them, or the weights do not fit.
        RunError: The source run, from which the model starts, failed.
    """
    check_features(run.config["features"])
    check_pool(pool)
    names = list(run.architecture.layout)
    wanted = range(len(names) - 1) if group == ALL else [_index(names, group)]
    initial = untrained_model(run)
    model, groups = initial.model, initial.groups
    cuts = [_cut(run, model, groups, index) for index in wanted]
    pools = _pools(pool, cuts)
    rectified = [_rectified(run, model, cut) for cut in cuts]
    splits = _splits(run, log or default_path(run, OPENINGS))
    found = {
        name: features_at(run, model, cuts, name, split, pools=pools)
        for name, split in splits.items()
    }
    return Export(
        groups=[
            GroupFeatures(
                names[index],
                cut.shape,
                None if pooled is None else pooled.name,
                signs,
                {name: features[place] for name, features in found.items()},
            )
            for place, (index, cut, pooled, signs) in enumerate(
                zip(wanted, cuts, pools, rectified, strict=True)
            )
        ],
        labels={name: split.labels for name, split in splits.items()},
        ids={name: split.ids for name, split in splits.items()},
        classes=run.images.classes,
        half=run.config["features"]["dtype"] == "float16",
    )


def default_path(run: Run, ending: str) -> Path:
    """Return where an export of a run goes unless somebody names a place."""
    return Path(run.config["out"]) / "features" / f"{run.key[:12]}.{ending}"


def _index(names: Sequence[str], group: str | int) -> int:
    """Return which layer group is meant, one below the head."""
    text = str(group)
    if text in names[:-1]:
        return names.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(names) - 1:
        return int(text)
    raise ConfigError(
        f"group is {text!r}, but must be all or one of {', '.join(names[:-1])} (or its number, 0 "
        f"to {len(names) - 2}); {names[-1]} is the head"
    )


def _cut(run: Run, model: nn.Module, groups: Sequence[LayerGroup], index: int) -> Cut:
    try:
        return group_cut(model, groups, index, first_images(run, model))
    except NoCut as error:
        raise ConfigError(
            f"{run.architecture.name} has no features at {groups[index].name}: {error.reason}; "
            "give another group"
        ) from error


def _rectified(run: Run, model: nn.Module, cut: Cut) -> bool:
    with torch.inference_mode():
        return bool((activations(model, cut, first_images(run, model, _LOOKED_AT)) >= 0).all())


def _pools(name: str | None, cuts: Sequence[Cut]) -> list[Pooling | None]:
    """Return how each group is pooled; of several, those that put out vectors stay as they are."""
    maps = any(len(cut.shape) > 1 for cut in cuts)
    return [None if maps and len(cut.shape) == 1 else pooling(name, cut.shape) for cut in cuts]


def _splits(run: Run, log: Path) -> dict[str, Split]:
    """Return the splits to export; test is opened, and that is written down."""
    splits = {"train": run.images.train, "val": run.images.val}
    if run.config["test"]:
        splits["test"] = run.images.test.open(log)
    return splits
