"""Differences of the arms to the reference arm: paired where they may be, and their intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from warmstart.errors import ConfigError
from warmstart.results.comparison import Cell, Comparison
from warmstart.results.statistics import (
    Interval,
    crossed_interval,
    holm,
    paired_difference,
    sign_flip_p,
    smallest_p,
    unpaired_difference,
)

LEVEL = 0.95
# What two runs of a seed must share to be paired, and its name in a sentence.
PAIRED_BY = {
    "data": "images",
    "split": "data split",
    "order": "batch order",
    "augment": "augmentation",
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """One arm minus the reference arm at one size.

    Attributes:
        arm: The compared arm.
        size: Training images per class, or None for all.
        interval: 95 % over seeds, the test set fixed.
        simultaneous: The same, wide enough for all differences of the comparison at once.
        over_images: 95 % over seeds and test images; None where it cannot be had.
        p: Sign-flip p-value after Holm's correction; None where n is too small, or not paired.
        unpaired_because: What differs between the runs of a seed; empty for paired differences.
        outcome: ``ahead``, ``behind``, ``none`` (no difference shown) or ``unknown`` (too few
            seeds), by the simultaneous interval and the metric's better direction.
    """

    arm: str
    size: int | None
    interval: Interval
    simultaneous: Interval
    over_images: Interval | None
    p: float | None
    unpaired_because: str
    outcome: str

    @property
    def paired(self) -> bool:
        """Whether the difference was taken seed by seed."""
        return not self.unpaired_because


def differences(comparison: Comparison) -> list[Difference]:
    """Return the difference to the reference for each other arm and size with runs in both.

    The family of a correction is every difference over two seeds or more. A permutation p is given
    only where its smallest possible value, times the size of the family, is under 0.05.

    Raises:
        ConfigError: A file of predictions is damaged.
    """
    pairs = _pairs(comparison)
    reasons = [_unpaired_because(mine, reference) for _, _, mine, reference in pairs]
    values = [
        _values(mine, reference, comparison.metric.name, paired=not reason)
        for (_, _, mine, reference), reason in zip(pairs, reasons, strict=True)
    ]
    plain = _intervals(values, reasons, level=LEVEL)
    family = max(1, sum(min(len(a), len(b)) > 1 for a, b in values))
    wide = _intervals(values, reasons, level=1 - (1 - LEVEL) / family)
    pvalues = _corrected(values, reasons, family=family)
    correctness = _Correctness(comparison.metric.name)
    higher = comparison.metric.higher_is_better
    return [
        Difference(
            *pair[:2],
            interval=interval,
            simultaneous=simultaneous,
            over_images=None if reason else correctness.interval(*pair[2:]),
            p=p,
            unpaired_because=reason,
            outcome=_outcome(simultaneous, higher_is_better=higher),
        )
        for pair, reason, interval, simultaneous, p in zip(
            pairs, reasons, plain, wide, pvalues, strict=True
        )
    ]


def _pairs(
    comparison: Comparison,
) -> list[tuple[str, int | None, dict[int, Cell], dict[int, Cell]]]:
    return [
        (arm, size, mine, reference)
        for arm in comparison.arms
        if (partner := comparison.reference_of(arm)) is not None
        for size in comparison.sizes
        if (mine := comparison.finished(arm, size))
        and (reference := comparison.finished(partner, size))
    ]


def _unpaired_because(mine: Mapping[int, Cell], reference: Mapping[int, Cell]) -> str:
    shared = [seed for seed in mine if seed in reference]
    if not shared:
        return "the seeds differ"
    differing = []
    for digest, words in PAIRED_BY.items():
        for seed in shared:
            a, b = mine[seed].record, reference[seed].record
            assert a is not None
            assert b is not None
            if digest not in a.digests or a.digests[digest] != b.digests.get(digest):
                differing.append(words)
                break
    if not differing:
        return ""
    return f"the {' and the '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}"


def _values(
    mine: Mapping[int, Cell], reference: Mapping[int, Cell], metric: str, *, paired: bool
) -> tuple[list[float], list[float]]:
    shared = [seed for seed in mine if seed in reference]
    sides = [
        [side[s].value(metric) for s in (shared if paired else side)] for side in (mine, reference)
    ]
    first, second = ([v for v in side if v is not None] for side in sides)
    return first, second


def _intervals(
    values: list[tuple[list[float], list[float]]], reasons: list[str], *, level: float
) -> list[Interval]:
    return [
        (unpaired_difference if reason else paired_difference)(a, b, level=level)
        for (a, b), reason in zip(values, reasons, strict=True)
    ]


def _corrected(
    values: list[tuple[list[float], list[float]]], reasons: list[str], *, family: int
) -> list[float | None]:
    # Uncorrected 1 for an unpaired difference, which cannot be tested, keeps its place.
    raw = {
        place: 1.0 if reasons[place] else sign_flip_p(np.subtract(a, b))
        for place, (a, b) in enumerate(values)
        if min(len(a), len(b)) > 1
    }
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    return [
        None if reason or family * smallest_p(len(a)) >= 1 - LEVEL else corrected.get(place)
        for place, ((a, _), reason) in enumerate(zip(values, reasons, strict=True))
    ]


def _outcome(interval: Interval, *, higher_is_better: bool) -> str:
    if interval.low is None:
        return "unknown"
    if interval.above_zero:
        return "ahead" if higher_is_better else "behind"
    if interval.below_zero:
        return "behind" if higher_is_better else "ahead"
    return "none"


class _Correctness:
    """Which images each run classified correctly, each file read once."""

    def __init__(self, metric: str) -> None:
        self.split = metric.removesuffix("/accuracy") if metric.endswith("/accuracy") else ""
        self.cache: dict[Path, tuple[np.ndarray, np.ndarray] | None] = {}

    def interval(self, mine: Mapping[int, Cell], reference: Mapping[int, Cell]) -> Interval | None:
        """Return the interval over seeds and images; None without all predictions of one set."""
        shared = [seed for seed in mine if seed in reference]
        rows = [self._of(side[seed].folder) for side in (mine, reference) for seed in shared]
        found = [row for row in rows if row is not None]
        ids = found[0][0] if found else np.array([])
        if len(found) < len(rows) or not all(np.array_equal(ids, row[0]) for row in found):
            return None
        table = np.stack([right for _, right in found]).astype(np.int8)
        return crossed_interval(table[: len(shared)] - table[len(shared) :])

    def _of(self, folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
        if folder not in self.cache:
            self.cache[folder] = self._read(folder / "predictions.npz")
        return self.cache[folder]

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the image ids in ascending order, and for each whether it was right."""
        if not self.split or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if f"{self.split}_logits" not in arrays:
                    return None
                ids, labels = arrays[f"{self.split}_ids"], arrays[f"{self.split}_labels"]
                right = arrays[f"{self.split}_logits"].argmax(axis=1) == labels
            order = ids.argsort()
            return ids[order], right[order]
        except (ValueError, OSError, KeyError, IndexError, BadZipFile) as error:
            raise ConfigError(
                f"{path} is damaged ({error}); delete its folder and run the cell again"
            ) from error
