"""Differences of the arms to the reference arm: paired where they may be, and their intervals."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from warmstart.results import predictions
from warmstart.results.comparison import Cell, Comparison, mean
from warmstart.results.metric import Size
from warmstart.results.record import Record
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
# The cells of an entry by seed or fold: see `Comparison.repetitions`.
Repetitions = Mapping[int, tuple[Cell, ...]]
# What two runs must share to be paired, and its name in a sentence.
PAIRED_BY = {
    "data": "set of images",
    "split": "data split",
    "order": "batch order",
    "augment": "augmentation",
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """One arm minus the reference arm at one size.

    Attributes:
        arm: The compared arm.
        size: How many images train.
        over: ``seeds`` or ``folds``: what the interval is over.
        interval: 95 % over seeds, the test set (or all folds) fixed; or over the folds of one seed.
        simultaneous: The same, wide enough for all differences of the comparison at once.
        over_images: 95 % over seeds and test images; None where it cannot be had, as with one seed.
        p: Sign-flip p-value after Holm's correction; None where n is too small, or not paired, or
            over folds.
        unpaired_because: What differs between the runs of a seed; empty for paired differences.
        preprocessing: Names of what differs in the runs' inputs, as in ``mean, std``; or empty.
        outcome: ``ahead``, ``behind``, ``none`` (no difference shown) or ``unknown`` (too few
            seeds), by the simultaneous interval and the metric's better direction.
    """

    arm: str
    size: Size
    over: str
    interval: Interval
    simultaneous: Interval
    over_images: Interval | None
    p: float | None
    unpaired_because: str
    preprocessing: str
    outcome: str

    @property
    def paired(self) -> bool:
        """Whether the difference was taken seed by seed, or fold by fold."""
        return not self.unpaired_because


def differences(comparison: Comparison) -> list[Difference]:
    """Return the difference to the reference for each other arm and size with runs in both.

    The family of a correction is every difference over two repetitions or more. A permutation p is
    given only over seeds, and where its smallest possible value, times the size of the family, is
    under 0.05.

    Raises:
        ConfigError: A file of predictions is damaged.
    """
    pairs = _pairs(comparison)
    over, folds = comparison.repeated, comparison.correction
    reasons = [_unpaired_because(mine, reference, over) for _, _, mine, reference in pairs]
    values = [
        _values(mine, reference, comparison.metric.name, paired=not reason)
        for (_, _, mine, reference), reason in zip(pairs, reasons, strict=True)
    ]
    plain = _intervals(values, reasons, level=LEVEL, folds=folds)
    family = max(1, sum(min(len(a), len(b)) > 1 for a, b in values))
    wide = _intervals(values, reasons, level=1 - (1 - LEVEL) / family, folds=folds)
    pvalues = [None] * len(pairs) if folds else _corrected(values, reasons, family=family)
    correctness = _Correctness(comparison.metric.name)
    higher = comparison.metric.higher_is_better
    return [
        Difference(
            *pair[:2],
            over=over,
            interval=interval,
            simultaneous=simultaneous,
            # One seed has no scatter over seeds, to which that over images could be added.
            over_images=None if reason or folds else correctness.interval(*pair[2:]),
            p=p,
            unpaired_because=reason,
            preprocessing=_preprocessing(*pair[2:]),
            outcome=_outcome(simultaneous, higher_is_better=higher),
        )
        for pair, reason, interval, simultaneous, p in zip(
            pairs, reasons, plain, wide, pvalues, strict=True
        )
    ]


def _pairs(comparison: Comparison) -> list[tuple[str, Size, Repetitions, Repetitions]]:
    return [
        (arm, size, mine, reference)
        for arm in comparison.arms
        if (partner := comparison.reference_of(arm)) is not None
        for size in comparison.sizes
        if (mine := comparison.repetitions(arm, size))
        and (reference := comparison.repetitions(partner, size))
    ]


def _shared(mine: Repetitions, reference: Repetitions) -> list[tuple[Record, Record]]:
    """Return the records of the same seed and fold."""
    return [
        (a.record, b.record)
        for number in mine
        if number in reference
        for a, b in zip(mine[number], reference[number], strict=True)
        if a.record is not None and b.record is not None
    ]


def _unpaired_because(mine: Repetitions, reference: Repetitions, over: str) -> str:
    shared = _shared(mine, reference)
    if not shared:
        return f"the {over} differ"
    differing = [
        words
        for digest, words in PAIRED_BY.items()
        if any(
            digest not in a.digests or a.digests[digest] != b.digests.get(digest) for a, b in shared
        )
    ]
    if not differing:
        return ""
    return f"the {' and the '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}"


def _preprocessing(mine: Repetitions, reference: Repetitions) -> str:
    """Return the names of what differs in what the models see, or nothing."""
    shared = _shared(mine, reference)
    names = dict.fromkeys(name for a, b in shared for name in (*a.input, *b.input))
    return ", ".join(
        name for name in names if any(a.input.get(name) != b.input.get(name) for a, b in shared)
    )


def _values(
    mine: Repetitions, reference: Repetitions, metric: str, *, paired: bool
) -> tuple[list[float], list[float]]:
    shared = [number for number in mine if number in reference]
    first, second = (
        [mean(side[number], metric) for number in (shared if paired else side)]
        for side in (mine, reference)
    )
    return first, second


def _intervals(
    values: list[tuple[list[float], list[float]]],
    reasons: list[str],
    *,
    level: float,
    folds: int | None,
) -> list[Interval]:
    return [
        (unpaired_difference if reason else paired_difference)(a, b, level=level, folds=folds)
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
        self.ids: deque[np.ndarray] = deque(maxlen=16)  # of folds, for example

    def interval(self, mine: Repetitions, reference: Repetitions) -> Interval | None:
        """Return the interval over seeds and images; None without all predictions of one set."""
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        for number in mine:
            if number in reference:
                row = self._differences(mine[number], reference[number])
                if row is None or (rows and not np.array_equal(rows[0][0], row[0])):
                    return None
                rows.append(row)
        return crossed_interval(np.stack([values for _, values in rows]))

    def _differences(
        self, mine: Sequence[Cell], reference: Sequence[Cell]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the images of one seed, all folds together, and the difference on each.

        An image weighs as much as its fold, so that their mean is the mean of the folds. Where
        folds share images, as with a test split that the data gives, it has its mean over folds.
        """
        names, values = [], []
        for a, b in zip(mine, reference, strict=True):
            first, second = self._of(a.folder), self._of(b.folder)
            if first is None or second is None or not np.array_equal(first[0], second[0]):
                return None
            names.append(first[0])
            values.append((first[1].astype(float) - second[1]) / len(first[0]) / len(mine))
        ids, places = np.unique(np.concatenate(names), return_inverse=True)
        return ids, len(ids) * np.bincount(places, weights=np.concatenate(values))

    def _of(self, folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
        if folder not in self.cache:
            found = predictions.read(folder, self.split) if self.split else None
            self.cache[folder] = (self._shared(found.ids), found.right) if found else None
        return self.cache[folder]

    def _shared(self, ids: np.ndarray) -> np.ndarray:
        """Return the ids of an earlier run where they are the same, as they mostly are."""
        known = next((other for other in self.ids if np.array_equal(other, ids)), None)
        if known is None:
            self.ids.append(ids)
        return ids if known is None else known
