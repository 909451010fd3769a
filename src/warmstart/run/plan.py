"""A run that is ready to start."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from warmstart.callbacks.phases import PhaseSchedule
from warmstart.data.augment.pipeline import Augment
from warmstart.data.dataset import Dataset
from warmstart.data.images import Images, Split
from warmstart.data.preprocess import Preprocess
from warmstart.data.views import Crops
from warmstart.errors import ConfigError
from warmstart.models import layers
from warmstart.models.architecture import Architecture, Input
from warmstart.models.init import Init
from warmstart.models.skeleton import skeleton
from warmstart.models.weights import Weights
from warmstart.optim.regularization import Regularization
from warmstart.optim.schedules import Schedule
from warmstart.results.record import Record, read
from warmstart.run.cut_models import architecture_of, model_node
from warmstart.run.keeping import Keeping
from warmstart.run.origins import WEIGHTS_FILE
from warmstart.run.regularizing import regularization_of
from warmstart.strategies.phases import Phase
from warmstart.strategies.probes import Probe
from warmstart.trainer import Hardware


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is ready to start: everything that can be wrong with its config has been checked.

    Attributes:
        key: Its identity.
        config: Resolved, with device, steps and intervals filled in.
        folder: ``OUT/runs/KEY``.
        dataset: The whole data set.
        images: With the training subset of this run.
        input: What the model takes.
        init: What the weights are before step 0.
        weights: What to load, or None.
        source: The run that makes these weights, which must be finished first.
        keeping: Which weights it keeps beside the best ones, and whether it may end early.
        crops: Of every image at the final evaluation; None for its centre alone.
        unlabelled: Images for the pretraining without labels, and their digest; None takes those
            of the run.
        probe: What is fitted to features in place of training; None where steps train.
    """

    key: str
    config: dict[str, Any]
    folder: Path
    hardware: Hardware
    dataset: Dataset
    images: Images
    architecture: Architecture
    input: Input
    init: Init
    weights: Weights | None
    source: Run | None
    unlabelled: tuple[Split, str] | None
    phases: list[Phase]
    probe: Probe | None
    schedule: Schedule
    augment: Augment
    keeping: Keeping
    crops: Crops | None

    @property
    def steps(self) -> int:
        return int(self.config["steps"])

    @property
    def weights_file(self) -> Path:
        """Where the best weights go."""
        return self.folder / WEIGHTS_FILE

    @property
    def origins(self) -> list[str]:
        """Where the weights come from: their name, then that of their source's weights, ..."""
        if self.weights is None:
            return []
        return [self.weights.origin, *(self.source.origins if self.source else [])]

    @property
    def plain(self) -> bool:
        """Whether its steps need nothing besides gradients, rates and validations."""
        watched = self.config["watch_every_steps"] or self.config.get("prune")
        return not self.regularization.given and self.keeping.plain and not watched

    @property
    def regularization(self) -> Regularization:
        """What keeps it from fitting its training images alone."""
        return regularization_of(self.config)

    def groups(self) -> list[layers.LayerGroup]:
        """Return the layer groups of its model without numbers."""
        classes, size = len(self.images.classes), max(self.images.size)
        return model_groups(model_node(self.config), self.input.channels, classes, size)

    def build_model(self) -> torch.nn.Module:
        """Return the module as its authors' constructor leaves it."""
        classes = len(self.images.classes)
        return self.architecture.build(self.input.channels, classes, max(self.images.size))

    def preprocess(self, augment: Augment | None) -> Preprocess:
        """Return what makes the model's input of stored pixels."""
        channels_last = self.config["trainer"]["channels_last"]
        return Preprocess(self.input, augment=augment, channels_last=channels_last)

    def phase_schedule(self, groups: Sequence[layers.LayerGroup]) -> PhaseSchedule:
        """Return what freezes the groups of the run's model, and sets rates."""
        return PhaseSchedule(self.phases, self.schedule, groups, lr=self.config["optimizer"]["lr"])

    def finished(self) -> Record | None:
        """Return the record if the run is finished and what it should keep is there."""
        record = read(self.folder)
        if record is None or record.status != "finished":
            return None
        kept = self.config["keep"] == "none" or self.weights_file.is_file()
        return record if kept else None


@functools.lru_cache(maxsize=8)
def model_groups(node: str, channels: int, classes: int, size: int) -> list[layers.LayerGroup]:
    """Return the layer groups of a model without numbers: their names and kinds of layers.

    Raises:
        ConfigError: The model cannot take such images.
    """
    architecture = architecture_of(json.loads(node))
    model = skeleton(lambda: architecture.build(channels, classes, size))
    try:
        model.eval()(torch.empty(2, channels, size, size, device="meta"))
    except RuntimeError as error:  # others than these are of models that need real numbers
        if any(words in str(error) for words in ("too small", "an't be greater")):
            raise ConfigError(
                f"images of {size}x{size} pixels are too small for {architecture.name}; give a "
                "larger data.size, for example data.size=64"
            ) from error
    return layers.layer_groups(model, architecture.layout)
