"""The values that a search may try: ranges of numbers, and lists of values."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from warmstart.errors import ConfigError
from warmstart.targets import no_key

Value = bool | int | float | str | None
_RANGE = ("low", "high", "log", "points")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`.

    Attributes:
        log: Equal ratios count the same, not equal differences.
        points: So many of them make a grid, ends included; None where none was given.
    """

    low: float
    high: float
    log: bool
    points: int | None

    def grid(self) -> list[float]:
        """Return the points, equally far from one another."""
        assert self.points is not None
        if self.points == 1:
            return [self._from(0.5)]
        return [self._from(index / (self.points - 1)) for index in range(self.points)]

    def narrowed(self, best: float, factor: float) -> Range:
        """Return a range of a width that is smaller by `factor`, around the best value.

        At an edge it is cut: what lies outside was not asked for.
        """
        centre, half = self._to(best), 0.5 / factor
        low, high = (self._from(min(1.0, max(0.0, centre + side))) for side in (-half, half))
        return dataclasses.replace(self, low=low, high=high)

    def rounded(self, value: float) -> float:
        """Return a value with three digits, which is all that a recipe needs."""
        return min(self.high, max(self.low, float(f"{value:.3g}")))

    def ends(self) -> list[float]:
        """Return the values at which a run can fail first."""
        return [self.low, self.high]

    def as_dict(self) -> dict[str, Any]:
        """Return it as readers of a tuning get it."""
        return {"low": self.low, "high": self.high, "log": self.log}

    def _from(self, place: float) -> float:
        """Return the value at a place in [0, 1]."""
        if self.log:
            return self.rounded(self.low * (self.high / self.low) ** place)
        return self.rounded(self.low + (self.high - self.low) * place)

    def _to(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A list of values."""

    values: tuple[Value, ...]

    def grid(self) -> list[Value]:
        """Return all of them."""
        return list(self.values)

    def narrowed(self, best: Value, factor: float) -> Choice:
        """Return it as it is: a list has no neighbourhood."""
        return self

    def rounded(self, value: Value) -> Value:
        """Return the value."""
        return value

    def ends(self) -> list[Value]:
        """Return all of them: each may be one that no run can take."""
        return list(self.values)

    def as_dict(self) -> dict[str, Any]:
        """Return it as readers of a tuning get it."""
        return {"values": list(self.values)}


Axis = Range | Choice
Space = dict[str, Axis]
"""By key, ``optimizer.lr`` for example."""


def read(node: Any) -> Space:
    """Return the space that ``search.space`` describes.

    Raises:
        ConfigError: A range or list cannot be, or nothing is searched.
    """
    space = {key: _axis(key, axis) for key, axis in _entries(node, "")}
    if not space:
        raise ConfigError(
            "search.space has no key, so nothing is searched; give one a range, for example "
            "search.space.optimizer.lr={low: 1e-4, high: 0.1, log: true, points: 4}"
        )
    return space


def extremes(space: Space) -> list[dict[str, Value]]:
    """Return points of the space that have the ends of each axis, others at their first value."""
    first = {key: axis.ends()[0] for key, axis in space.items()}
    found = [{**first, key: end} for key, axis in space.items() for end in axis.ends()[1:]]
    return [first, *found]


def combinations(space: Space) -> list[dict[str, Value]]:
    """Return all points of a grid, the last key the fastest."""
    axes = [axis.grid() for axis in space.values()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]


def narrowed(space: Space, best: Mapping[str, Any], factor: float) -> Space:
    """Return the space around the best values."""
    return {key: axis.narrowed(best[key], factor) for key, axis in space.items()}


def holds(space: Space, values: Mapping[str, Any]) -> bool:
    """Return whether the values lie in the space."""
    return all(
        axis.low <= values[key] <= axis.high if isinstance(axis, Range) else True
        for key, axis in space.items()
    )


def _entries(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys, and what stands there; null takes a key out of the space."""
    if not isinstance(node, Mapping):
        raise ConfigError(
            f"search.space{'.' * bool(path)}{path} is {node!r}, but must be a range {{low, high, "
            "log, points}, a list {values: [...]}, or null"
        )
    for name, below in node.items():
        key = f"{path}.{name}" if path else str(name)
        if below is None:
            continue
        if isinstance(below, Mapping) and (set(below) & {*_RANGE, "values"}):
            yield key, below
        else:
            yield from _entries(below, key)


def _axis(key: str, node: Mapping[str, Any]) -> Axis:
    name = f"search.space.{key}"
    if "values" in node:
        return _choice(name, node)
    for part in node:
        if part not in _RANGE:
            raise no_key(f"{name}.{part}", (*_RANGE, "values"))
    for part in ("low", "high"):
        value = node.get(part)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise ConfigError(f"{name}.{part} is {value!r}, but must be a number")
    low, high, log = float(node["low"]), float(node["high"]), node.get("log", False)
    points = node.get("points")
    if not isinstance(log, bool):
        raise ConfigError(f"{name}.log is {log!r}, but must be true or false")
    if low >= high:
        raise ConfigError(f"{name} is from {low:g} to {high:g}, but low must be below high")
    if log and low <= 0:
        raise ConfigError(
            f"{name}.low is {low:g}, but a logarithmic range starts above 0; give another low, or "
            "log: false"
        )
    if points is not None and (type(points) is not int or points < 1):
        raise ConfigError(f"{name}.points is {points!r}, but must be a whole number of at least 1")
    return Range(low, high, log, points)


def _choice(name: str, node: Mapping[str, Any]) -> Choice:
    values = node["values"]
    # A range of the defaults stays beneath a list that is given in its place, as YAML is merged.
    if any(part not in (*_RANGE, "values") for part in node):
        raise no_key(f"{name}.{sorted(set(node) - {*_RANGE, 'values'})[0]}", (*_RANGE, "values"))
    plain = (bool, int, float, str, type(None))
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(value, plain) for value in values)
    ):
        raise ConfigError(f"{name}.values is {values!r}, but must be a list of plain values")
    # As text, so that 1 and true are two.
    if len(set(map(repr, values))) < len(values):
        raise ConfigError(
            f"{name}.values is {values!r}, but a value given twice is not tried twice; give each "
            "once"
        )
    return Choice(tuple(values))
