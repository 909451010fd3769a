"""One comparison: which cells it has, which of them are left, and what became of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from warmstart.configs import folder as conf_folder
from warmstart.errors import ConfigError, RunError, choose
from warmstart.progress import Display
from warmstart.results.metric import Size, mixture, training_size
from warmstart.results.record import Record
from warmstart.store import publish
from warmstart.sweep import Cell

_AXES = ("arm", "data.per_class", "data.fraction", "data.fold", "seed")


class Sweep:
    """The task of a multirun: plans all cells, then runs one after the other.

    Attributes:
        failed: Label and reason of each cell that failed.
        folder: Of the comparison; None for a sweep without a name.
    """

    def __init__(self, display: Display, *, command: str) -> None:
        self.display = display
        self.command = command
        self.failed: list[tuple[str, str]] = []
        self.folder: Path | None = None
        self._labels: dict[str, str] = {}

    def plan(self, cells: Sequence[Cell], arguments: Sequence[Override]) -> Sequence[Cell]:
        """Check every cell, write down what is planned, and return what is not finished."""
        from warmstart.plan import prepare

        self.display.note(f"checking {len(cells)} runs before the first one starts")
        entries, left = [], []
        known: set[str] = set()
        inputs: dict[tuple[Size, int, int | None], dict[str, str]] = {}
        for cell in cells:
            _check_arm(cell.config, arguments)
            label = " ".join(cell.swept) or "run"
            try:
                run = prepare(cell.config)
            except ConfigError as error:
                raise ConfigError(f"{error} (in the cell {label})") from error
            entry = self._entry(cell, run.key)
            entries.append(entry)
            self._labels[run.key] = label
            same = inputs.setdefault((entry["size"], entry["seed"], entry["fold"]), {})
            same.setdefault(str(run.input), entry["arm"])
            if run.key not in known and run.finished() is None:
                left.append(cell)
            known.add(run.key)
        _check_declaration(cells[0].config, entries)
        self._write(cells[0].config, entries)
        differing = next((arms for arms in inputs.values() if len(arms) > 1), None)
        if differing and cells[0].config.comparison is not None:
            self.display.say(
                f"the arms {' and '.join(differing.values())} see differently preprocessed images, "
                "each those of its weights; give all of them their weights by model.weights= to "
                "have one preprocessing"
            )
        finished = len(known) - len(left)
        if finished:
            self.display.say(f"{finished} of {len(known)} runs are finished and are skipped")
        self.display.plan(len(left))
        return left

    def __call__(self, cfg: DictConfig) -> None:
        """Run one cell; what goes wrong is kept, so that it stops no other cell."""
        from warmstart.plan import prepare
        from warmstart.run import execute

        label = "run"
        try:
            run = prepare(cfg)
            label = self._labels.get(run.key, label)
            self.display.start(label)
            record = execute(run, progress=self.display.step)
        except (ConfigError, RunError, OSError) as error:
            self.failed.append((label, str(error)))
            self.display.end(f"FAILED: {error}")
            return
        self.display.end(outcome(record))

    def finish(self) -> int:
        """Report on the comparison, name what failed, and return the exit code."""
        if self.folder is not None:
            from warmstart.summary import summarize

            summarize([self.folder])
        for label, reason in self.failed:
            self.display.say(f"failed: {label}: {reason}")
        if self.failed:
            self.display.say(f"{len(self.failed)} failed; the same command runs them again")
        return 1 if self.failed else 0

    def _entry(self, cell: Cell, key: str) -> dict[str, Any]:
        swept = dict(line.split("=", 1) for line in cell.swept)
        arm, data = cell.config.arm or _arm_of(cell.config), cell.config.data
        # The name of an arm without a file says these already.
        told = (*_AXES, *(() if cell.config.arm else ("init", "strategy")))
        extra = [f"{name}={value}" for name, value in swept.items() if name not in told]
        flags = [word for name in cell.config.config_dirs for word in ("--config-dir", name)]
        return {
            "key": key,
            "arm": " ".join([arm, *extra]),
            "size": training_size(data.get("per_class"), data.get("fraction")),
            "seed": cell.config.seed,
            "fold": data.get("fold"),
            "overrides": cell.overrides,
            "command": shlex.join(["warmstart", "train", *flags, *cell.overrides]),
        }

    def _write(self, config: DictConfig, entries: list[dict[str, Any]]) -> None:
        declared = config.get("comparison")
        if declared is None:
            return
        name = str(declared.name)
        if name != Path(name).name or name.startswith("."):
            raise ConfigError(f"comparison.name is {name!r}, but must be the name of a folder")
        content = {
            "name": name,
            "reference": declared.reference,
            "metric": declared.metric,
            "command": self.command,
            "cells": entries,
        }
        self.folder = Path(config.out) / "comparisons" / name
        text = json.dumps(content, indent=1)
        publish(self.folder / "cells.json", lambda part: _write_text(part, text))


def _check_declaration(config: DictConfig, entries: Sequence[dict[str, Any]]) -> None:
    """Refuse a comparison whose report could not say anything."""
    declared = config.comparison
    if declared is None:
        return
    if problem := mixture([e["size"] for e in entries], [e["fold"] for e in entries]):
        raise ConfigError(f"the comparison {declared.name} cannot be compared: {problem}")
    arms = [entry["arm"] for entry in entries]
    # A label is the arm's name, followed by what else was swept.
    names = {arm.split(" ")[0] for arm in arms}
    if declared.reference is not None and declared.reference not in {*arms, *names}:
        raise choose("comparison.reference", declared.reference, set(arms))
    if str(declared.metric).startswith("test/") and not config.test:
        raise ConfigError(
            f"comparison.metric is {declared.metric}, but test=false never evaluates the test "
            "split; give test=true or comparison.metric=val/accuracy"
        )


def outcome(record: Record) -> str:
    """Return the line about a finished run."""
    name = "test/accuracy" if record.test_opened else "val/accuracy"
    return f"{name} {record.metrics[name]:.4f} in {record.timing['total_seconds']:.1f} s"


def _arm_of(config: DictConfig) -> str:
    return f"{config.choices.init}/{config.choices.strategy}"


def _check_arm(config: DictConfig, arguments: Sequence[Override]) -> None:
    """Refuse to override on the command line what the swept arms set themselves.

    Otherwise a table would say ``scratch`` of something that is not the arm of this name.
    """
    if config.arm is None:
        return
    keys = _arm_keys(str(config.arm), config.config_dirs)
    for override in arguments:
        key = override.key_or_group
        for own in keys:
            if own == key or own.startswith(f"{key}."):
                raise ConfigError(
                    f"{override.input_line!r} overrides what the arm {config.arm} sets ({own}); "
                    "change the arm's file, or write an arm of your own with --config-dir"
                )


def _arm_keys(arm: str, config_dirs: Sequence[str]) -> list[str]:
    for root in (*map(Path, config_dirs), conf_folder()):
        path = root / "arm" / f"{arm}.yaml"
        if path.is_file():
            content = yaml.safe_load(path.read_text())
            keys = []
            for entry in content.pop("defaults", []):
                if isinstance(entry, str):  # another arm, whose keys are this arm's too
                    keys += _arm_keys(entry.removeprefix("/arm/"), config_dirs)
                else:
                    keys += [name.split("/")[-1] for name in entry]
            return [*keys, *_leaves(content)]
    return []


def _leaves(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [
        leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}.{key}".strip("."))
    ]


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
