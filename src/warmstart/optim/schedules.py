"""Learning-rate schedules: functions from the step to a factor on the base rate.

Each has a linear warm-up, ``(step + 1) / warmup_steps``; what follows is a function of the
progress t in [0, 1) over the remaining steps.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from warmstart.errors import ConfigError

Schedule = Callable[[int], float]


def constant(*, steps: int, warmup_steps: int = 0) -> Schedule:
    """Keep the base rate."""
    return _with_warmup(lambda t: 1.0, steps, warmup_steps)


def step(
    *, steps: int, warmup_steps: int = 0, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1
) -> Schedule:
    """Multiply the rate by `factor` at each of the fractions `at` of the progress."""
    if not isinstance(at, Sequence) or not all(_is_number(f) and 0 < f < 1 for f in at):
        raise ConfigError(
            f"scheduler.at is {at!r}, but must be a list of fractions between 0 and 1"
        )
    if not _is_number(factor) or not 0 <= factor <= 1:
        raise ConfigError(f"scheduler.factor is {factor!r}, but must be a number in [0, 1]")
    return _with_warmup(lambda t: factor ** sum(t >= f for f in at), steps, warmup_steps)


def cosine(*, steps: int, warmup_steps: int = 0) -> Schedule:
    """Fall as (1 + cos(pi t)) / 2.

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017, eq. 5,
    without restarts.
    """
    return _with_warmup(lambda t: (1 + math.cos(math.pi * t)) / 2, steps, warmup_steps)


def linear(*, steps: int, warmup_steps: int = 0) -> Schedule:
    """Fall as 1 - t."""
    return _with_warmup(lambda t: 1 - t, steps, warmup_steps)


def sgdr(*, steps: int, warmup_steps: int = 0, cycles: int = 4, growth: float = 1.0) -> Schedule:
    """Fall as `cosine` does, in `cycles` of which each is `growth` times as long as the last.

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017, eq. 5.
    The warm-up is part of the first cycle.
    """
    starts = [0, *(end + 1 for end in cycle_ends(steps=steps, cycles=cycles, growth=growth))]
    lengths = [end - start for start, end in pairwise(starts)]
    parts = [cosine(steps=lengths[0], warmup_steps=warmup_steps)]
    parts += [cosine(steps=length) for length in lengths[1:]]

    def factor(now: int) -> float:
        cycle = bisect_right(starts, now) - 1
        return parts[cycle](now - starts[cycle])

    return factor


def cycle_ends(*, steps: int, cycles: int, growth: float) -> list[int]:
    """Return the last step of each cycle of `sgdr`; the last one is steps - 1.

    Raises:
        ConfigError: A value is out of range, or there are not enough steps for so many cycles.
    """
    if isinstance(cycles, bool) or not isinstance(cycles, int) or cycles < 1:
        raise ConfigError(f"scheduler.cycles is {cycles!r}, but must be a whole number, 1 or more")
    if not _is_number(growth) or not growth > 0:
        raise ConfigError(f"scheduler.growth is {growth!r}, but must be a number above 0")
    lengths = [growth**cycle for cycle in range(cycles)]
    ends = [round(steps * sum(lengths[: cycle + 1]) / sum(lengths)) - 1 for cycle in range(cycles)]
    if any(end <= before for before, end in zip([-1, *ends], ends, strict=False)):
        raise ConfigError(
            f"scheduler.cycles is {cycles}, but {steps} steps are too few for so many cycles; give "
            "fewer, or a longer run"
        )
    return ends


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with_warmup(shape: Callable[[float], float], steps: int, warmup_steps: int) -> Schedule:
    if isinstance(warmup_steps, bool) or not isinstance(warmup_steps, int) or warmup_steps < 0:
        raise ConfigError(f"scheduler.warmup_steps is {warmup_steps!r}, but must be a whole number")
    if warmup_steps and warmup_steps >= steps:
        raise ConfigError(
            f"scheduler.warmup_steps is {warmup_steps}, but the run has only {steps} steps; "
            "give fewer, or a longer run"
        )

    def factor(now: int) -> float:
        if now < warmup_steps:
            return (now + 1) / warmup_steps
        return shape((now - warmup_steps) / (steps - warmup_steps))

    return factor
