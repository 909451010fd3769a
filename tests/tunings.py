"""Folders of tunings for tests, written as `warmstart tune` would leave them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.results.record import Record

RATE, DECAY = "optimizer.lr", "optimizer.weight_decay"
SPACE = {
    RATE: {"low": 1e-4, "high": 1.0, "log": True},
    DECAY: {"low": 1e-6, "high": 1e-2, "log": True},
}
STEPS = 400
# By arm: the best rate, as a power of ten, and the accuracy there.
ARMS = {"digits/scratch": (-1.2, 0.93), "digits/probe": (-0.2, 0.90), "digits/full": (-1.8, 0.97)}


def trial(
    arm: str,
    number: int,
    values: Mapping[str, Any],
    value: float | None,
    /,
    **changes: Any,
) -> dict[str, Any]:
    """Return a trial of the coarse round as tuning.json has it; `changes` replace its entries."""
    steps = STEPS // 4
    content: dict[str, Any] = {
        "arm": arm,
        "number": number,
        "round": "coarse",
        "values": dict(values),
        "seed": 100,
        "steps": steps,
        "key": hashlib.sha256(f"{arm} {number}".encode()).hexdigest(),
        "state": "finished",
        "value": value,
        "pruned_at": None,
        "error": None,
        "curve": {},
    } | changes
    value = content["value"]
    if value is not None and not content["curve"]:
        ends = content["pruned_at"] or content["steps"]
        points = list(range(20, ends + 1, 20))
        share = [1 - 0.8 * float(np.exp(-point / 40)) for point in points]
        accuracy = [value * part / share[-1] for part in share]
        loss = [2.3 * (1 - found) for found in accuracy]
        content["curve"] = {"step": points, "accuracy": accuracy, "loss": loss}
    return content


def write_tuning(
    out: Path,
    trials: list[dict[str, Any]],
    /,
    *,
    name: str = "digits",
    best: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write tuning.json under `out`; return the tuning's folder. `changes` replace its entries."""
    arms = dict.fromkeys(one["arm"] for one in trials)
    content = {
        "name": name,
        "of": "comparison",
        "command": f"warmstart tune comparison={name}",
        "metric": "val/accuracy",
        "sampler": "random",
        "created": "2026-03-01T12:00:00+00:00",
        "arms": {arm: {"steps": STEPS, "config": {RATE: 0.1, DECAY: 5e-4}} for arm in arms},
        "space": SPACE,
        "trials": trials,
        "best": dict(best or {}),
    } | changes
    folder = out / "tunings" / name
    folder.mkdir(parents=True)
    (folder / "tuning.json").write_text(json.dumps(content))
    return folder


def write_record(out: Path, entry: Mapping[str, Any], **changes: Any) -> None:
    """Write the record of a trial, finished with 88 % unless told otherwise."""
    content: dict[str, Any] = {
        "key": entry["key"],
        "status": "finished",
        "seed": entry["seed"],
        "config": {},
        "choices": {},
        "metrics": {"val/accuracy": 0.88, "val/loss": 0.4},
        "curves": {"val": {"step": [50, 100], "accuracy": [0.5, 0.88], "loss": [1.2, 0.4]}},
        "timing": {"train_seconds": 12.5},
    } | changes
    Record(**content).write(out / "runs" / entry["key"])


def digits_tuning(out: Path, **changes: Any) -> Path:
    """Write a whole tuning: per arm 16 coarse trials, 8 refined ones, 2 finalists on 3 seeds."""
    trials, best = [], {}
    for rank, (arm, (peak, top)) in enumerate(ARMS.items()):
        own = _searched(arm, peak, top, np.random.default_rng(rank))
        ranked = sorted((one for one in own if one["state"] == "finished"), key=_value)[-2:]
        for place, leader in enumerate(reversed(ranked)):
            for seed in range(3):
                value = min(0.995, leader["value"] + 0.02 - 0.01 * place + 0.003 * (seed - 1))
                final = {"round": "final", "seed": 101 + seed, "steps": STEPS}
                own.append(trial(arm, len(own), leader["values"], value, **final))
        finals = [one for one in own if one["round"] == "final"][:3]
        value = sum(one["value"] for one in finals) / 3
        numbers = [one["number"] for one in finals]
        best[arm] = {"values": finals[0]["values"], "value": value, "trials": numbers}
        trials += own
    return write_tuning(out, trials, best=best, **changes)


def _searched(arm: str, peak: float, top: float, generator: np.random.Generator) -> list[Any]:
    found: list[Any] = []
    for number in range(24):
        refined = number >= 16
        low, high = (peak - 0.5, min(peak + 0.5, 0)) if refined else (-4, 0)
        rate, decay = generator.uniform(low, high), generator.uniform(-6, -2)
        value = top - 0.04 * abs(rate - peak) ** 2 + float(generator.normal(0, 0.004))
        values = {RATE: 10**rate, DECAY: 10**decay}
        changes: dict[str, Any] = {"round": "refine" if refined else "coarse"}
        if rate > peak + 1.1:
            error = f"the loss became NaN at step {number + 3}; lower optimizer.lr"
            found.append(trial(arm, number, values, None, state="failed", error=error))
            continue
        if value < top - 0.12:
            changes |= {"state": "pruned", "pruned_at": 40}
        found.append(trial(arm, number, values, max(value, 0.1), **changes))
    return found


def _value(entry: Mapping[str, Any]) -> float:
    return float(entry["value"])
