"""When a run has stopped getting better: a function of its validations alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

METRICS = ("accuracy", "loss")


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop when the best validation is too old.

    Attributes:
        patience: It may be so many validations old.
        metric: ``accuracy`` (higher is better) or ``loss`` (lower is).
        min_delta: By more than this a validation has to be better than the best one before.
        start: First step of the run's last phase, or when its average begins; only validations
            after it count.
    """

    patience: int
    metric: str = "accuracy"
    min_delta: float = 0.0
    start: int = 0

    def stops(self, validations: Sequence[dict[str, float]]) -> bool:
        """Return whether the run is over after these validations, as the recorder keeps them."""
        sign = -1.0 if self.metric == "loss" else 1.0
        best, age = float("-inf"), 0
        for row in validations:
            if row["step"] <= self.start:
                continue
            value, age = sign * row[self.metric], age + 1
            if value > best + self.min_delta:
                best, age = value, 0
        return age > self.patience
