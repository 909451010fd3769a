"""The values of a trial: a function of the search's seed, the arm, its number, and what is known.

Optuna draws them. Nothing is taken from the state of a sampler, so that a search goes on after a
kill as if there had been none.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from warmstart.randomness import derive
from warmstart.tuning.settings import Search
from warmstart.tuning.space import Axis, Range, Space, combinations, holds
from warmstart.tuning.trials import RUNNING, Trial, Wave

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_STARTUP = 4
"""So many random trials come before the estimator has something to learn from."""


def draw(
    search: Search, wave: Wave, arm: str, known: Sequence[Trial], number: int
) -> dict[str, Any]:
    """Return the values of one trial.

    Args:
        search: Which.
        wave: The trial's own.
        arm: Likewise.
        known: All earlier trials of the arm, those of its wave included, which are under way.
        number: The trial's.
    """
    if search.sampler == "grid":
        return combinations(wave.space)[
            number - (0 if not _second(search, number) else search.trials[0])
        ]
    import optuna

    seed = derive(search.seed, "search", arm, number) % 2**32
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed)
    if search.sampler == "tpe":
        # Under way: taken for bad ones, so that a wave does not try one place several times.
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=_STARTUP, constant_liar=True
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.add_trials([_frozen(t, wave.space) for t in known if holds(wave.space, t.values)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = study.ask(distributions(wave.space))
    return {key: wave.space[key].rounded(value) for key, value in asked.params.items()}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return a space as Optuna has it."""
    return {key: _distribution(axis) for key, axis in space.items()}


def _second(search: Search, number: int) -> bool:
    return number >= search.trials[0]


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(axis, Range):
        return FloatDistribution(axis.low, axis.high, log=axis.log)
    return CategoricalDistribution(axis.values)


def _frozen(trial: Trial, space: Space) -> Any:
    """Return a trial for Optuna: a failed one is the worst that can be, not an unknown one."""
    from optuna.trial import TrialState, create_trial

    running = trial.state == RUNNING
    return create_trial(
        state=TrialState.RUNNING if running else TrialState.COMPLETE,
        value=None if running else trial.value or 0.0,
        params=trial.values,
        distributions=distributions(space),
    )
