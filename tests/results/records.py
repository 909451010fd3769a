"""Record folders for tests, written as a comparison would leave them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.results.record import Record

IMAGES = 360
CLASSES = 10
STEPS = 300
ARMS = {
    "scratch": ("scratch", "full", 0.05),
    "probe": ("pretrained", "linear_probe", 0.1),
    "full": ("pretrained", "full", 0.02),
}
SIZES = (1, 2, 5, 10, 20, 80)
MEANS = {
    "scratch": (0.58, 0.68, 0.80, 0.885, 0.945, 0.987),
    "probe": (0.79, 0.835, 0.885, 0.91, 0.935, 0.958),
    "full": (0.785, 0.845, 0.905, 0.94, 0.966, 0.988),
}

# A finished run's accuracy, None for a missing run, or a failed run's error.
Value = float | str | None
# One value per seed, or a list of one per fold for each seed.
Values = Mapping[tuple[str, int | float | None], Sequence[Value | Sequence[Value]]]
Change = Callable[[dict[str, Any]], None]


def digits_values(seeds: int = 5) -> dict[tuple[str, int | None], list[float | str | None]]:
    """Return plausible accuracies of comparison=digits, a seed's luck shared by its arms."""
    generator = np.random.default_rng(7)
    values: dict[tuple[str, int | None], list[float | str | None]] = {}
    for column, size in enumerate(SIZES):
        spread = 0.045 / (1 + column) ** 1.2
        luck = generator.normal(0, spread, seeds)
        for arm in ARMS:
            mean = MEANS[arm][column]
            noise = generator.normal(0, spread / 3 + 0.002, seeds)
            values[arm, size] = [float(min(0.995, mean + x)) for x in luck + noise]
    return values


def write_comparison(
    out: Path,
    values: Values,
    *,
    name: str = "digits",
    reference: str = "scratch",
    metric: str = "test/accuracy",
    predictions: bool = False,
    change: Change | None = None,
) -> Path:
    """Write runs and plan under `out`; return the comparison's folder.

    Args:
        out: The output folder.
        values: By arm and size, one value per seed, or for each seed a list of one per fold.
        name: Of the comparison.
        reference: The reference arm.
        metric: The compared metric.
        predictions: Write predictions.npz files that have just these accuracies.
        change: Called with each record as a dictionary, before it is written.
    """
    cells = []
    for (arm, size), seed, fold, folds, value in _flat(values):
        key = hashlib.sha256(f"{name} {arm} {size} {seed} {fold}".encode()).hexdigest()
        overrides = [f"arm={name}/{arm}", f"{_size_key(size)}={size}", f"seed={seed}"]
        overrides += [f"data.folds={folds}", f"data.fold={fold}"] if folds else []
        cell = {"key": key, "arm": arm, "size": size, "seed": seed, "fold": fold}
        command = " ".join(["warmstart train", *overrides])
        cells.append(cell | {"overrides": overrides, "command": command})
        if value is None:
            continue
        content = _record(key, arm, size, seed, value)
        content["config"]["data"] |= {"folds": folds, "fold": fold} if folds else {}
        content["digests"]["split"] = f"s{fold}"
        if change:
            change(content)
        Record(**content).write(out / "runs" / key)
        if predictions and not isinstance(value, str):
            _write_predictions(out / "runs" / key, value, fold=fold, seed=int(key[:8], 16))
    folder = out / "comparisons" / name
    folder.mkdir(parents=True)
    plan = {"name": name, "reference": reference, "metric": metric, "cells": cells}
    plan["command"] = f"warmstart compare comparison={name}"
    (folder / "cells.json").write_text(json.dumps(plan))
    return folder


def _flat(values: Values) -> Iterator[tuple[Any, int, int | None, int | None, Value]]:
    """Yield arm and size, seed, fold, folds and value of each run; None for both without folds."""
    for place, per_seed in values.items():
        for seed, value in enumerate(per_seed):
            if isinstance(value, str) or not isinstance(value, Sequence):
                yield place, seed, None, None, value
                continue
            for fold, of_fold in enumerate(value):
                yield place, seed, fold, len(value), of_fold


def _size_key(size: int | float | None) -> str:
    return "data.fraction" if isinstance(size, float) else "data.per_class"


def _record(
    key: str, arm: str, size: int | float | None, seed: int, value: float | str
) -> dict[str, Any]:
    init, strategy, lr = ARMS.get(arm, ("scratch", "full", 0.05))
    failed = isinstance(value, str)
    content: dict[str, Any] = {
        "key": key,
        "status": "failed" if failed else "finished",
        "seed": seed,
        "config": {
            "seed": seed,
            "steps": STEPS,
            "data": {"name": "digits", _size_key(size).removeprefix("data."): size},
            "init": {"_target_": f"warmstart.models.init.{init}"}
            | ({"scheme": "kaiming_normal"} if init == "scratch" else {}),
            "strategy": {"phases": [{"start": 0.0, "groups": 1 if strategy[0] == "l" else "all"}]},
            "optimizer": {"name": "sgd", "lr": lr, "momentum": 0.9, "weight_decay": 5e-4},
        },
        "choices": {"init": init, "strategy": strategy},
        "init": {} if init == "scratch" else {"weights": "source:glyphs", "matched": 12},
        "digests": {"data": "d", "order": f"o{seed}", "augment": f"a{seed}"},
        "versions": {"warmstart": "0.1.0", "torch": "2.15.0", "numpy": "2.4.6"},
        "environment": {"device": "cpu", "threads": 1, "python": "3.11.7"},
    }
    if failed:
        return content | {"error": value}
    steps = list(range(10, STEPS + 1, 10))
    curve = [float(value) * (1 - 0.85 * np.exp(-step / (70 if lr < 0.1 else 35))) for step in steps]
    pace = 0.0021 if strategy == "linear_probe" else 0.0063
    seconds = [round(step * pace * (1 + 0.04 * seed), 4) for step in steps]
    quantities = {
        "accuracy": value,
        "macro_accuracy": value - 0.02,
        "macro_f1": value - 0.004,
        "calibration_error": 0.3 * (1 - value) + 0.01,
        "loss": 2.2 * (1 - value) + 0.03,
        "top5_accuracy": 1 - (1 - value) / 6,
    }
    return content | {
        "test_opened": 1,
        "metrics": {f"{split}/{k}": v for split in ("val", "test") for k, v in quantities.items()},
        "curves": {"val": {"step": steps, "accuracy": curve, "loss": [1 - c for c in curve]}},
        "timing": {
            "train_seconds": seconds[-1],
            "total_seconds": seconds[-1] + 0.2,
            "curves": {"val": seconds},
        },
    }


def _write_predictions(folder: Path, accuracy: float, *, fold: int | None, seed: int) -> None:
    """Write logits with that accuracy; the same images are hard for every run of a fold."""
    labels = np.arange(IMAGES) % CLASSES
    hardness = np.random.default_rng(0).random(IMAGES)
    order = (hardness + 0.3 * np.random.default_rng(seed).random(IMAGES)).argsort()
    answers = labels.copy()
    wrong = order[round(accuracy * IMAGES) :]
    answers[wrong] = (labels[wrong] + 1) % CLASSES
    logits = np.eye(CLASSES, dtype=np.float32)[answers] * 4
    start = 0 if fold is None else fold * IMAGES  # folds share no image
    ids = np.array([f"{i:04d}" for i in range(start, start + IMAGES)])
    arrays = {"ids": ids, "labels": labels.astype(np.int64), "logits": logits}
    np.savez(
        folder / "predictions.npz",
        classes=np.array([str(i) for i in range(CLASSES)]),
        **{f"{split}_{k}": array for split in ("val", "test") for k, array in arrays.items()},
    )
