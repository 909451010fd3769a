"""What a run sees: its data set and subset, the model's input, and the augmentation."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from warmstart import configs
from warmstart.data.augment.pipeline import Augment
from warmstart.data.batches import TrainBatches
from warmstart.data.dataset import Dataset, assemble
from warmstart.data.images import Images, Split
from warmstart.data.preparation import Preparation
from warmstart.data.preprocess import input_of, with_channels
from warmstart.data.samples import Samples
from warmstart.data.unlabelled import unlabelled_folder
from warmstart.data.views import needs_originals
from warmstart.errors import ConfigError
from warmstart.models.architecture import Input
from warmstart.targets import OWN_KEYS, PREPARATION


@dataclasses.dataclass(frozen=True, eq=False)
class Feed:
    """The images of a run, and what happens to them on the way to the model.

    Attributes:
        dataset: The whole data set.
        images: With the training subset of the run.
        input: What the model takes.
        augment: For these images.
    """

    dataset: Dataset
    images: Images
    input: Input
    augment: Augment


def feed(config: Mapping[str, Any], wanted: Input | None, *, fallback: int | None = None) -> Feed:
    """Return what the run of a plain config sees.

    Args:
        config: Plain and checked.
        wanted: The input that weights or architecture ask for; None takes what fits the data.
        fallback: Size in pixels for images of different sizes where nothing says one.

    Raises:
        ConfigError: What is wrong with the data, in one sentence.
    """
    augment: Augment = configs.build("augment", config["augment"])
    _check_views(config, augment)
    prepared = preparation(config)
    originals = augment.needs_originals or needs_originals(config["eval"]["crops"])
    source = {k: v for k, v in config["data"].items() if k not in OWN_KEYS["data"]}
    shared = dataclasses.replace(prepared, per_class=None, fraction=None)
    dataset = _dataset(
        json.dumps([source, dataclasses.asdict(shared), config["store"], config["cache_gib"]]),
        size=wanted.size if wanted else None,
        originals=originals,
        fallback=fallback,
    )
    images, fitting = _subset(dataset, prepared.per_class, prepared.fraction, config["seed"])
    height, width = images.size
    wanted = dataclasses.replace(wanted or fitting(), size=height if height == width else None)
    wanted = with_channels(wanted, config["model"]["channels"], given=images.channels)
    return Feed(dataset, images, wanted, augment.bind(images.train))


def _check_views(config: Mapping[str, Any], augment: Augment) -> None:
    views = config["features"]["views"]
    if views is not None and not augment.columns:
        raise ConfigError(
            f"features.views is {views}, but the augmentation draws nothing, so that all views of "
            "an image are one; leave it out, or give an augmentation, for example augment=crop"
        )


@functools.lru_cache(maxsize=32)
def _subset(
    dataset: Dataset, per_class: int | None, share: float | None, seed: int
) -> tuple[Images, Callable[[], Input]]:
    """Return the images of a run, and what returns the input that fits them; arms share both."""
    images = dataset.images.subset(per_class=per_class, share=share, seed=seed)
    return images, functools.cache(functools.partial(input_of, images))


def preparation(config: Mapping[str, Any]) -> Preparation:
    """Return the keys of ``data=`` that all sources share."""
    return Preparation(
        **{name: config["data"][name] for name in PREPARATION if name in config["data"]}
    )


def train_batches(
    config: Mapping[str, Any], images: Images, augment: Augment, *, part: slice = slice(None)
) -> TrainBatches:
    """Return the batches that the run trains on, or the part that one of its processes takes."""
    return TrainBatches(
        images.train,
        batch_size=config["batch_size"],
        seed=config["seed"],
        augment=augment,
        balanced=config["balance"] == "sampling",
        part=part,
    )


@functools.lru_cache(maxsize=8)
def unlabelled(root: str, store: str, size: int) -> tuple[Split, str]:
    """Return images for a pretraining without labels, and their digest."""
    pixels, digest = unlabelled_folder(Path(root), store=Path(store), size=size)
    ids = tuple(str(number) for number in range(len(pixels)))
    return Split.of(pixels, np.zeros(len(pixels)), ids), digest


@functools.lru_cache(maxsize=8)
def _dataset(request: str, *, size: int | None, originals: bool, fallback: int | None) -> Dataset:
    """Return a data set; the cells of a comparison share it."""
    source, shared, store, cache_gib = json.loads(request)
    prepared = Preparation(**shared)
    return assemble(
        _samples(json.dumps([source, prepared.size or size, store])),
        prepared,
        store=Path(store),
        cache_gib=cache_gib,
        size=size,
        originals=originals,
        fallback=fallback,
    )


@functools.lru_cache(maxsize=4)
def _samples(request: str) -> Samples:
    """Return what a source lists; the folds of a cross-validation share it."""
    source, size, store = json.loads(request)
    samples: Samples = configs.build("data", source, size=size, store=Path(store))
    return samples


def forget() -> None:
    """Read data anew the next time: files may have changed since."""
    for cache in (_dataset, _samples, _subset, unlabelled):
        cache.cache_clear()
