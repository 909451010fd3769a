"""How a metric is named, scaled and printed, wherever a result is shown."""

from __future__ import annotations

import dataclasses

from warmstart.results.statistics import Interval

PERCENT = ("accuracy", "f1", "calibration_error")
LOWER_IS_BETTER = ("loss", "error")
NAMES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
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


def size_label(size: int | None) -> str:
    """Return images per class as text; None stands for all of them."""
    return "all" if size is None else str(size)
