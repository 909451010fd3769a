"""Planned cells and the records found for them: what a report is made from."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError
from warmstart.results import record as records
from warmstart.results.metric import Metric
from warmstart.results.record import Record
from warmstart.results.statistics import Interval, t_interval

PLAN = "cells.json"
# What tells the cells of a comparison apart anyway; no difference between arms.
CELL_KEYS = ("seed", "data.per_class")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One planned run: an arm at a size with a seed, and its record where there is one.

    Attributes:
        key: The identity of the run.
        arm: Label of the table row.
        size: Training images per class, or None for all.
        seed: The run's seed.
        command: What repeats this run.
        folder: Where its files are, or would be.
        record: None where the run has not ended.
    """

    key: str
    arm: str
    size: int | None
    seed: int
    command: str
    folder: Path
    record: Record | None

    @property
    def status(self) -> str:
        """``finished``, ``failed`` or ``missing``."""
        return self.record.status if self.record else "missing"

    def value(self, metric: str) -> float | None:
        """Return a finished run's metric, or None where it has no finite one."""
        if self.record is None or self.record.status != "finished":
            return None
        value = self.record.metrics.get(metric)
        return float(value) if value is not None and math.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The cells of one comparison.

    Attributes:
        name: Of the comparison, or of the folder that was read.
        reference: The arm that others are compared with, or its name where its label also has
            swept values; empty where candidates are ranked.
        metric: What is compared.
        command: What makes or completes the comparison.
        cells: In planned order.
    """

    name: str
    reference: str
    metric: Metric
    command: str
    cells: tuple[Cell, ...]

    @functools.cached_property
    def arms(self) -> tuple[str, ...]:
        """Arm labels in planned order, the reference first."""
        seen = dict.fromkeys(cell.arm for cell in self.cells)
        return tuple(sorted(seen, key=lambda arm: not self.is_reference(arm)))

    def reference_of(self, arm: str) -> str | None:
        """Return the arm that `arm` is compared with; None for the reference itself.

        Where values are swept within arms (``AnB init.groups=2``), it is the reference of the same
        values (``BnB init.groups=2``).
        """
        if self.is_reference(arm):
            return None
        variant = " ".join([self.reference, *arm.split(" ")[1:]])
        return next((name for name in (self.reference, variant) if name in self.arms), None)

    def is_reference(self, arm: str) -> bool:
        """Whether `arm` is the reference, with or without swept values."""
        return bool(self.reference) and self.reference in (arm, arm.split(" ")[0])

    @functools.cached_property
    def sizes(self) -> tuple[int | None, ...]:
        """Images per class in ascending order; None (all images) comes last."""
        return tuple(sorted({cell.size for cell in self.cells}, key=lambda s: (s is None, s or 0)))

    @property
    def unfinished(self) -> list[Cell]:
        """Failed cells, then missing ones, then finished ones without the compared metric."""
        kinds = ("failed", "missing", "finished")
        open_cells = [cell for cell in self.cells if cell.value(self.metric.name) is None]
        return sorted(open_cells, key=lambda cell: kinds.index(cell.status))

    def finished(self, arm: str, size: int | None, *, metric: str | None = None) -> dict[int, Cell]:
        """Return the finished cells of a table entry by seed, in ascending order of seeds."""
        name = metric or self.metric.name
        found = [
            cell
            for cell in self.cells
            if cell.arm == arm and cell.size == size and cell.value(name) is not None
        ]
        return {cell.seed: cell for cell in sorted(found, key=lambda cell: cell.seed)}

    def interval(self, arm: str, size: int | None, *, metric: str | None = None) -> Interval | None:
        """Return a table entry: mean and 95 % interval over seeds, or None without a run."""
        name = metric or self.metric.name
        cells = self.finished(arm, size, metric=name).values()
        values = [value for cell in cells if (value := cell.value(name)) is not None]
        return t_interval(values) if values else None

    def config_differences(self) -> list[tuple[str, list[str]]]:
        """Return the config keys in which arms differ, each with one text per arm.

        Seed and size are left out. Where a key varies within an arm, its values are listed.
        """
        flat = {arm: [_settings(c.record) for c in self.cells if c.arm == arm] for arm in self.arms}
        known = {arm: [settings for settings in runs if settings] for arm, runs in flat.items()}
        keys = sorted({key for runs in known.values() for settings in runs for key in settings})
        rows = []
        for key in keys:
            texts = [
                ", ".join(dict.fromkeys(s.get(key, "not set") for s in known[arm])) or "no run yet"
                for arm in self.arms
            ]
            if len({text for text in texts if text != "no run yet"}) > 1:
                rows.append((key, texts))
        return rows

    def versions(self) -> dict[str, list[str]]:
        """Return every library with the versions that the runs were made with, mostly one."""
        found: dict[str, list[str]] = {}
        for cell in self.cells:
            for name, version in (cell.record.versions if cell.record else {}).items():
                if version and version not in found.setdefault(name, []):
                    found[name].append(version)
        return found


def load(directory: Path) -> list[Comparison]:
    """Read what `directory` holds: an output folder, a comparison or a run.

    Raises:
        ConfigError: It is none of these or empty, a file in it is damaged, or its records were
            written by versions of the program whose numbers differ.
    """
    if (directory / PLAN).is_file():
        return [_planned(directory)]
    if (directory / records.FILE).is_file():
        return [_unplanned(directory.resolve().name[:12], [directory])]
    plans = sorted(directory.glob(f"comparisons/*/{PLAN}"))
    if plans:
        return [_planned(plan.parent) for plan in plans]
    runs = sorted(path.parent for path in directory.glob(f"runs/*/{records.FILE}"))
    if runs:
        return [_unplanned(directory.resolve().name, runs)]
    problem = "holds no finished run" if directory.is_dir() else "is not a folder"
    raise ConfigError(
        f"{directory} {problem}; give an output folder (with runs/ or comparisons/), "
        "a folder in its comparisons/, or one in its runs/"
    )


def _planned(folder: Path) -> Comparison:
    path = folder / PLAN
    runs = folder.resolve().parent.parent / "runs"
    try:
        plan = json.loads(path.read_text())
        rows = [
            (str(c["key"]), str(c["arm"]), c["size"], int(c["seed"]), str(c.get("command", "")))
            for c in plan["cells"]
        ]
        rows = list(dict.fromkeys(rows))
        names = [str(plan[key] or "") for key in ("name", "reference", "metric", "command")]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a plan of warmstart ({type(error).__name__}: {error}); "
            "delete it and start the comparison again"
        ) from error
    if not rows:
        raise ConfigError(f"{path} plans no cell; start the comparison again with arms and seeds")
    twice = [place for place, count in Counter(row[1:4] for row in rows).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{path} plans arm {twice[0][0]!r} at size {twice[0][1]} with seed {twice[0][2]} "
            "twice; give cells that differ different arms"
        )
    cells = tuple(Cell(*row, runs / row[0], records.read(runs / row[0])) for row in rows)
    _check_versions(folder, cells)
    return Comparison(names[0], names[1], Metric(names[2]), names[3], cells)


def _unplanned(name: str, folders: list[Path]) -> Comparison:
    found = [(folder, run) for folder in folders if (run := records.read(folder))]
    labels = _labels([run for _, run in found])
    cells = [
        Cell(run.key, arm, _size(run), run.seed, _command(run), folder, run)
        for (folder, run), arm in zip(found, labels, strict=True)
    ]
    # Scratch is the reference where there is any: what starts with it comes first.
    cells.sort(key=lambda c: (not c.arm.startswith("scratch"), c.arm, c.size or 0, c.seed))
    _check_versions(folders[0].parent, cells)
    tested = any("test/accuracy" in run.metrics for _, run in found)
    metric = Metric("test/accuracy" if tested else "val/accuracy")
    return Comparison(name, cells[0].arm, metric, "", tuple(cells))


def _labels(runs: list[Record]) -> list[str]:
    """Return init/strategy per run, with more settings where that leaves two runs in one place."""
    plain = [f"{run.choices.get('init', '?')}/{run.choices.get('strategy', '?')}" for run in runs]
    settings = [_settings(run) for run in runs]

    def place(index: int, label: str) -> tuple[str, int | None, int]:
        return label, _size(runs[index]), runs[index].seed

    labels = list(plain)
    for name in sorted(set(plain)):
        members = [i for i, label in enumerate(plain) if label == name]
        if len({place(i, name) for i in members}) == len(members):
            continue
        keys = sorted({key for i in members for key in settings[i]})
        varied = [k for k in keys if len({settings[i].get(k, "not set") for i in members}) > 1]
        for i in members:
            labels[i] = " ".join([name, *(f"{k}={settings[i].get(k, 'not set')}" for k in varied)])
    counts = Counter(place(i, label) for i, label in enumerate(labels))
    return [
        f"{label} {runs[i].key[:8]}" if counts[place(i, label)] > 1 else label
        for i, label in enumerate(labels)
    ]


def _size(run: Record) -> int | None:
    size = run.config.get("data", {}).get("per_class")
    return None if size is None else int(size)


def _command(run: Record) -> str:
    command = run.environment.get("command", "")
    return command if isinstance(command, str) else " ".join(map(str, command))


def _settings(run: Record | None) -> dict[str, str]:
    """Return a run's flattened config without seed and size; empty without a run.

    The weights' name is no part of the config (a path must not change a key), but it is what a
    reader asks for first.
    """
    if run is None:
        return {}
    flat = _flatten("", run.config) | _flatten("input", run.input)
    if run.init.get("weights"):
        flat["init.weights"] = str(run.init["weights"])
    return {key: text for key, text in flat.items() if key not in CELL_KEYS}


def _flatten(prefix: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        parts = [_flatten(f"{prefix}.{key}" if prefix else str(key), item) for key, item in pairs]
        return {key: text for part in parts for key, text in part.items()}
    return {prefix: value if isinstance(value, str) else json.dumps(value)}


def _check_versions(folder: Path, cells: Sequence[Cell]) -> None:
    counts = Counter(cell.record.result_version for cell in cells if cell.record)
    if len(counts) > 1:
        parts = ", ".join(f"{count} of version {v}" for v, count in sorted(counts.items()))
        raise ConfigError(
            f"{folder} mixes results that cannot be compared ({parts}); delete the runs of the "
            "older version and run them again"
        )
