"""Planned cells and the records found for them: what a report is made from."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

from warmstart.results.metric import Metric, Size, size_phrase
from warmstart.results.record import Record
from warmstart.results.statistics import Interval, t_interval


@dataclasses.dataclass(frozen=True)
class Cell:
    """One planned run: an arm at a size with a seed, and its record where there is one.

    Attributes:
        key: The identity of the run.
        arm: Label of the table row.
        size: How many images train.
        seed: The run's seed.
        fold: Which part of a cross-validation it evaluates; None without one.
        command: What repeats this run.
        folder: Where its files are, or would be.
        record: None where the run has not ended.
        sentences: What to look at in it, see `warmstart.results.advice`.
    """

    key: str
    arm: str
    size: Size
    seed: int
    fold: int | None
    command: str
    folder: Path
    record: Record | None
    sentences: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """``finished``, ``failed`` or ``missing``."""
        return self.record.status if self.record else "missing"

    @property
    def place(self) -> str:
        """Where it stands in the comparison: ``scratch, 5 per class, seed 0, fold 2``."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.arm}, {size_phrase(self.size)}, seed {self.seed}{fold}"

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
        return tuple(sorted(self.by_arm, key=lambda arm: not self.is_reference(arm)))

    @functools.cached_property
    def by_arm(self) -> dict[str, tuple[Cell, ...]]:
        """The cells of each arm."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.arm, []).append(cell)
        return {arm: tuple(cells) for arm, cells in found.items()}

    @functools.cached_property
    def _by_entry(self) -> dict[tuple[str, Size], list[Cell]]:
        """The cells of each table entry, in ascending order of seeds and folds."""
        found: dict[tuple[str, Size], list[Cell]] = {}
        for cell in sorted(self.cells, key=lambda cell: (cell.seed, cell.fold or 0)):
            found.setdefault((cell.arm, cell.size), []).append(cell)
        return found

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
    def sizes(self) -> tuple[Size, ...]:
        """Training sizes in ascending order; None (all images) comes last."""
        return tuple(sorted({cell.size for cell in self.cells}, key=lambda s: (s is None, s or 0)))

    @functools.cached_property
    def folds(self) -> tuple[int, ...]:
        """Folds of the cross-validation; empty without one."""
        return tuple(sorted({cell.fold for cell in self.cells if cell.fold is not None}))

    @functools.cached_property
    def correction(self) -> int | None:
        """Into how many folds the images are cut, where folds of one seed are the repetitions.

        Then intervals need it (`t_interval`). None where seeds are the repetitions.
        """
        if not self.folds or len({cell.seed for cell in self.cells}) > 1:
            return None
        configs = [cell.record.config.get("data", {}) for cell in self.cells if cell.record]
        cuts = {int(config["folds"]) for config in configs if config.get("folds")}
        return min(cuts, default=len(self.folds))

    @property
    def repeated(self) -> str:
        """What a table entry is repeated over: ``seeds`` or ``folds``."""
        return "seeds" if self.correction is None else "folds"

    @property
    def unfinished(self) -> list[Cell]:
        """Failed cells, then missing ones, then finished ones without the compared metric."""
        kinds = ("failed", "missing", "finished")
        open_cells = [cell for cell in self.cells if cell.value(self.metric.name) is None]
        return sorted(open_cells, key=lambda cell: kinds.index(cell.status))

    def finished(self, arm: str, size: Size, *, metric: str | None = None) -> list[Cell]:
        """Return the finished cells of a table entry in ascending order of seeds and folds."""
        name = metric or self.metric.name
        entry = self._by_entry.get((arm, size), ())
        return [cell for cell in entry if cell.value(name) is not None]

    def repetitions(
        self, arm: str, size: Size, *, metric: str | None = None
    ) -> dict[int, tuple[Cell, ...]]:
        """Return the finished cells of a table entry by seed, or by fold where there is one seed.

        A seed of a cross-validation holds one cell per fold, in ascending order; without all
        folds of the comparison it is left out, as its mean would be one over other images.
        """
        found: dict[int, tuple[Cell, ...]] = {}
        for cell in self.finished(arm, size, metric=metric):
            number = cell.seed if self.correction is None or cell.fold is None else cell.fold
            found[number] = (*found.get(number, ()), cell)
        complete = max(1, len(self.folds)) if self.correction is None else 1
        return {number: cells for number, cells in found.items() if len(cells) == complete}

    def values(self, arm: str, size: Size, *, metric: str | None = None) -> list[float]:
        """Return one value per repetition of a table entry: its own, or the mean of its folds."""
        name = metric or self.metric.name
        return [mean(cells, name) for cells in self.repetitions(arm, size, metric=name).values()]

    def interval(self, arm: str, size: Size, *, metric: str | None = None) -> Interval | None:
        """Return a table entry: mean and 95 % interval over its repetitions; None without any."""
        values = self.values(arm, size, metric=metric)
        return t_interval(values, folds=self.correction) if values else None

    def noted(self, name: str) -> dict[str, str]:
        """Return what the runs note of their data: reasons by image id, or warnings as keys."""
        found: dict[str, str] = {}
        for cell in self.cells:
            notes = cell.record.data.get(name, {}) if cell.record else {}
            found |= notes if isinstance(notes, dict) else dict.fromkeys(notes, "")
        return found


def mean(cells: Sequence[Cell], metric: str) -> float:
    """Return the mean of a metric that all of the cells have."""
    values = [value for cell in cells if (value := cell.value(metric)) is not None]
    return sum(values) / len(values)
