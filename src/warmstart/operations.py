"""How much a run computes: the multiplications and additions of its model, counted without any."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from warmstart import configs
from warmstart.models.layers import LayerGroup, layer_groups
from warmstart.models.skeleton import skeleton
from warmstart.run.cut_models import architecture_of, model_node
from warmstart.run.obstacles import standing_reason
from warmstart.run.plan import Run
from warmstart.strategies.phases import Phase

_BATCH = 2  # BatchNorm needs two


@functools.lru_cache(maxsize=512)
def image_operations(
    node: str, channels: int, classes: int, size: int, trained: int | None
) -> float:
    """Return the floating-point operations for one image.

    Elementwise ones, a small part, do not count.

    Args:
        node: The model, as `cut_models.model_node` returns it.
        channels: Of the image.
        classes: Of the head.
        size: Height and width of the image.
        trained: How many groups train, counted from the head down, for a forward and a backward
            pass; None for a forward pass in eval mode.

    Raises:
        RuntimeError: The model cannot run without numbers.
    """
    model, groups = _model(node, channels, classes, size)
    for group in groups:
        for parameter in group.parameters.values():
            parameter.requires_grad_(trained is not None and group.index >= len(groups) - trained)
    model.train(trained is not None)
    counter = FlopCounterMode(display=False)
    try:
        with (
            counter,
            torch.random.fork_rng(devices=[]),
            torch.set_grad_enabled(trained is not None),
        ):
            outputs = model(torch.empty(_BATCH, channels, size, size, device="meta"))
            if trained:
                tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
                torch.stack([one.sum() for one in tensors]).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        for parameter in model.parameters():
            parameter.grad = None
    return float(counter.get_total_flops()) / _BATCH


@functools.lru_cache(maxsize=512)
def frozen_operations(node: str, channels: int, classes: int, size: int, trained: int) -> float:
    """Return the operations of one image's forward pass before the first layer that trains.

    Args:
        node: The model, as `cut_models.model_node` returns it.
        channels: Of the image.
        classes: Of the head.
        size: Height and width of the image.
        trained: How many groups train, counted from the head down.

    Raises:
        RuntimeError: The model cannot run without numbers.
    """
    model, groups = _model(node, channels, classes, size)
    above = {id(one) for group in groups[-trained:] for one in group.parameters.values()}
    counter, reached = FlopCounterMode(display=False), list[int]()

    def reach(module: nn.Module, inputs: object) -> None:
        reached.append(counter.get_total_flops())

    own = [
        module.register_forward_pre_hook(reach)
        for module in model.modules()
        if any(id(one) in above for one in module.parameters(recurse=False))
    ]
    try:
        with counter, torch.no_grad():
            model.eval()(torch.empty(_BATCH, channels, size, size, device="meta"))
    finally:
        for handle in own:
            handle.remove()
    return float(min(reached, default=0)) / _BATCH


@functools.lru_cache(maxsize=8)
def _model(node: str, channels: int, classes: int, size: int) -> tuple[nn.Module, list[LayerGroup]]:
    architecture = architecture_of(json.loads(node))
    model = skeleton(lambda: architecture.build(channels, classes, size))
    return model, layer_groups(model, architecture.layout)


def cached_phases(run: Run) -> list[bool]:
    """Return of each phase whether its frozen layers run once, as far as a config can tell.

    That its model has a place to be cut at, and the store room for the features, is taken for
    granted.
    """
    _, groups = _model(*_model_of(run))
    return [standing_reason(run, groups, number) is None for number in range(len(run.phases))]


def run_operations(run: Run, cached: Sequence[bool] = ()) -> tuple[float, float]:
    """Return the operations of a run's training, and of all its evaluations.

    Args:
        run: Which.
        cached: Of each phase, whether what is frozen in it runs once for each image, and not at
            every step; none by default. What is kept from earlier runs does not count.

    Raises:
        RuntimeError: As in `image_operations`.
    """
    kept, whole = list(cached) or [False] * len(run.phases), _image(run, None)
    training = _training(run, run.phases, run.steps, kept)
    val, every = len(run.images.val), run.config["val_every_steps"]
    evaluation, before, saved = 0.0, 0, 0.0
    for phase, end, once in zip(run.phases, _ends(run.phases, run.steps), kept, strict=True):
        saved = _frozen(run, phase.groups) if once else 0.0
        # The last step is validated wherever the interval ends.
        passes = math.ceil(end / every) if end == run.steps else end // every
        evaluation += (passes - before) * val * (whole - saved)
        before = passes
    crops = len(run.crops) if run.crops else 1
    final = val + (len(run.images.test) if run.config["test"] else 0)
    evaluation += crops * final * whole if run.crops else final * (whole - saved)
    if not run.crops:  # test is opened after the last phase
        evaluation += (final - val) * saved
    cuts = {phase.groups for phase, once in zip(run.phases, kept, strict=True) if once}
    return training, evaluation + val * sum(_frozen(run, trained) for trained in cuts)


def training_operations(run: Run, strategy: Mapping[str, Any], steps: int) -> float:
    """Return the operations of training the run's model with another strategy, for `steps`.

    Its frozen layers run at every step.

    Raises:
        ConfigError: The strategy does not fit the model.
        RuntimeError: As in `image_operations`.
    """
    groups = len(run.architecture.layout)
    phases = configs.build("strategy", strategy, groups=groups, steps=steps)
    return _training(run, phases, steps, [False] * len(phases))


def _training(run: Run, phases: Sequence[Phase], steps: int, kept: Sequence[bool]) -> float:
    images, total = int(run.config["batch_size"]), 0.0
    train = len(run.images.train) * (run.config["features"]["views"] or 1)
    for phase, end, once in zip(phases, _ends(phases, steps), kept, strict=True):
        saved = _frozen(run, phase.groups) if once else 0.0
        total += images * (end - phase.start) * (_image(run, phase.groups) - saved)
    # Each image passes what is frozen once, for every place where that ends.
    cuts = {phase.groups for phase, once in zip(phases, kept, strict=True) if once}
    return total + train * sum(_frozen(run, trained) for trained in cuts)


def _ends(phases: Sequence[Phase], steps: int) -> list[int]:
    return [*(phase.start for phase in phases[1:]), steps]


def _image(run: Run, trained: int | None) -> float:
    return image_operations(*_model_of(run), trained)


def _frozen(run: Run, trained: int) -> float:
    return frozen_operations(*_model_of(run), trained)


def _model_of(run: Run) -> tuple[str, int, int, int]:
    node = model_node(run.config)
    return node, run.input.channels, len(run.images.classes), max(run.images.size)
