"""One run, from its config to its record: the only place that reads the config."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from warmstart import configs, environment, store
from warmstart.callbacks import checkpoint
from warmstart.callbacks.phases import PhaseSchedule, check_statistics
from warmstart.callbacks.recorder import Recorder
from warmstart.data.batches import (
    Preprocess,
    TrainBatches,
    eval_loader,
    input_of,
    split_digest,
    train_loader,
)
from warmstart.data.images import Images, Split
from warmstart.errors import ConfigError, RunError
from warmstart.identity import identity, key
from warmstart.metrics import classification_metrics
from warmstart.models import init, layers
from warmstart.models.architecture import Architecture, Input
from warmstart.models.weights import Weights, read_file, resolve, save
from warmstart.optim.schedules import Schedule
from warmstart.results.record import Record, read
from warmstart.strategies.phases import Phase
from warmstart.task import Classification
from warmstart.trainer import Hardware

# About so many validations, and so many points of the training curve, in a run.
_VALIDATIONS, _POINTS = 20, 50

Progress = Callable[[int, int], None]


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
        source: The config of the run that makes these weights, which must be finished first.
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
    source: DictConfig | None
    phases: list[Phase]
    schedule: Schedule

    @property
    def steps(self) -> int:
        return int(self.config["steps"])


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
    weights = _weights(config, architecture, prepare(source) if source is not None else None)
    wanted = weights.input if weights and weights.input else architecture.input
    data, digest = _data(
        json.dumps([config["data"], wanted.size if wanted else None, config["store"]])
    )
    images = data.per_class(config["data"].get("per_class"), seed=config["seed"])
    wanted = wanted or input_of(images)

    config = {**config, "trainer": hardware.resolved(), **_length(config, len(images.train))}
    steps, groups = config["steps"], len(architecture.layout)
    phases = configs.build("strategy", config["strategy"], groups=groups, steps=steps)
    schedule = configs.build("scheduler", config["scheduler"], steps=max(1, steps))
    configs.build("optimizer", config["optimizer"], [_probe_group()])
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
    )


def execute(cfg: DictConfig, *, progress: Progress | None = None) -> Record:
    """Return the record of the run that `cfg` describes, running it unless it is finished.

    A run that was killed goes on from its last checkpoint and ends as if it had not been. Two
    processes that ask for one run make it once.

    Args:
        cfg: As `warmstart.compose` returns it.
        progress: Called with the finished steps and all steps.

    Raises:
        ConfigError: The config, the data or the weights are wrong.
        RunError: The run failed; its record says why too.
    """
    run = prepare(cfg)
    with store.lock(run.folder):
        record = read(run.folder)
        if record is not None and record.status == "finished":
            return record
        if run.source is not None:
            execute(run.source, progress=progress)
        run.folder.mkdir(exist_ok=True)
        try:
            return _train(run, progress or (lambda step, steps: None))
        except Exception as error:
            _record_failure(run, error)
            if isinstance(error, (ConfigError, RunError)):
                raise
            raise RunError(f"{type(error).__name__}: {str(error).strip()}") from error


def _train(run: Run, progress: Progress) -> Record:
    started = time.monotonic()
    seed, config = run.config["seed"], run.config

    model = run.architecture.build(run.input.channels, len(run.images.classes))
    report = _initialize(run, model)
    groups = layers.layer_groups(model, run.architecture.layout)
    check_statistics(run.phases, groups, report.matched if report else ())
    initial = environment.tensors_digest(model.state_dict())
    if config["trainer"]["channels_last"]:
        model = model.to(memory_format=torch.channels_last)

    resume = checkpoint.load_newest(run.folder)
    if resume is not None:
        model.load_state_dict(resume["model"])
    augment = configs.build("augment", config["augment"])
    task = Classification(
        model,
        Preprocess(run.input, augment=augment, channels_last=config["trainer"]["channels_last"]),
        optimizer=functools.partial(configs.build, "optimizer", config["optimizer"], groups),
        seed=seed,
        first_step=resume["step"] if resume else 0,
        optimizer_state=resume["optimizer"] if resume else None,
    )
    logger = configs.build(
        "logger", config["logger"], folder=run.folder, name=_name(run), labels=_labels(run)
    )
    recorder = Recorder(
        run.folder,
        steps=run.steps,
        log_every=config["log_every_steps"],
        checkpoint_seconds=config["checkpoint_seconds"],
        loggers=[logger],
        progress=lambda step: progress(step, run.steps),
        resume=resume,
    )
    batches = TrainBatches(
        run.images.train,
        batch_size=config["batch_size"],
        columns=augment.columns,
        seed=seed,
    )
    schedule = PhaseSchedule(run.phases, run.schedule, groups, lr=config["optimizer"]["lr"])
    _fit(run, task, batches, [schedule, recorder])
    train_seconds = recorder.seconds

    if recorder.best is not None:
        model.load_state_dict(recorder.best["model"])
    metrics = _evaluate(run, task)
    logger.finish(recorder.rows, metrics)
    record = Record(
        key=run.key,
        status="finished",
        seed=seed,
        config=identity(config),
        choices=config["choices"],
        digests={
            "data": run.data_digest,
            "split": split_digest(run.images),
            **batches.digests(),
            "init": initial,
            "weights": environment.tensors_digest(model.state_dict()),
        },
        versions=environment.versions(),
        test_opened=int(config["test"]),
        metrics=metrics,
        curves=_columns(recorder.rows, leave="seconds"),
        groups=layers.table(groups),
        init={"weights": run.weights.origin, **report.as_dict()} if run.weights and report else {},
        environment=environment.describe(run.hardware.device, config),
        timing={
            "train_seconds": train_seconds,
            "total_seconds": time.monotonic() - started,
            "curves": {name: [r["seconds"] for r in rows] for name, rows in recorder.rows.items()},
        },
    )
    if config["keep"] == "best":
        save(run.folder / "best.safetensors", model.state_dict(), run.input, run.images.classes)
    record.write(run.folder)
    checkpoint.remove(run.folder)
    return record


def _initialize(run: Run, model: torch.nn.Module) -> init.LoadReport | None:
    method = configs.build("init", run.config["init"])
    scheme = method.scheme if isinstance(method, init.Scratch) else "default"
    init.initialize(model, scheme=scheme, seed=run.config["seed"])
    if run.weights is None:
        return None
    return init.load(
        model,
        run.weights.read(),
        head=run.architecture.head,
        keep_head=method.head == "copy",
        origin=run.weights.origin,
    )


def _fit(run: Run, task: Classification, batches: TrainBatches, callbacks: list[Any]) -> None:
    left = run.steps - task.first_step
    trainer = run.hardware.trainer(
        steps=max(left, 0), val_every=run.config["val_every_steps"], callbacks=callbacks
    )
    if left <= 0:
        return
    workers = run.hardware.workers
    loader = train_loader(batches, first=task.first_step, steps=run.steps, workers=workers)
    try:
        trainer.fit(task, loader, eval_loader(run.images.val, workers=0))
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit with code 1, which would look like a failed run.
        raise KeyboardInterrupt from error


def _evaluate(run: Run, task: Classification) -> dict[str, float]:
    """Evaluate the best weights on validation and, once, on test; keep the predictions."""
    names = ("val", "test") if run.config["test"] else ("val",)
    splits = {name: run.images.splits[name] for name in names}
    trainer = run.hardware.trainer(steps=0, val_every=1, callbacks=[])
    loaders = [eval_loader(split, workers=0) for split in splits.values()]
    outputs = trainer.predict(task, loaders)
    assert outputs is not None
    # Lightning returns a flat list of batches when there is one loader.
    batched: Any = outputs if len(splits) > 1 else [outputs]
    logits = {name: torch.cat(part) for name, part in zip(splits, batched, strict=True)}
    _keep_predictions(run, splits, logits)
    return {
        f"{name}/{metric}": value
        for name, split in splits.items()
        for metric, value in classification_metrics(
            logits[name], torch.from_numpy(split.labels)
        ).items()
    }


def _keep_predictions(
    run: Run, splits: Mapping[str, Split], logits: Mapping[str, torch.Tensor]
) -> None:
    arrays: dict[str, np.ndarray] = {"classes": np.array(run.images.classes)}
    for name, split in splits.items():
        arrays[f"{name}_ids"] = np.array(split.ids)
        arrays[f"{name}_labels"] = split.labels
        arrays[f"{name}_logits"] = logits[name].numpy()

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    store.publish(run.folder / "predictions.npz", write)


def _record_failure(run: Run, error: Exception) -> None:
    message = str(error) if isinstance(error, (ConfigError, RunError)) else repr(error)
    record = Record(
        key=run.key,
        status="failed",
        seed=run.config["seed"],
        config=identity(run.config),
        choices=run.config["choices"],
        versions=environment.versions(),
        error=" ".join(message.split()),
        environment={
            **environment.describe(run.hardware.device, run.config),
            "traceback": traceback.format_exc(),
        },
    )
    record.write(run.folder)


def _source(config: Mapping[str, Any]) -> DictConfig | None:
    """Return the config of the run that ``init.weights=source:NAME`` names, in the store."""
    name = _weights_name(config) or ""
    fresh = isinstance(configs.build("init", config["init"]), init.Scratch)
    if fresh or not name.startswith("source:"):
        return None
    overrides = [f"source={name.removeprefix('source:')}", f"out={config['store']}", "logger=csv"]
    cfg = configs.compose(overrides, config_dirs=config["config_dirs"])
    cfg.store = config["store"]
    return cfg


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
    if source.architecture.layout != architecture.layout:
        raise ConfigError(
            f"init.weights={name} is a {source.architecture.name}, but the model is "
            f"{architecture.name}; use the same model, or other weights"
        )
    file = source.folder / "best.safetensors"
    return Weights(name, source.key, source.input, lambda: read_file(file))


@functools.lru_cache(maxsize=4)
def _data(request: str) -> tuple[Images, str]:
    """Load a data set; the cells of a comparison share it."""
    node, size, folder = json.loads(request)
    images: Images = configs.build("data", node, size=size, store=Path(folder))
    return images, images.digest


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
        "val_every_steps": config["val_every_steps"] or max(1, math.ceil(steps / _VALIDATIONS)),
        "log_every_steps": config["log_every_steps"] or max(1, math.ceil(steps / _POINTS)),
    }


def _probe_group() -> layers.LayerGroup:
    """Return a group of one number, on which an optimizer's options can be checked."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    return layers.LayerGroup(0, "probe", (), {"probe": parameter}, {})


def _columns(
    rows: Mapping[str, list[dict[str, float]]], *, leave: str
) -> dict[str, dict[str, list[float]]]:
    return {
        name: {
            column: [row[column] for row in part]
            for column in (part[0] if part else {})
            if column != leave
        }
        for name, part in rows.items()
    }


def _name(run: Run) -> str:
    choices, size = run.config["choices"], run.config["data"].get("per_class")
    arm = run.config["arm"] or f"{choices['init']}/{choices['strategy']}"
    return f"{arm} {size if size is not None else 'all'}/class seed {run.config['seed']}"


def _labels(run: Run) -> dict[str, Any]:
    size = run.config["data"].get("per_class")
    arm = (
        run.config["arm"] or f"{run.config['choices']['init']}/{run.config['choices']['strategy']}"
    )
    comparison = run.config["comparison"] or {}
    return {
        "group": comparison.get("name"),
        "tags": [
            f"arm:{arm}"[:64],
            f"size:{size if size is not None else 'all'}",
            f"seed:{run.config['seed']}",
        ],
        "config": {**identity(run.config), "arm": arm, "size": size, "key": run.key},
    }
