"""What training will do, before it does anything.

Nothing here repeats a rule of training: rates, masks and modes are read from the run's own
optimizer and model, after the callback that sets them in training has set them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from warmstart import configs, memory
from warmstart.callbacks.phases import check_statistics
from warmstart.data.batches import TrainBatches
from warmstart.models.activations import activation_statistics
from warmstart.models.init import Pretrained
from warmstart.models.layers import LayerGroup, layer_groups
from warmstart.models.transfer import taken
from warmstart.predict import OPENINGS
from warmstart.run.caching import decide
from warmstart.run.initial import Initial, Pending, initial_model
from warmstart.run.plan import Run

# So many images say what the activations are, and take seconds in any model.
_ACTIVATION_IMAGES = 64


def preview(run: Run) -> dict[str, Any]:
    """Return what training this run does, as plain data; nothing is trained. Weights
    that are not at hand are fetched.

    ``regularization`` has the options that are not as in ``regularization=none``.
    ``keeping`` says in words what is averaged, when it ends early, and which snapshots it keeps.
    ``groups`` has an entry for each layer group, with an entry in its ``phases`` for each of the
    run's phases: whether it trains, its learning rate at the phase's first step, its highest and
    its last one, the weight decay of matrices and of vectors (biases and norms), and the mode of
    its BatchNorm. ``features`` says for each phase whether its frozen layers run once for each
    image, as in `warmstart.results.record.Record`. Sizes in memory are in bytes. Numbers that are
    not finite are text.

    Raises:
        ConfigError: The weights are wrong, or do not fit the strategy.
    """
    run.hardware.apply()
    pending = None
    try:
        initial = initial_model(run, allow_work=False)
        check_statistics(run.phases, initial.groups, initial.statistics)
    except Pending as error:
        pending, initial = error.reason, _untouched(run)
    model, groups = initial.model, initial.groups
    phases = _phases(run, model, groups)
    features = decide(run, model, groups) if run.steps or run.probe else []
    activations = [(None, None)] * len(groups) if pending else _activations(run, initial)
    entries = [
        {
            **_group(group),
            "weights": initial.states[group.index],
            "activation_mean": activations[group.index][0],
            "activation_std": activations[group.index][1],
            "phases": [phase["groups"][group.index] for phase in phases],
        }
        for group in groups
    ]
    bounds = [{key: phase[key] for key in ("first_step", "last_step")} for phase in phases]
    return {
        "key": run.key,
        "folder": str(run.folder),
        "finished": run.finished() is not None,
        "model": _model(run, groups, phases),
        "input": dataclasses.asdict(run.input),
        "weights": _weights(run, initial, pending),
        "groups": entries,
        "phases": bounds,
        "probe": run.config["choices"]["strategy"] if run.probe else None,
        "features": [decision.as_dict() for decision in features],
        "regularization": run.regularization.given,
        "keeping": run.keeping.sentences(run.steps),
        "memory": _memory(run, model),
        **_length(run),
        "logs": _logs(run),
    }


def _model(run: Run, groups: list[LayerGroup], phases: list[dict[str, Any]]) -> dict[str, Any]:
    counts = [_count(group.parameters.values()) for group in groups]
    trainable = [
        sum(count for count, entry in zip(counts, phase["groups"], strict=True) if entry["trains"])
        for phase in phases
    ]
    return {
        "name": run.architecture.name,
        "parameters": sum(counts),
        "trainable_by_phase": trainable,
        "classes": len(run.images.classes),
    }


def _untouched(run: Run) -> Initial:
    """Return the model as its constructor leaves it, and what its weights will be."""
    with torch.random.fork_rng(devices=[]):
        model = run.build_model()
    groups, init = layer_groups(model, run.architecture.layout), run.init
    made, coming = len(groups) - 1, "autoencoder"
    if isinstance(init, Pretrained):
        made = taken(groups, init.groups)
        coming = "loaded" if init.values == "exact" else init.values
    fresh = [f"fresh ({init.scheme})"] * (len(groups) - made)
    states = [f"{coming} (pending)"] * made + fresh
    if init.head != "fresh":
        states[-1] = "loaded (pending)" if init.head == "copy" else init.head
    return Initial(model, groups, states, None, [])


def _weights(run: Run, initial: Initial, pending: str | None) -> dict[str, Any]:
    return {
        "init": run.config["choices"]["init"],
        "origins": run.origins,
        "pending": pending,
        "report": initial.report.as_dict() if initial.report else None,
        "summary": str(initial.report) if initial.report else None,
    }


def _group(group: LayerGroup) -> dict[str, Any]:
    # Not the tables of positions or scales, which are parameters of more than one dimension too.
    weighted = {
        name.rpartition(".")[0]
        for name, parameter in group.parameters.items()
        if parameter.ndim > 1 and name.endswith("weight")
    }
    return {
        "index": group.index,
        "name": group.name,
        "layers": len(weighted),
        "parameters": _count(group.parameters.values()),
    }


def _count(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _optimizer(run: Run) -> Callable[..., torch.optim.Optimizer]:
    return functools.partial(configs.build, "optimizer", run.config["optimizer"])


def _phases(run: Run, model: nn.Module, groups: list[LayerGroup]) -> list[dict[str, Any]]:
    """Return steps and an entry for each group, for each phase of the run."""
    if not run.steps:
        return []
    schedule, optimizer = run.phase_schedule(groups), _optimizer(run)(groups)
    ends = [phase.start for phase in run.phases[1:]] + [run.steps]
    result = []
    for phase, end in zip(run.phases, ends, strict=True):
        schedule.apply(model, phase.start)
        peak = max(range(phase.start, end), key=run.schedule)
        rates = {}
        for name, step in (("first", phase.start), ("peak", peak), ("last", end - 1)):
            schedule.set_rates(optimizer, step)
            rates[f"lr_{name}"] = {
                entry["layer_group"]: entry["lr"] for entry in optimizer.param_groups
            }
        result.append(
            {
                "first_step": phase.start,
                "last_step": end - 1,
                "groups": [
                    _group_in_phase(group, optimizer)
                    | {name: rate.get(group.index, 0.0) for name, rate in rates.items()}
                    for group in groups
                ],
            }
        )
    return result


def _group_in_phase(group: LayerGroup, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    trains = any(parameter.requires_grad for parameter in group.parameters.values())
    decays: dict[bool, float] = {}
    for entry in optimizer.param_groups:
        if entry["layer_group"] == group.index and trains:
            for parameter in entry["params"]:
                decays[parameter.ndim > 1] = entry["weight_decay"]
    modes = {norm.training for norm in group.batch_norms()}
    return {
        "trains": trains,
        "weight_decay": decays.get(True),
        "weight_decay_vectors": decays.get(False),
        "batchnorm": ("train" if True in modes else "eval") if modes else None,
    }


def _activations(run: Run, initial: Initial) -> list[tuple[Any, Any]]:
    """Return mean and deviation of each group's output for the first images of training."""
    run.phase_schedule(initial.groups).apply(initial.model, 0)
    batches = TrainBatches(
        run.images.train,
        batch_size=run.config["batch_size"],
        seed=run.config["seed"],
    )
    pixels, _, uniforms = (part[:_ACTIVATION_IMAGES] for part in batches[0])
    images = run.preprocess(None)(pixels, uniforms, train=False)
    found = activation_statistics(
        initial.model, initial.groups, images, auxiliary=run.architecture.auxiliary
    )
    return [(_plain(mean), _plain(std)) for mean, std in found]


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _memory(run: Run, model: nn.Module) -> dict[str, Any]:
    """Return the estimate; the model is moved to ``meta`` for it, away from its numbers."""
    images = sum(len(split) for split in run.images.splits.values())
    host = {"images": 0 if run.dataset.streamed else images * math.prod(run.images.train.shape)}
    try:
        found = memory.estimate(
            run,
            model.to("meta"),
            schedule=run.phase_schedule,
            optimizer=_optimizer(run),
        )
    except RuntimeError as error:
        reason = f"the model cannot run without numbers: {str(error).splitlines()[0]}"
        return {**host, "total": None, "reason": reason}
    return {**host, **dataclasses.asdict(found), "total": found.total, "precision": "32-true"}


def _length(run: Run) -> dict[str, Any]:
    train, batch = len(run.images.train), run.config["batch_size"]
    every = run.config["val_every_steps"]
    return {
        "steps": run.steps,
        "batch_size": batch,
        "devices": run.hardware.devices,
        "images": {name: len(split) for name, split in run.images.splits.items()},
        "image_size": list(run.images.size),
        "images_per_epoch": train,
        "steps_per_epoch": train / batch,
        "epochs": run.steps * batch / train,
        # The last step is validated wherever the interval ends.
        "validations": math.ceil(run.steps / every),
        "val_every_steps": every,
        "log_every_steps": run.config["log_every_steps"],
    }


def _logs(run: Run) -> list[dict[str, str]]:
    """Return what the run leaves, and where."""
    tests = run.config["test"]
    files = {
        "result.json": "the record: config, digests, metrics, curves",
        "predictions.npz": "logits of validation and test" if tests else "logits of validation",
        "state.json": "how far it is, and what it has cost: for warmstart status",
    }
    if tests:
        files[OPENINGS] = "a line for each time that the test split was opened"
    if run.config["keep"] == "best":
        files["best.safetensors"] = "the weights of the best validation"
    every = f"every {run.config['log_every_steps']} steps, and every validation"
    logger = run.config["logger"]
    # Asked of the class: making a logger may already open a run somewhere.
    node = {**logger, "_target_": f"{logger['_target_']}.destination"}
    rows = {
        "where": configs.build("logger", node, run.folder),
        "what": f"loss, accuracy and rate {every}",
    }
    kept = [{"where": str(run.folder / name), "what": what} for name, what in files.items()]
    return [*kept, rows]
