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
from warmstart.models.architecture import Architecture
from warmstart.models.layers import LayerGroup, layer_groups
from warmstart.models.skeleton import skeleton
from warmstart.plan import Run
from warmstart.strategies.phases import Phase

_BATCH = 2  # BatchNorm needs two


@functools.lru_cache(maxsize=512)
def image_operations(
    node: str, channels: int, classes: int, size: int, trained: int | None
) -> float:
    """Return the floating-point operations for one image.

    Elementwise ones, a small part, do not count.

    Args:
        node: The config of the model, as JSON.
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


@functools.lru_cache(maxsize=8)
def _model(node: str, channels: int, classes: int, size: int) -> tuple[nn.Module, list[LayerGroup]]:
    architecture: Architecture = configs.build("model", json.loads(node))
    model = skeleton(lambda: architecture.build(channels, classes, size))
    return model, layer_groups(model, architecture.layout)


def run_operations(run: Run) -> tuple[float, float]:
    """Return the operations of a run's training, and of all its evaluations.

    Raises:
        RuntimeError: As in `image_operations`.
    """
    validations = math.ceil(run.steps / run.config["val_every_steps"])
    crops = len(run.crops) if run.crops else 1
    final = len(run.images.val) + (len(run.images.test) if run.config["test"] else 0)
    images = validations * len(run.images.val) + crops * final
    return _training(run, run.phases, run.steps), images * _image(run, None)


def training_operations(run: Run, strategy: Mapping[str, Any], steps: int) -> float:
    """Return the operations of training the run's model with another strategy, for `steps`.

    Raises:
        ConfigError: The strategy does not fit the model.
        RuntimeError: As in `image_operations`.
    """
    groups = len(run.architecture.layout)
    return _training(run, configs.build("strategy", strategy, groups=groups, steps=steps), steps)


def _training(run: Run, phases: Sequence[Phase], steps: int) -> float:
    ends = [*(phase.start for phase in phases[1:]), steps]
    images = int(run.config["batch_size"])
    return sum(
        images * (end - phase.start) * _image(run, phase.groups)
        for phase, end in zip(phases, ends, strict=True)
    )


def _image(run: Run, trained: int | None) -> float:
    node, size = json.dumps(run.config["model"], sort_keys=True), max(run.images.size)
    classes = len(run.images.classes)
    return image_operations(node, run.input.channels, classes, size, trained)
