"""The trials of one arm, and the rule that says which ones come next. Pure.

An arm's search has two rounds: trials over the whole space, then trials around the best of them.
Each round goes in waves of `batch` trials. What a wave tries, and when its trials are pruned,
follows from the waves before it alone: so it does not matter how many of them run at a time, or
how often the controller was killed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.results.pruning import Thresholds, thresholds
from warmstart.tuning.settings import Search
from warmstart.tuning.space import Space, narrowed

PLANNED, RUNNING, FINISHED, PRUNED, FAILED = "planned", "running", "finished", "pruned", "failed"
COARSE, REFINE, FINAL = "coarse", "refine", "final"


@dataclasses.dataclass
class Trial:
    """One run of a search.

    Attributes:
        arm: Whose recipe it is about.
        number: Among those of its arm, from 0.
        round: ``coarse``, ``refine`` or ``final``.
        values: Of the searched keys.
        seed: Of the run.
        steps: Of the run.
        key: Of the run; empty until it is known.
        state: ``planned``, ``running``, ``finished``, ``pruned`` or ``failed``.
        value: Its best validation accuracy; None while there is none.
        loss: Its validation loss there.
        pruned_at: Step at which it was ended early.
        error: Why it failed.
        curve: Lists ``step``, ``accuracy`` and ``loss`` of its validations.
    """

    arm: str
    number: int
    round: str
    values: dict[str, Any]
    seed: int
    steps: int
    key: str = ""
    state: str = PLANNED
    value: float | None = None
    loss: float | None = None
    pruned_at: int | None = None
    error: str | None = None
    curve: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state in (FINISHED, PRUNED, FAILED)

    @property
    def rank(self) -> tuple[float, float]:
        """By which the best is the largest: the lower loss decides among equal accuracies."""
        assert self.value is not None
        return self.value, -(self.loss or 0.0)


@dataclasses.dataclass(frozen=True)
class Wave:
    """Trials that are drawn together.

    Attributes:
        round: Theirs.
        first: Number of its first trial.
        end: Number of the first trial behind it.
        space: In which values are drawn.
        before: The trials of earlier waves, from which they may be.
    """

    round: str
    first: int
    end: int
    space: Space
    before: Sequence[Trial]


def next_wave(search: Search, trials: Sequence[Trial]) -> Wave | None:
    """Return the wave that is under way or comes next; None after both rounds.

    Args:
        search: Which.
        trials: Of the arm's two rounds, by their numbers.
    """
    first_round, second_round = search.trials
    number = next((t.number for t in trials if not t.over), len(trials))
    if number >= first_round + second_round:
        return None
    start, stop = (0, first_round) if number < first_round else (first_round, sum(search.trials))
    first = start + (number - start) // search.batch * search.batch
    end, space = min(stop, first + search.batch), search.space
    if start:
        best = leaders(trials[:first_round], 1)
        if not best:  # there is nothing to refine
            return None
        space = narrowed(space, best[0].values, search.narrow)
    return Wave(REFINE if start else COARSE, first, end, space, trials[:first])


def limits(wave: Wave, steps: int) -> Thresholds:
    """Return what trials of a wave have to reach, from all of earlier waves: they are as long."""
    return thresholds([t.curve for t in wave.before if t.state == FINISHED and t.curve], steps)


def leaders(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Return the best finished trials, at most one of the same values."""
    found: list[Trial] = []
    done = [trial for trial in trials if trial.state == FINISHED]
    for trial in sorted(done, key=lambda t: (t.rank, -t.number), reverse=True):
        if all(trial.values != other.values for other in found):
            found.append(trial)
    return found[:count]


def finals(search: Search, trials: Sequence[Trial], steps: int) -> list[Trial]:
    """Return the runs of the finalists: the best values, on the other seeds, at full length."""
    number = sum(search.trials)
    return [
        Trial(best.arm, number + index, FINAL, best.values, seed, steps)
        for index, (best, seed) in enumerate(
            (best, seed) for best in leaders(trials, search.finalists) for seed in search.seeds[1:]
        )
    ]


def winner(trials: Sequence[Trial]) -> tuple[Mapping[str, Any], float, list[int]] | None:
    """Return the best values, their mean accuracy over seeds, and the numbers of their runs.

    None while some are under way. Values of which a run has failed do not count: a mean over other
    seeds is another measure.
    """
    groups: list[list[Trial]] = []
    for trial in trials:
        same = next((group for group in groups if group[0].values == trial.values), None)
        if same is None:
            groups.append([trial])
        else:
            same.append(trial)
    if not all(trial.over for trial in trials):
        return None
    whole = [group for group in groups if all(trial.state == FINISHED for trial in group)]
    if not whole:
        return None
    best = max(whole, key=_mean_rank)
    return best[0].values, _mean_rank(best)[0], [trial.number for trial in best]


def _mean_rank(group: Sequence[Trial]) -> tuple[float, float]:
    ranks = [trial.rank for trial in group]
    return sum(value for value, _ in ranks) / len(ranks), sum(loss for _, loss in ranks)
