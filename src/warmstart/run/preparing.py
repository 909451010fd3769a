"""From a config to a run that is ready to start; no module below this one sees the whole of it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from warmstart import configs
from warmstart.callbacks.phases import check_statistics
from warmstart.data.images import Images, Split
from warmstart.data.views import crops_of
from warmstart.errors import ConfigError
from warmstart.models import layers
from warmstart.models.architecture import Architecture, Input
from warmstart.models.init import Autoencoder, Init, Pretrained, known_statistics
from warmstart.models.weights import Weights, read_file, resolve
from warmstart.optim.schedules import Schedule, restarted
from warmstart.run import feed
from warmstart.run.cut_models import architecture_of, model_node
from warmstart.run.identity import key
from warmstart.run.keeping import keeping_of
from warmstart.run.origins import check_same_net, named_weights, weights_of_run
from warmstart.run.plan import Run, model_groups
from warmstart.run.probe_config import NO_STEPS, check_probe, strategy_of
from warmstart.run.regularizing import check_transfer, regularization_of
from warmstart.run.scalars import check_scalars, length, scaled_rate
from warmstart.strategies.phases import Phase
from warmstart.trainer import Hardware


def prepare(cfg: DictConfig | Mapping[str, Any], *, elsewhere: bool = False) -> Run:
    """Check a config and return the run that it describes; nothing but caches is written.

    Args:
        cfg: As `configs.compose` returns it, or a resolved one of plain dicts and lists.
        elsewhere: It will run on another machine: whether this one has the device is no matter.

    Raises:
        ConfigError: What is wrong, in one sentence.
    """
    return _prepare(cfg, (), elsewhere)


def _prepare(cfg: DictConfig | Mapping[str, Any], chain: tuple[str, ...], elsewhere: bool) -> Run:
    """Prepare the run; `chain` names the source runs that it is a source of."""
    config = configs.plain(cfg)
    check_scalars(config)
    hardware: Hardware = configs.build("trainer", config["trainer"])
    if not elsewhere:
        hardware.check()
    architecture = architecture_of(config)
    if config["group"] is not None:  # by its name, whether an index or a name was given
        config["group"] = list(architecture.layout)[-2]
    init: Init = configs.build("init", config["init"])
    source, weights = weights_of(config, architecture, init, chain)
    seen = feed.feed(config, wanted_input(weights, architecture))
    images, wanted, augment = seen.images, seen.input, seen.augment
    unlabelled = _unlabelled(config, init, images)

    intervals = length(config, images=len(images.train), validated=len(images.val))
    config = {**config, "trainer": hardware.resolved(), **intervals}
    config |= scaled_rate(config)
    if augment.mix is not None and config["batch_size"] < 2 * hardware.devices:
        raise ConfigError(
            f"batch_size is {config['batch_size']}, but augment.mixup and augment.cutmix mix the "
            f"images of a batch; give a batch_size of at least {2 * hardware.devices}"
        )
    steps, layout = config["steps"], architecture.layout
    phases, probe = strategy_of(config["strategy"], groups=len(layout), steps=steps)
    schedule = _schedule(config, phases, images=len(images.train))
    configs.build("optimizer", config["optimizer"], [_probe_group()])
    groups = model_groups(
        model_node(config), wanted.channels, len(images.classes), max(images.size)
    )
    check_statistics(phases, groups, known_statistics(init, groups))
    check_transfer(regularization_of(config), init, groups, phases)
    if probe is not None:
        check_probe(probe, config, augment=augment, architecture=architecture, groups=groups)
        config |= NO_STEPS
    keeping = keeping_of(config, phases, images=len(images.train))
    loaded = weights if isinstance(init, Pretrained) else None
    identifier = key(
        config,
        input=dataclasses.asdict(wanted),
        data="+".join(
            [
                seen.dataset.digest,
                seen.dataset.images.digest,
                *([unlabelled[1]] if unlabelled else []),
            ]
        ),
        weights=loaded.digest if loaded else None,
    )
    return Run(
        key=identifier,
        config=config,
        folder=Path(config["out"]) / "runs" / identifier,
        hardware=hardware,
        dataset=seen.dataset,
        images=images,
        architecture=architecture,
        input=wanted,
        init=init,
        weights=loaded,
        source=source if loaded else None,
        unlabelled=unlabelled,
        phases=phases,
        probe=probe,
        schedule=schedule,
        augment=augment,
        keeping=keeping,
        crops=crops_of(config, images.train),
    )


def weights_of(
    config: Mapping[str, Any], architecture: Architecture, init: Init, chain: tuple[str, ...] = ()
) -> tuple[Run | None, Weights | None]:
    """Return the weights of the run and the run that makes them, or those of its comparison.

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
    dirs = tuple(config["config_dirs"])
    given = json.dumps({name: config[name] for name in ("trainer", "resources", "on_oom")})
    source = _source_run(rest, config["store"], given, dirs, chain)
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
    name: str, store: str, given: str, config_dirs: tuple[str, ...], chain: tuple[str, ...]
) -> Run:
    """Prepare a source run; composing it costs 70 ms, which the cells of a comparison share."""
    cfg = configs.compose([f"source={name}", f"out={store}"], config_dirs=config_dirs)
    own = json.loads(given)
    # The source's own timeout: it may train far longer than the runs that it serves.
    own["resources"]["timeout"] = cfg.resources.timeout
    cfg.store = store
    for part, value in own.items():
        cfg[part] = value
    # Its trainer is that of the run, which has been checked.
    return _prepare(cfg, (*chain, name), elsewhere=True)


def _schedule(config: Mapping[str, Any], phases: Sequence[Phase], *, images: int) -> Schedule:
    """Return the factor on the rates at each step; phases may let it begin anew."""
    per_epoch = images / config["batch_size"]

    def make(steps: int) -> Schedule:
        schedule: Schedule = configs.build(
            "scheduler", config["scheduler"], steps=steps, steps_per_epoch=per_epoch
        )
        return schedule

    starts = [phase.start for phase in phases if phase.start == 0 or phase.restart_schedule]
    if not config["steps"] or not any(phase.restart_schedule for phase in phases):
        return make(max(1, config["steps"]))
    return restarted(make, starts, steps=config["steps"])


def _unlabelled(config: Mapping[str, Any], init: Init, images: Images) -> tuple[Split, str] | None:
    if not isinstance(init, Autoencoder) or init.unlabelled is None:
        return None
    return feed.unlabelled(str(init.unlabelled), config["store"], max(images.size))


def wanted_input(weights: Weights | None, architecture: Architecture) -> Input | None:
    """Return the input that the weights, or else the architecture, ask for."""
    return (weights.input if weights else None) or architecture.input


def forget() -> None:
    """Read data and source configs anew the next time: files may have changed since."""
    feed.forget()
    _source_run.cache_clear()


def _probe_group() -> layers.LayerGroup:
    """Return a group of one number, on which an optimizer's options can be checked."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    return layers.LayerGroup(0, "probe", (), {"probe": parameter}, {})
