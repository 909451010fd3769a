"""A searched key, its range, and how its values are told."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Axis:
    """A searched key, with a range or a list of values.

    Attributes:
        key: Of the configuration, for example ``optimizer.lr``.
        values: In ascending order if all are numbers, else as given; empty for a range.
        low: Least value of a range.
        high: Greatest value of a range.
        log: Whether a range is searched evenly in the logarithm.
    """

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    @property
    def ordered(self) -> bool:
        """Whether one value is greater than another, so that the range has two ends."""
        return all(map(_is_number, self.values))

    def place(self, value: Any) -> float | None:
        """Return where a value lies between the ends, 0 to 1; None for one that is not inside."""
        if self.values:
            last = max(len(self.values) - 1, 1)
            return self.values.index(value) / last if value in self.values else None
        if not _is_number(value) or not self.low <= value <= self.high:
            return None
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (at - low) / (high - low)

    @property
    def span(self) -> str:
        """The range in words: ``0.001 to 1`` or ``a, b, c``."""
        if self.values:
            return ", ".join(map(text, self.values))
        return f"{text(self.low)} to {text(self.high)}"

    @classmethod
    def of(cls, key: str, node: Mapping[str, Any]) -> Axis:
        """Return the axis that a space describes with ``values``, or ``low``, ``high``, ``log``."""
        if "values" not in node:
            return cls(key, (), float(node["low"]), float(node["high"]), bool(node["log"]))
        values = tuple(node["values"])
        return cls(key, tuple(sorted(values)) if all(map(_is_number, values)) else values)


def text(value: Any) -> str:
    """Return a searched value for a reader, numbers to four digits."""
    return f"{value:.4g}" if _is_number(value) else exact(value)


def exact(value: Any) -> str:
    """Return a searched value as an override takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
