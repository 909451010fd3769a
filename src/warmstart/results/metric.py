"""How a metric and a training size are named, scaled and printed, wherever a result is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a sweep wants the names of sizes alone, not scipy
    from warmstart.results.statistics import Interval

# Training images: a whole number per class, a share of each class in (0, 1], or None for all.
Size = int | float | None

PERCENT = ("accuracy", "f1", "calibration_error")
LOWER_IS_BETTER = ("loss", "error")
NAMES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "macro_accuracy": "macro accuracy",
    "macro_f1": "macro F1",
    "calibration_error": "calibration error",
    "loss": "loss",
}
SPLITS = {"val": "validation"}


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of a record by its name, for example ``test/accuracy``."""

    name: str

    @property
    def split(self) -> str:
        """The split in words: ``test`` or ``validation``."""
        split = self.name.partition("/")[0]
        return SPLITS.get(split, split)

    @property
    def quantity(self) -> str:
        """What is measured in words, without the split: ``macro F1``."""
        short = self.name.rpartition("/")[2]
        return NAMES.get(short, short.replace("_", " "))

    @property
    def heading(self) -> str:
        """The quantity with a capital letter: ``Macro F1``."""
        return self.quantity[0].upper() + self.quantity[1:]

    @property
    def label(self) -> str:
        """Split and quantity in words: ``test accuracy``."""
        return f"{self.split} {self.quantity}"

    @property
    def higher_is_better(self) -> bool:
        """False for losses and errors."""
        return not self.name.endswith(LOWER_IS_BETTER)

    @property
    def factor(self) -> float:
        """What a value is multiplied with before it is shown: 100 for shares, else 1."""
        return 100.0 if self.name.endswith(PERCENT) else 1.0

    @property
    def unit(self) -> str:
        """``%`` or nothing."""
        return "%" if self.factor == 100 else ""

    @property
    def difference_unit(self) -> str:
        """``points`` (percentage points) or nothing."""
        return "points" if self.factor == 100 else ""

    def value(self, value: float, *, sign: bool = False) -> str:
        """Return a value scaled and rounded: ``93.1``, or ``+3.1`` with a sign."""
        digits = 1 if self.factor == 100 else 3
        # Adding 0 turns a rounded -0.0 into 0.0.
        return f"{round(value * self.factor, digits) + 0.0:{'+' if sign else ''}.{digits}f}"

    def ends(self, interval: Interval, *, sign: bool = False) -> str:
        """Return an interval's ends: ``[91.2, 95.0]``, or a dash where there is none."""
        if interval.low is None or interval.high is None:
            return "-"
        low, high = self.value(interval.low, sign=sign), self.value(interval.high, sign=sign)
        return f"[{low}, {high}]"


def training_size(per_class: int | None, fraction: float | None) -> Size:
    """Return the size that ``data.per_class`` and ``data.fraction`` give, at most one of them."""
    if per_class is not None:
        return int(per_class)
    return None if fraction is None else float(fraction)


def size_label(size: Size) -> str:
    """Return a training size as a short text: ``all``, ``20`` or ``10 %``."""
    if size is None:
        return "all"
    return f"{100 * size:g} %" if isinstance(size, float) else str(size)


def size_phrase(size: Size) -> str:
    """Return a training size in words: ``all images``, ``20 per class``, ``10 % of the images``."""
    if size is None:
        return "all images"
    return f"{size_label(size)} {'of the images' if isinstance(size, float) else 'per class'}"


def sizes_phrase(sizes: Sequence[Size], *, unit: bool = True) -> str:
    """Return sizes in a sentence: ``1, 2 and 5 images per class and all images``.

    Args:
        sizes: In ascending order, None last.
        unit: Say what the numbers count, as at their first mention.
    """
    numbers = [size_label(size) for size in sizes if size is not None]
    words = f" image{'' if numbers == ['1'] else 's'} per class"
    if any(isinstance(size, float) for size in sizes):
        words = " of the training images"
    parts = [joined(numbers) + (words if unit else "")] if numbers else []
    return " and ".join([*parts, "all images"] if None in sizes else parts)


def joined(texts: Sequence[str]) -> str:
    """Return texts as a list in a sentence: ``a, b and c``."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def size_axis(sizes: Sequence[Size]) -> str:
    """Return what the sizes of a comparison count, as the heading of a column or an axis."""
    shares = any(isinstance(size, float) for size in sizes)
    return "share of the training images" if shares else "training images per class"


def mixture(sizes: Sequence[Size], folds: Sequence[int | None]) -> str:
    """Return why runs of such sizes and folds are no comparison, and the way out; else nothing."""
    shares = [size for size in sizes if isinstance(size, float)]
    counts = [size for size in sizes if isinstance(size, int)]
    if shares and counts:
        return (
            f"sizes are given as images per class (data.per_class={counts[0]}) and as shares "
            f"(data.fraction={shares[0]}), which have no common axis; give one of the two"
        )
    cut = [fold for fold in folds if fold is not None]
    if cut and None in folds:
        return (
            f"some runs are folds of a cross-validation (data.fold={cut[0]}) and others are not, "
            "so that they test on other images; give data.folds and data.fold to all or to none"
        )
    return ""
