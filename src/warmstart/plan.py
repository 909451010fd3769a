"""From a config to a run that is ready to start: the config is read here and in run.py alone."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from warmstart import configs
from warmstart.callbacks.phases import check_statistics
from warmstart.data.batches import Augment, input_of
from warmstart.data.images import Images
from warmstart.errors import ConfigError
from warmstart.identity import key
from warmstart.models import init, layers
from warmstart.models.architecture import Architecture, Input
from warmstart.models.weights import Weights, read_file, resolve
from warmstart.optim.schedules import Schedule
from warmstart.results.record import Record, read
from warmstart.strategies.phases import Phase
from warmstart.trainer import Hardware

# About so many validations, and so many points of the training curve, in a run.
_VALIDATIONS, _POINTS = 20, 50


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
        weights: What to load, or None.
        source: The run that makes these weights, which must be finished first.
    """

    key: str
    config: dict[str, Any]
    folder: Path
    hardware: Hardware
    images: Images
    data_digest: str
    architecture: Architecture
    input: Input
    weights: Weights | None
    source: Run | None
    phases: list[Phase]
    schedule: Schedule
    augment: Augment

    @property
    def steps(self) -> int:
        return int(self.config["steps"])

    @property
    def weights_file(self) -> Path:
        """Where the best weights go."""
        return self.folder / "best.safetensors"

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
    config = configs.plain(cfg)
    _check_scalars(config)
    hardware: Hardware = configs.build("trainer", config["trainer"])
    architecture: Architecture = configs.build("model", config["model"])
    source = _source(config)
    weights = _weights(config, architecture, source)
    wanted = weights.input if weights and weights.input else architecture.input
    # Without what the run does to the data itself: all sizes of a comparison share one reading.
    source_node = {k: v for k, v in config["data"].items() if k not in configs.OWN_KEYS["data"]}
    size = wanted.size if wanted else None
    data, digest = _data(json.dumps([source_node, size, config["store"]]))
    images = data.per_class(config["data"].get("per_class"), seed=config["seed"])
    wanted = wanted or input_of(images)

    config = {**config, "trainer": hardware.resolved(), **_length(config, len(images.train))}
    steps, groups = config["steps"], len(architecture.layout)
    phases = configs.build("strategy", config["strategy"], groups=groups, steps=steps)
    schedule = configs.build("scheduler", config["scheduler"], steps=max(1, steps))
    configs.build("optimizer", config["optimizer"], [_probe_group()])
    augment = configs.build("augment", config["augment"])
    if weights is None:
        # Without memory or numbers: only the names and kinds of the layers are looked at.
        with torch.device("meta"):
            model = architecture.build(wanted.channels, len(images.classes), max(images.size))
        check_statistics(phases, layers.layer_groups(model, architecture.layout), ())
    identifier = key(config, data=digest, weights=weights.digest if weights else None)
    return Run(
        key=identifier,
        config=config,
        folder=Path(config["out"]) / "runs" / identifier,
        hardware=hardware,
        images=images,
        data_digest=digest,
        architecture=architecture,
        input=wanted,
        weights=weights,
        source=source,
        phases=phases,
        schedule=schedule,
        augment=augment,
    )


def _source(config: Mapping[str, Any]) -> Run | None:
    """Return the run that ``init.weights=source:NAME`` names, in the store."""
    name = _weights_name(config) or ""
    fresh = isinstance(configs.build("init", config["init"]), init.Scratch)
    if fresh or not name.startswith("source:"):
        return None
    return _source_run(
        name.removeprefix("source:"),
        config["store"],
        json.dumps(config["trainer"]),
        tuple(config["config_dirs"]),
    )


@functools.lru_cache(maxsize=4)
def _source_run(name: str, store: str, trainer: str, config_dirs: tuple[str, ...]) -> Run:
    """Prepare a source run; composing it costs 70 ms, which the cells of a comparison share."""
    cfg = configs.compose([f"source={name}", f"out={store}"], config_dirs=config_dirs)
    cfg.store, cfg.trainer = store, json.loads(trainer)
    return prepare(cfg)


def _weights_name(config: Mapping[str, Any]) -> str | None:
    name = config["init"].get("weights") or config["model"].get("weights")
    return None if name is None else str(name)


def _weights(
    config: Mapping[str, Any], architecture: Architecture, source: Run | None
) -> Weights | None:
    if isinstance(configs.build("init", config["init"]), init.Scratch):
        return None
    name = _weights_name(config)
    if name is None:
        raise ConfigError(
            f"init=pretrained, but {architecture.name} has no weights of its own; "
            "give init.weights=FILE, the name of torchvision weights, or source:NAME"
        )
    if source is None:
        return resolve(name, architecture)
    if _same_net(source.config["model"]) != _same_net(config["model"]):
        theirs, ours = source.architecture.name, architecture.name
        raise ConfigError(
            f"init.weights={name} is a {theirs}, but the model is "
            f"{ours if ours != theirs else 'one with other options'}; "
            "use the same model, or other weights"
        )
    file = source.weights_file
    return Weights(name, source.key, source.input, lambda: read_file(file))


def _same_net(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a model's options decides its weights' shapes."""
    return {k: v for k, v in model.items() if k not in ("granularity", "weights")}


@functools.lru_cache(maxsize=4)
def _data(request: str) -> tuple[Images, str]:
    """Load a data set; the cells of a comparison share it."""
    node, size, folder = json.loads(request)
    images: Images = configs.build("data", node, size=size, store=Path(folder))
    return images, images.digest


def forget() -> None:
    """Read data and source configs anew the next time: files may have changed since."""
    _data.cache_clear()
    _source_run.cache_clear()


def _check_scalars(config: Mapping[str, Any]) -> None:
    for name, least in (("seed", 0), ("batch_size", 1), ("steps", 0), ("epochs", 0)):
        _check_whole(config, name, least)
    for name in ("val_every_steps", "log_every_steps"):
        _check_whole(config, name, 1)
    if (config["steps"] is None) == (config["epochs"] is None):
        raise ConfigError(
            f"steps is {config['steps']} and epochs is {config['epochs']}; give exactly one of "
            "them (steps=null epochs=10, for example)"
        )
    if config["keep"] not in ("best", "none"):
        raise ConfigError(f"keep is {config['keep']!r}, but must be best or none")
    for name in ("out", "store"):
        if not isinstance(config[name], str) or not config[name]:
            raise ConfigError(f"{name} is {config[name]!r}, but must be the path of a folder")
        if Path(config[name]).is_file():
            raise ConfigError(f"{name} is {config[name]!r}, a file, but must be a folder")
    if not isinstance(config["test"], bool):
        raise ConfigError(f"test is {config['test']!r}, but must be true or false")
    seconds = config["checkpoint_seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ConfigError(f"checkpoint_seconds is {seconds!r}, but must be a number of at least 0")


def _check_whole(config: Mapping[str, Any], name: str, least: int) -> None:
    value = config[name]
    optional = name not in ("seed", "batch_size")
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}, but must be a whole number of at least {least}")


def _length(config: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Return length and intervals in steps; an epoch is one pass over the training images."""
    batch = min(config["batch_size"], images)
    steps = config["steps"]
    if steps is None:
        steps = math.ceil(config["epochs"] * images / batch)
    return {
        "steps": steps,
        "epochs": None,
        "batch_size": batch,
        "val_every_steps": config["val_every_steps"] or max(1, math.ceil(steps / _VALIDATIONS)),
        "log_every_steps": config["log_every_steps"] or max(1, math.ceil(steps / _POINTS)),
    }


def _probe_group() -> layers.LayerGroup:
    """Return a group of one number, on which an optimizer's options can be checked."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    return layers.LayerGroup(0, "probe", (), {"probe": parameter}, {})
