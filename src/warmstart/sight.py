"""What training would see, for looking at it before anything trains."""

from __future__ import annotations

import dataclasses
from typing import Any

from omegaconf import DictConfig

from warmstart import configs
from warmstart.data.augment.pipeline import Augment
from warmstart.data.batches import TrainBatches
from warmstart.data.dataset import Dataset
from warmstart.data.images import Images
from warmstart.errors import ConfigError
from warmstart.models.architecture import Input
from warmstart.run.cut_models import architecture_of
from warmstart.run.feed import feed, preparation, train_batches
from warmstart.run.preparing import wanted_input, weights_of
from warmstart.run.scalars import check_scalars

_FALLBACK = 224  # pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Sight:
    """The images of a run that need not be able to start.

    Attributes:
        config: Plain.
        dataset: Without damaged images, whether training would leave them out or refuse.
        images: With the training subset of the run.
        input: What the model takes.
        augment: For these images.
        batches: That would train.
        notes: What was assumed, one sentence each.
    """

    config: dict[str, Any]
    dataset: Dataset
    images: Images
    input: Input
    augment: Augment
    batches: TrainBatches
    notes: tuple[str, ...]


def view(cfg: DictConfig) -> Sight:
    """Return what a config's training would see.

    Raises:
        ConfigError: The config is wrong, or no image can be read.
    """
    config = configs.plain(cfg)
    check_scalars(config)
    notes, weights = [], None
    architecture = architecture_of(config)
    try:
        _, weights = weights_of(config, architecture, configs.build("init", config["init"]))
    except ConfigError as error:
        notes.append(f"what the weights expect is not known: {error}")
    wanted = wanted_input(weights, architecture)
    config["data"] = {**config["data"], "on_bad": "skip"}
    seen = feed(config, wanted, fallback=_FALLBACK)
    size = preparation(config).size or (wanted.size if wanted else None)
    if size is None and len(seen.dataset.index.sizes) > 1:
        notes.append(
            f"the images have different sizes and neither data.size nor weights say one: they are "
            f"shown at {_FALLBACK} pixels"
        )
    batches = train_batches(config, seen.images, seen.augment)
    return Sight(
        config=config,
        dataset=seen.dataset,
        images=seen.images,
        input=seen.input,
        augment=seen.augment,
        batches=batches,
        notes=tuple(notes),
    )
