"""The options of ``init=``: what the weights are before step 0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from warmstart.errors import ConfigError, choose
from warmstart.models.layers import LayerGroup
from warmstart.models.schemes import check_scheme
from warmstart.models.transfer import Take, taken

_HEADS = ("fresh", "zero", "class_means")
_FIRST_LAYERS = ("scheme", "gabor")
_STATISTICS = ("own", "data")


@dataclasses.dataclass(frozen=True)
class Scratch:
    """Fresh weights everywhere.

    Attributes:
        scheme: One of `warmstart.models.schemes.SCHEMES`.
        fan: ``in`` or ``out``, for the schemes of He et al.; None is their usual one.
        zero_gamma: The last norm of each residual block starts at 0 (Goyal et al. 2017, 5.1).
        first_layer: ``scheme``, or ``gabor`` for designed edges and colour blobs.
        lsuv: Scale each layer to outputs of variance 1 on the first batch (Mishkin and Matas,
            All you need is a good init, ICLR 2016, algorithm 1; with ``scheme=orthogonal``).
        statistics: BatchNorm's running statistics at step 0: ``own`` (none), or ``data``, those of
            the training images, so that fresh groups can be frozen.
        head: ``fresh``, ``zero``, or ``class_means`` (see `calibration.class_means`).
    """

    scheme: str = "kaiming_normal"
    fan: str | None = None
    zero_gamma: bool = False
    first_layer: str = "scheme"
    lsuv: bool = False
    statistics: str = "own"
    head: str = "fresh"

    def __post_init__(self) -> None:
        check_scheme(self.scheme, self.fan)
        _check("first_layer", self.first_layer, _FIRST_LAYERS)
        _check("statistics", self.statistics, _STATISTICS)
        _check("head", self.head, _HEADS)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Loaded weights under a head of the run's own.

    Attributes:
        weights: A file, a published name, a URL with its sum, ``run:KEY`` or ``source:NAME``; None
            takes the model's own (``model.weights``).
        groups: Which layer groups are taken over, as the end of a Python slice: -1 is all but the
            head, 3 the first three, -2 all but the last two.
        values: ``exact``; ``permuted`` within each tensor; or ``mean_var``, fresh normal numbers of
            each tensor's mean and deviation (Raghu et al., Transfusion, NeurIPS 2019, section 4).
        head: ``fresh``, ``zero``, ``copy`` (of classes with the same name), or ``class_means``.
        scheme: Of what is not taken over; ``fan`` as in `Scratch`.
        statistics: BatchNorm's running statistics: ``own`` (the weights'), or ``data``.
        allow_partial: Take what fits of weights that do not fit as a whole.
    """

    weights: str | None = None
    groups: int = -1
    values: str = "exact"
    head: str = "fresh"
    scheme: str = "default"
    fan: str | None = None
    statistics: str = "own"
    allow_partial: bool = False

    def __post_init__(self) -> None:
        check_scheme(self.scheme, self.fan)
        _check("statistics", self.statistics, _STATISTICS)
        _ = self.take  # which checks the rest

    @property
    def take(self) -> Take:
        """What to take over of the weights."""
        return Take(self.groups, self.head, self.values, self.allow_partial)


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Fresh weights, then greedy layer-wise pretraining without labels (see `autoencoder`).

    Attributes:
        scheme: Before the pretraining; ``fan`` as in `Scratch`.
        steps_per_group: Batches that each layer group below the head is trained on.
        lr: Of the pretraining.
        unlabelled: A folder of images to pretrain on; None takes the run's training images.
        head: As in `Scratch`.
    """

    scheme: str = "kaiming_normal"
    fan: str | None = None
    steps_per_group: int = 200
    lr: float = 0.001
    unlabelled: Path | None = None
    head: str = "fresh"

    def __post_init__(self) -> None:
        check_scheme(self.scheme, self.fan)
        _check("head", self.head, _HEADS)
        if self.steps_per_group < 1:
            raise ConfigError(
                f"init.steps_per_group is {self.steps_per_group}, but must be at least 1"
            )
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"init.lr is {self.lr}, but must be a number above 0")


Init = Scratch | Pretrained | Autoencoder


def known_statistics(init: Init, groups: Sequence[LayerGroup]) -> list[str]:
    """Return the names of the buffers that mean something at step 0, before any training.

    Raises:
        ConfigError: ``init.groups`` is beyond the model.
    """
    known = len(groups) - 1 if isinstance(init, Autoencoder) else 0
    if isinstance(init, Pretrained):
        known = taken(groups, init.groups)
    if not isinstance(init, Autoencoder) and init.statistics == "data":
        known = len(groups)
    return [name for group in groups[:known] for name in group.buffers]


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise choose(f"init.{name}", value, allowed)
