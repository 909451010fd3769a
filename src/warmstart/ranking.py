"""Candidate weights by predicted transfer to a data set, before any of them trains."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from warmstart import configs
from warmstart.errors import ConfigError
from warmstart.models.cuts import Cut, NoCut, activations, group_cut
from warmstart.models.init import Scratch
from warmstart.models.layers import layer_groups
from warmstart.models.pooling import pooling
from warmstart.operations import image_operations
from warmstart.run.caching import features_at, first_images
from warmstart.run.cut_models import model_node
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare
from warmstart.transferability import knn_loo_accuracy, log_me, nearest_mean_accuracy
from warmstart.untrained import check_features, untrained_model

NEIGHBOURS = 5  # that vote
_TIMED = 32  # images, which say how fast a model is

# Keys that a candidate is, so that nobody else can set them.
_CANDIDATES_OWN = ("model", "model.weights", "init", "init.weights", "model.name")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model with weights.

    Attributes:
        name: As it was asked for.
        overrides: That choose it.
    """

    name: str
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, name: str) -> Candidate:
        """Return the candidate ``MODEL`` or ``MODEL@WEIGHTS``.

        MODEL is an option of ``model=``, or ``timm/NAME`` or ``torchvision/NAME``.
        """
        model, _, weights = name.partition("@")
        library, slash, rest = model.partition("/")
        words = [f"model={model}"]
        if slash and library in ("timm", "torchvision"):
            words = [f"model={library}", f"model.name={rest}"]
        if weights:
            words.append(f"model.weights={json.dumps(weights, ensure_ascii=False)}")
        return cls(name, tuple(words))


def candidates(models: str) -> list[Candidate]:
    """Return the candidates of a list, ``[resnet20@FILE,mobilenet_v2]``.

    Raises:
        ConfigError: It names none, or one twice.
    """
    names = [name.strip() for name in models.strip().removeprefix("[").removesuffix("]").split(",")]
    if not all(names):
        raise ConfigError(
            f"models is {models!r}, but must list models, each perhaps with its weights: "
            "models=[mobilenet_v2,resnet20@weights.safetensors]"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"models names {twice!r} twice; leave one of them out")
    return [Candidate.of(name) for name in names]


def rank(
    models: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    config_dirs: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Return what features of candidate weights predict about their transfer, the best first.

    Each is judged by the input of its head for the training images, beside the same network with
    random weights: LogME, and the accuracy of the nearest neighbours when each image is left out.
    Validation judges the nearest class mean. Test is not looked at. Features are kept in the store.

    Args:
        models: Each ``MODEL`` or ``MODEL@WEIGHTS``: see `Candidate.of`.
        overrides: Of every candidate, as for training, for example ``["data=digits"]``.
        config_dirs: Folders with configs of your own.
        say: Called with what is under way.

    Returns:
        For each candidate ``model`` (as asked for), ``weights`` (their origin), ``use`` (the
        overrides that choose them), ``features`` (dimensions), ``images``, ``log_me``,
        ``knn/accuracy``, ``nearest_mean/accuracy``, ``control`` (the same three figures of random
        weights), ``multiply_adds`` (of an image), ``image_seconds`` (its forward pass up to the
        features, on this device); or ``problem`` in place of these, and such candidates last.

    Raises:
        ConfigError: The config, the data or the weights are wrong.
        RunError: A source run, from which a candidate starts, failed.
    """
    asked = candidates(",".join(models))
    _check_overrides(overrides)
    # All of them first: what is wrong with the last one shows before the first one computes.
    runs = [_prepared(candidate, overrides, config_dirs) for candidate in asked]
    rows = []
    for number, (candidate, run) in enumerate(zip(asked, runs, strict=True), 1):
        if say is not None:
            say(f"[{number}/{len(asked)}] {candidate.name}")
        rows.append(_row(candidate, run))
    return sorted(rows, key=lambda row: ("problem" in row, -row.get("log_me", 0.0)))


def _check_overrides(overrides: Sequence[str]) -> None:
    for word in overrides:
        key = word.lstrip("+").partition("=")[0]
        if key in _CANDIDATES_OWN:
            raise ConfigError(
                f"{word!r} sets {key}, which the candidates differ in; name it there: "
                "models=[MODEL@WEIGHTS,...]"
            )


def _prepared(candidate: Candidate, overrides: Sequence[str], config_dirs: Sequence[str]) -> Run:
    words = [*overrides, *candidate.overrides, "init=pretrained"]
    config = configs.compose(words, config_dirs=config_dirs)
    check_features(configs.resolved(config)["features"])
    if config.model.weights is None:
        raise ConfigError(
            f"{candidate.name} is to be ranked, but has no weights of its own; name them: "
            f"models=[{candidate.name}@WEIGHTS]"
        )
    run = prepare(config)
    if len(run.images.classes) < 2:
        raise ConfigError("the data have one class, but transfer can be ranked from 2 on")
    return run


def _row(candidate: Candidate, run: Run) -> dict[str, Any]:
    known = {
        "model": candidate.name,
        "weights": run.origins[0],
        "use": list(candidate.overrides),
        "images": {name: len(run.images.splits[name]) for name in ("train", "val")},
    }
    try:
        found = _figures(run)
        # The pixels and their normalization are the same: nothing but the weights differs.
        control = _figures(_fresh(run))
    except NoCut as error:
        return known | {"problem": f"its head has no input that could be judged: {error.reason}"}
    if "log_me" not in found:
        return known | {"problem": "some of its features are not finite"}
    own = ("log_me", "knn/accuracy", "nearest_mean/accuracy")
    return {
        **known,
        **found,
        "control": {name: control.get(name) for name in own},
        "multiply_adds": _multiply_adds(run),
    }


def _fresh(run: Run) -> Run:
    """Return the run with random weights, as ``init=random_features`` makes them."""
    with torch.random.fork_rng(devices=[]):
        groups = layer_groups(run.build_model(), run.architecture.layout)
    norms = any(True for group in groups for _ in group.batch_norms())
    init = Scratch(statistics="data" if norms else "own")
    return dataclasses.replace(run, init=init, weights=None, source=None)


def _figures(run: Run) -> dict[str, Any]:
    """Return what the features of a network say; figures of them only where all are finite."""
    initial = untrained_model(run)
    model, groups = initial.model, initial.groups
    cut = group_cut(model, groups, len(groups) - 2, first_images(run, model))
    train, val = (_features(run, model, cut, name) for name in ("train", "val"))
    notes = {"features": train.shape[1], "image_seconds": _image_seconds(run, model, cut)}
    if not (np.isfinite(train).all() and np.isfinite(val).all()):
        return notes
    labels, val_labels = run.images.train.labels, run.images.val.labels
    k = min(NEIGHBOURS, len(train) - 1)
    return {
        **notes,
        "log_me": log_me(train, labels),
        "knn/accuracy": knn_loo_accuracy(train, labels, k=k),
        "nearest_mean/accuracy": nearest_mean_accuracy(train, labels, val, val_labels),
    }


def _features(run: Run, model: nn.Module, cut: Cut, name: str) -> np.ndarray:
    """Return the features of train or val at the head's input, float32 [n, d]."""
    split = run.images.train if name == "train" else run.images.val
    # Before a convolution as head there is a map.
    (found,) = features_at(run, model, [cut], name, split, pools=[pooling(None, cut.shape)])
    features: np.ndarray = found[np.arange(len(found))].float().numpy()
    return features


def _image_seconds(run: Run, model: nn.Module, cut: Cut) -> float:
    """Return the seconds of one image's way to its features, on the device of the run."""
    x = first_images(run, model, _TIMED)
    with torch.inference_mode():
        for _ in range(2):  # the first time pays for what comes once
            start = time.perf_counter()
            float(activations(model, cut, x).sum())  # which waits for the device
    return (time.perf_counter() - start) / len(x)


def _multiply_adds(run: Run) -> int | None:
    """Return the multiply-adds of an image; None where the model cannot run without numbers."""
    node = model_node(run.config)
    size, classes = max(run.images.size), len(run.images.classes)
    try:
        return round(image_operations(node, run.input.channels, classes, size, None) / 2)
    except RuntimeError:
        return None
