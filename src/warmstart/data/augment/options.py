"""Checks of the values of ``augment=``, each with a sentence that says what is possible."""

from __future__ import annotations

import math
from collections.abc import Sequence

from warmstart.errors import ConfigError


def number(name: str, value: float, *, most: float = math.inf, unit: str = "") -> float:
    """Return a number in [0, most], of which 0 means "off"."""
    if not _is_number(value) or not 0 <= value <= most:
        raise ConfigError(f"augment.{name} is {value!r}, but must be {_interval(0, most)}{unit}")
    return float(value)


def share(name: str, value: float) -> float:
    """Return a share of the images, in [0, 1]."""
    return number(name, value, most=1, unit=", a share of the images")


def whole(name: str, value: int, *, least: int, most: float = math.inf, unit: str = "") -> int:
    """Return a whole number in [least, most]."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = f"{least} or more" if most == math.inf else f"from {least} to {most:g}"
        raise ConfigError(f"augment.{name} is {value!r}, but must be a whole number{unit}, {limit}")
    return value


def pair(
    name: str, values: Sequence[float], *, least: float = 0, most: float = math.inf
) -> tuple[float, float]:
    """Return two numbers, the lower first, both positive and in [least, most]."""
    possible = isinstance(values, Sequence) and len(values) == 2 and all(map(_is_number, values))
    if not possible or not max(least, 1e-9) <= values[0] <= values[1] <= most:
        low = f"{least:g} or more" if least else "above 0"
        high = f", at most {most:g}" if most < math.inf else ""
        raise ConfigError(
            f"augment.{name} is {values!r}, but must be two numbers, the lower first, {low}{high}"
        )
    return float(values[0]), float(values[1])


def refuse_idle(name: str, value: object, reader: str) -> None:
    """Refuse a value that is set although nothing reads it.

    Args:
        name: Key of ``augment=``.
        value: None where it is not set.
        reader: What would read it, for example ``augment.crop=shift``.
    """
    if value is not None:
        raise ConfigError(
            f"augment.{name} is {value!r}, but takes effect only with {reader}; "
            f"add that, or leave augment.{name} at null"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _interval(least: float, most: float) -> str:
    return f"a number of at least {least:g}" if most == math.inf else f"in [{least:g}, {most:g}]"
