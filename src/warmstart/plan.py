"""From a config to a run that is ready to start: the config is read here and in run.py alone."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from warmstart import configs
from warmstart.callbacks.phases import check_statistics
from warmstart.data.batches import Augment, input_of, with_channels
from warmstart.data.images import Images, Split
from warmstart.data.unlabelled import unlabelled_folder
from warmstart.errors import ConfigError
from warmstart.identity import key
from warmstart.models import layers
from warmstart.models.architecture import Architecture, Input
from warmstart.models.init import Autoencoder, Init, Pretrained, known_statistics
from warmstart.models.skeleton import skeleton
from warmstart.models.weights import Weights, read_file, resolve
from warmstart.optim.schedules import Schedule
from warmstart.origins import WEIGHTS_FILE, check_same_net, named_weights, weights_of_run
from warmstart.results.record import Record, read
from warmstart.scalars import check_scalars, length
from warmstart.strategies.phases import Phase
from warmstart.trainer import Hardware


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is ready to start: everything that can be wrong with its config has been checked.

    Attributes:
        key: Its identity.
        config: Resolved, with device, steps and intervals filled in.
        folder: ``OUT/runs/KEY``.
        images: With the training subset of this run.
        data_digest: Of the whole data set.
        input: What the model takes.
        init: What the weights are before step 0.
        weights: What to load, or None.
        source: The run that makes these weights, which must be finished first.
        unlabelled: Images for the pretraining without labels, and their digest; None takes those
            of the run.
    """

    key: str
    config: dict[str, Any]
    folder: Path
    hardware: Hardware
    images: Images
    data_digest: str
    architecture: Architecture
    input: Input
    init: Init
    weights: Weights | None
    source: Run | None
    unlabelled: tuple[Split, str] | None
    phases: list[Phase]
    schedule: Schedule
    augment: Augment

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

    def build_model(self) -> torch.nn.Module:
        """Return the module as its authors' constructor leaves it."""
        classes = len(self.images.classes)
        return self.architecture.build(self.input.channels, classes, max(self.images.size))

    def finished(self) -> Record | None:
        """Return the record if the run is finished and what it should keep is there."""
        record = read(self.folder)
        if record is None or record.status != "finished":
            return None
        kept = self.config["keep"] == "none" or self.weights_file.is_file()
        return record if kept else None


def prepare(cfg: DictConfig) -> Run:
    """Check a config and return the run that it describes; nothing but caches is written.

    Raises:
        ConfigError: What is wrong, in one sentence.
    """
    return _prepare(cfg, ())


def _prepare(cfg: DictConfig, chain: tuple[str, ...]) -> Run:
    """Prepare the run; `chain` names the source runs that it is a source of."""
    config = configs.plain(cfg)
    check_scalars(config)
    hardware: Hardware = configs.build("trainer", config["trainer"])
    architecture: Architecture = configs.build("model", config["model"])
    init: Init = configs.build("init", config["init"])
    source, weights = _weights(config, architecture, init, chain)
    # Without what the run does to the data itself: all sizes of a comparison share one reading.
    node = {k: v for k, v in config["data"].items() if k not in configs.OWN_KEYS["data"]}
    wanted = weights.input if weights and weights.input else architecture.input
    data, digest = _data(json.dumps([node, wanted.size if wanted else None, config["store"]]))
    images = data.per_class(config["data"].get("per_class"), seed=config["seed"])
    wanted = with_channels(
        wanted or input_of(images), config["model"]["channels"], given=images.channels
    )
    unlabelled = _unlabelled(config, init, images)

    config = {**config, "trainer": hardware.resolved(), **length(config, images=len(images.train))}
    steps, layout = config["steps"], architecture.layout
    phases = configs.build("strategy", config["strategy"], groups=len(layout), steps=steps)
    schedule = configs.build("scheduler", config["scheduler"], steps=max(1, steps))
    configs.build("optimizer", config["optimizer"], [_probe_group()])
    augment = configs.build("augment", config["augment"])
    groups = _groups(
        json.dumps(config["model"]), wanted.channels, len(images.classes), max(images.size)
    )
    check_statistics(phases, groups, known_statistics(init, groups))
    loaded = weights if isinstance(init, Pretrained) else None
    identifier = key(
        config,
        input=dataclasses.asdict(wanted),
        data="+".join([digest, *([unlabelled[1]] if unlabelled else [])]),
        weights=loaded.digest if loaded else None,
    )
    return Run(
        key=identifier,
        config=config,
        folder=Path(config["out"]) / "runs" / identifier,
        hardware=hardware,
        images=images,
        data_digest=digest,
        architecture=architecture,
        input=wanted,
        init=init,
        weights=loaded,
        source=source if loaded else None,
        unlabelled=unlabelled,
        phases=phases,
        schedule=schedule,
        augment=augment,
    )


def _weights(
    config: Mapping[str, Any], architecture: Architecture, init: Init, chain: tuple[str, ...]
) -> tuple[Run | None, Weights | None]:
    """Return the weights of the run, or those that its comparison starts from.

    A run from scratch takes over their preprocessing alone: within a comparison all arms see the
    same pixels.
    """
    name = named_weights(config, init)
    if name is None:
        return None, None
    kind, _, rest = name.partition(":")
    if kind == "run":
        return None, weights_of_run(rest, config, architecture)
    if kind != "source":
        return None, resolve(name, architecture, store=Path(config["store"]))
    if rest in chain:
        raise ConfigError(
            f"the source {rest} starts from itself ({' -> '.join([*chain, rest])}); "
            "give one of them init=scratch, or other weights"
        )
    dirs, trainer = tuple(config["config_dirs"]), json.dumps(config["trainer"])
    source = _source_run(rest, config["store"], trainer, dirs, chain)
    if source.config["keep"] != "best":
        raise ConfigError(
            f"init.weights={name}, but source/{rest}.yaml has keep={source.config['keep']}, which "
            "leaves no weights; set keep: best there"
        )
    check_same_net(name, source.config["model"], config["model"])
    file, classes = source.weights_file, source.images.classes
    return source, Weights(name, source.key, source.input, lambda: read_file(file), classes)


@functools.lru_cache(maxsize=8)
def _source_run(
    name: str, store: str, trainer: str, config_dirs: tuple[str, ...], chain: tuple[str, ...]
) -> Run:
    """Prepare a source run; composing it costs 70 ms, which the cells of a comparison share."""
    cfg = configs.compose([f"source={name}", f"out={store}"], config_dirs=config_dirs)
    cfg.store, cfg.trainer = store, json.loads(trainer)
    return _prepare(cfg, (*chain, name))


@functools.lru_cache(maxsize=4)
def _data(request: str) -> tuple[Images, str]:
    """Load a data set; the cells of a comparison share it."""
    node, size, folder = json.loads(request)
    images: Images = configs.build("data", node, size=size, store=Path(folder))
    return images, images.digest


def _unlabelled(config: Mapping[str, Any], init: Init, images: Images) -> tuple[Split, str] | None:
    if not isinstance(init, Autoencoder) or init.unlabelled is None:
        return None
    return _unlabelled_folder(str(init.unlabelled), config["store"], max(images.size))


@functools.lru_cache(maxsize=2)
def _unlabelled_folder(root: str, store: str, size: int) -> tuple[Split, str]:
    pixels, digest = unlabelled_folder(Path(root), store=Path(store), size=size)
    ids = tuple(str(number) for number in range(len(pixels)))
    return Split.of(pixels, np.zeros(len(pixels)), ids), digest


@functools.lru_cache(maxsize=8)
def _groups(node: str, channels: int, classes: int, size: int) -> list[layers.LayerGroup]:
    """Return the layer groups of a model without numbers: their names and kinds of layers.

    Raises:
        ConfigError: The model cannot take such images.
    """
    architecture: Architecture = configs.build("model", json.loads(node))
    model = skeleton(lambda: architecture.build(channels, classes, size))
    return layers.layer_groups(model, architecture.layout)


def forget() -> None:
    """Read data and source configs anew the next time: files may have changed since."""
    for cache in (_data, _source_run, _unlabelled_folder):
        cache.cache_clear()


def _probe_group() -> layers.LayerGroup:
    """Return a group of one number, on which an optimizer's options can be checked."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    return layers.LayerGroup(0, "probe", (), {"probe": parameter}, {})
