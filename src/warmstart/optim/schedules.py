"""Learning-rate schedules: functions from the step to a factor on the base rate.

All but one-cycle, which rises by itself, have a linear warm-up, ``(step + 1) / warmup_steps``. Most
are then a function of the progress t in [0, 1) over the remaining steps.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from warmstart.errors import ConfigError

Schedule = Callable[[int], float]


def constant(*, steps: int, warmup_steps: int = 0) -> Schedule:
    """Keep the base rate."""
    return _with_warmup(lambda t: 1.0, steps, warmup_steps)


def step(
    *,
    steps: int,
    steps_per_epoch: float = math.nan,
    warmup_steps: int = 0,
    at: Sequence[float] | None = (0.5, 0.75),
    at_epochs: Sequence[float] | None = None,
    factor: float = 0.1,
) -> Schedule:
    """Multiply the rate by `factor` at each of the fractions `at` of the progress, or in epochs.

    Args:
        steps: Of the schedule.
        steps_per_epoch: Of one pass over the training images.
        warmup_steps: Of the linear warm-up.
        at: Fractions in (0, 1) of the steps after the warm-up.
        at_epochs: Instead of these: after so many epochs, those of the warm-up among them.
        factor: In [0, 1].
    """
    if (at is None) == (at_epochs is None):
        raise ConfigError(
            f"scheduler.at is {at} and scheduler.at_epochs is {at_epochs}; give exactly one of "
            "them: fractions between 0 and 1, or epochs (scheduler.at=null "
            "scheduler.at_epochs=[30,60], for example)"
        )
    if not _is_number(factor) or not 0 <= factor <= 1:
        raise ConfigError(f"scheduler.factor is {factor!r}, but must be a number in [0, 1]")
    if at_epochs is not None:
        first = _epoch_steps(at_epochs, steps_per_epoch, steps, warmup_steps)
        warmup = _with_warmup(lambda t: 1.0, steps, warmup_steps)
        return lambda now: warmup(now) * factor ** sum(now >= start for start in first)
    assert at is not None
    if not isinstance(at, Sequence) or not all(_is_number(f) and 0 < f < 1 for f in at):
        raise ConfigError(
            f"scheduler.at is {at!r}, but must be a list of fractions between 0 and 1"
        )
    return _with_warmup(lambda t: factor ** sum(t >= f for f in at), steps, warmup_steps)


def cosine(*, steps: int, warmup_steps: int = 0) -> Schedule:
    """Fall as (1 + cos(pi t)) / 2.

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017, eq. 5,
    without restarts.
    """
    return _with_warmup(_half_cosine, steps, warmup_steps)


def linear(*, steps: int, warmup_steps: int = 0) -> Schedule:
    """Fall as 1 - t."""
    return _with_warmup(lambda t: 1 - t, steps, warmup_steps)


def inverse_sqrt(*, steps: int, warmup_steps: int = 0) -> Schedule:
    """Fall as sqrt(w / s) at the s-th step, after w of warm-up (w = 1 where there is none).

    Vaswani et al., Attention Is All You Need, NIPS 2017, eq. 3, scaled to the base rate at its top.
    """
    warmup = _with_warmup(lambda t: 1.0, steps, warmup_steps)
    top = max(1, warmup_steps)
    return lambda now: min(warmup(now), math.sqrt(top / (now + 1)))


def one_cycle(
    *, steps: int, peak_at: float = 0.3, initial: float = 0.04, final: float = 4e-6
) -> Schedule:
    """Rise from `initial` to the base rate at the fraction `peak_at`, then fall towards `final`.

    Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates, 2018, section 3, with half cosines in place of lines, as in fastai (Howard and Gugger,
    2020) and in torch, whose defaults these are. The momentum stays as it is.
    """
    if not _is_number(peak_at) or not 0 < peak_at < 1:
        raise ConfigError(
            f"scheduler.peak_at is {peak_at!r}, but must be a fraction of the run above 0 and "
            "below 1"
        )
    for name, value in (("initial", initial), ("final", final)):
        if not _is_number(value) or not 0 <= value <= 1:
            raise ConfigError(
                f"scheduler.{name} is {value!r}, but must be a factor on the rate in [0, 1]"
            )

    def factor(now: int) -> float:
        t = now / steps
        if t < peak_at:
            return 1 - (1 - initial) * _half_cosine(t / peak_at)
        return final + (1 - final) * _half_cosine((t - peak_at) / (1 - peak_at))

    return factor


def sgdr(*, steps: int, warmup_steps: int = 0, cycles: int = 4, growth: float = 1.0) -> Schedule:
    """Fall as a cosine, and begin anew at each of the `cycles`.

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017, eq. 5.

    Args:
        steps: Of all cycles.
        warmup_steps: Of the linear warm-up, the first part of the first cycle.
        cycles: Their number.
        growth: Each is so many times as long as the one before (T_mult there).
    """
    ends = cycle_ends(steps=steps, cycles=cycles, growth=growth)
    starts = [0, *(end + 1 for end in ends)]
    first = _with_warmup(_half_cosine, starts[1], warmup_steps, what="the first cycle")
    later = [cosine(steps=end - start) for start, end in pairwise(starts[1:])]
    parts = [first, *later]

    def factor(now: int) -> float:
        cycle = bisect_left(ends, now)
        return parts[cycle](now - starts[cycle])

    return factor


def cycle_ends(*, steps: int, cycles: int, growth: float) -> list[int]:
    """Return the last step of each cycle of `sgdr`; that of the last one is ``steps - 1``.

    Raises:
        ConfigError: There are no such cycles, or more than steps.
    """
    if isinstance(cycles, bool) or not isinstance(cycles, int) or cycles < 1:
        raise ConfigError(
            f"scheduler.cycles is {cycles!r}, but must be a whole number of at least 1"
        )
    if not _is_number(growth) or not 0 < growth < math.inf:
        raise ConfigError(f"scheduler.growth is {growth!r}, but must be a number above 0")
    # Shares of the longest, so that no power overflows.
    order = [min(growth, 1 / growth) ** number for number in range(cycles)]
    shares = order if growth <= 1 else order[::-1]
    whole = math.fsum(shares)
    bounds = [0, *(round(steps * share / whole) for share in accumulate(shares))]
    if any(start >= end for start, end in pairwise(bounds)):
        raise ConfigError(
            f"scheduler.cycles is {cycles} with scheduler.growth {growth}, but {steps} steps are "
            "too few for a step in each; give fewer cycles, or a longer run"
        )
    return [bound - 1 for bound in bounds[1:]]


def restarted(make: Callable[[int], Schedule], starts: Sequence[int], *, steps: int) -> Schedule:
    """Return a schedule that begins anew at each of `starts`, over the steps up to the next.

    Args:
        make: Returns the schedule of so many steps.
        starts: Rising, the first of them 0.
        steps: Of the whole.

    Raises:
        ConfigError: `make` says so of one of the lengths, or the rates are those without restarts.
    """
    parts = [make(end - start) for start, end in pairwise([*starts, steps])]

    def factor(now: int) -> float:
        part = bisect_right(starts, now) - 1
        return parts[part](now - starts[part])

    plain = make(steps)
    if all(factor(now) == plain(now) for now in range(steps)):
        raise ConfigError(
            "strategy.restart_schedule is true, but changes no rate of the run; leave it out, or "
            "choose several phases with a scheduler that is not constant (scheduler=cosine)"
        )
    return factor


def _half_cosine(t: float) -> float:
    return (1 + math.cos(math.pi * t)) / 2


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _epoch_steps(
    at_epochs: Sequence[float], steps_per_epoch: float, steps: int, warmup_steps: int
) -> list[int]:
    """Return the first step after each of the epochs."""
    if not isinstance(at_epochs, Sequence) or not all(_is_number(e) and e > 0 for e in at_epochs):
        raise ConfigError(
            f"scheduler.at_epochs is {at_epochs!r}, but must be a list of numbers above 0"
        )
    # Rounded, since a product such as 3 x (10 / 3) may lie a hair above the whole number.
    first = [math.ceil(round(epoch * steps_per_epoch, 6)) for epoch in at_epochs]
    for epoch, start in zip(at_epochs, first, strict=True):
        if not warmup_steps <= start < steps:
            raise ConfigError(
                f"scheduler.at_epochs has {epoch}, which is step {start}, but must lie behind the "
                f"warm-up of {warmup_steps} steps and before the end at step {steps} "
                f"({steps / steps_per_epoch:.4g} epochs); give other epochs, or a longer run"
            )
    return first


def _with_warmup(
    shape: Callable[[float], float], steps: int, warmup_steps: int, *, what: str = "the schedule"
) -> Schedule:
    if isinstance(warmup_steps, bool) or not isinstance(warmup_steps, int) or warmup_steps < 0:
        raise ConfigError(
            f"scheduler.warmup_steps is {warmup_steps!r}, but must be a whole number of at least 0"
        )
    if warmup_steps and warmup_steps >= steps:
        raise ConfigError(
            f"scheduler.warmup_steps is {warmup_steps}, but {what} has only {steps} steps; "
            "give fewer, or a longer run"
        )

    def factor(now: int) -> float:
        if now < warmup_steps:
            return (now + 1) / warmup_steps
        return shape((now - warmup_steps) / (steps - warmup_steps))

    return factor
