"""What a tuning found, in sentences: the recipes, and what speaks against trusting them."""

from __future__ import annotations

import dataclasses
from collections import Counter

from warmstart.results.metric import joined
from warmstart.results.tuning import ENDED, ROUNDS, STATES, Tuning
from warmstart.results.tuning_axis import Axis, text

# Of the range, next to its ends: n draws leave about 1/(n + 1) of it empty there, so that the
# greatest of ten still counts as its end.
OUTER = 0.1
# Below three values one of them is an end whatever is best.
LEAST_VALUES = 3
# Fractions of an arm's steps are rounded to whole steps.
SAME_LENGTH = 0.02
SELECTED = (
    "Recipes are chosen on validation alone. The best of many trials is partly luck, so that a run "
    "on another seed is expected to fall below it."
)


@dataclasses.dataclass(frozen=True)
class Budget:
    """What an arm may spend, and has spent.

    Attributes:
        rounds: Trials by round, those to come included.
        states: Trials by state.
        lengths: Steps of all its trials, over those of one whole run; as planned, so that pruning
            does not count.
        seconds: Of training, of the trials that have a record.
    """

    rounds: dict[str, int]
    states: dict[str, int]
    lengths: float
    seconds: float

    @property
    def trials(self) -> int:
        return sum(self.rounds.values())


def budget(tuning: Tuning, arm: str) -> Budget:
    """Return what an arm may spend, and has spent."""
    trials = tuning.by_arm[arm]
    rounds = Counter(trial.round for trial in trials)
    states = Counter(trial.state for trial in trials)
    whole = tuning.lengths[arm]  # 0 for a probe, of which every trial is a whole run
    return Budget(
        {name: rounds[name] for name in ROUNDS if rounds[name]},
        {name: states[name] for name in STATES if states[name]},
        sum(trial.steps / whole if whole else 1.0 for trial in trials),
        sum(trial.seconds or 0.0 for trial in trials),
    )


def findings(tuning: Tuning) -> list[str]:
    """Return a sentence per arm: its recipe, how good it is, and by what it is known."""
    return [_finding(tuning, arm) for arm in tuning.arms]


def problems(tuning: Tuning) -> list[str]:
    """Return what a reader must know before believing the recipes, most important first."""
    return [
        *_opened(tuning),
        *_unequal(tuning),
        *(sentence for arm in tuning.arms for sentence in edges(tuning, arm)),
        *_failures(tuning),
        *_unfinished(tuning),
    ]


def edges(tuning: Tuning, arm: str) -> list[str]:
    """Return a sentence for each key whose best value is the lowest or the highest tried."""
    best = tuning.chosen(arm)
    found = [_edge(tuning, arm, axis, best[axis.key]) for axis in tuning.axes if axis.key in best]
    return [sentence for sentence in found if sentence]


def state_phrase(counts: dict[str, int]) -> str:
    """Return numbers of trials in words: ``12 finished, 3 pruned``."""
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts.get(state))


def _finding(tuning: Tuning, arm: str) -> str:
    metric, best = tuning.metric, tuning.best.get(arm)
    unit = f" {metric.unit}" if metric.unit else ""
    if best is None:
        leader = next(iter(tuning.ranked(arm)), None)
        if leader is None or leader.value is None:
            return f"{arm}: no trial has a value yet."
        value = f"{metric.value(leader.value)}{unit}"
        return f"{arm}: no recipe yet; {leader.recipe} leads with {value}, trial {leader.number}."
    recipe = " ".join(f"{key}={text(value)}" for key, value in best.values.items())
    finals = [t for t in tuning.by_arm[arm] if t.number in best.trials and t.value is not None]
    values = [trial.value for trial in finals if trial.value is not None]
    sentence = f"{arm}: {recipe}, {metric.label} {metric.value(best.value)}{unit}"
    if len(values) > 1:
        ends = f"{metric.value(min(values))} to {metric.value(max(values))}"
        return f"{sentence}, mean of {len(values)} seeds at full length ({ends})."
    return f"{sentence}, one run{' at full length' if values else ''}."


def _edge(tuning: Tuning, arm: str, axis: Axis, best: object) -> str:
    at = axis.place(best)
    tried = [axis.place(t.values.get(axis.key)) for t in tuning.by_arm[arm] if t.state in ENDED]
    known = {place for place in tried if place is not None}
    if not axis.ordered or at is None or len(known) < LEAST_VALUES:
        return ""
    if at not in (min(known), max(known)):
        return ""
    top = at == max(known)
    start = (
        f"{arm}: the best {axis.key}, {text(best)}, is the {'highest' if top else 'lowest'} of "
        f"{len(known)} values tried in {axis.span}"
    )
    if (1 - at if top else at) <= OUTER:
        return f"{start}: widen the range {'upwards' if top else 'downwards'}."
    return f"{start}: nothing {'above' if top else 'below'} it was tried; give it more trials."


def _unequal(tuning: Tuning) -> list[str]:
    """Return why the comparison of the tuned arms would not be fair, if so."""
    budgets = {arm: budget(tuning, arm) for arm in tuning.arms}
    rounds = {tuple(one.rounds.items()) for one in budgets.values()}
    lengths = [one.lengths for one in budgets.values()]
    near = max(lengths, default=0) <= min(lengths, default=0) * (1 + SAME_LENGTH)
    if len(rounds) <= 1 and near:
        return []
    parts = [
        f"{arm} {one.trials} trial{'' if one.trials == 1 else 's'} worth {one.lengths:.3g} whole "
        f"run{'' if one.lengths == 1 else 's'}"
        for arm, one in budgets.items()
    ]
    so_far = "" if tuning.finished else " so far"
    return [f"Budgets differ between the arms{so_far}: {joined(parts)}; the comparison is unfair."]


def _opened(tuning: Tuning) -> list[str]:
    trials = [trial for trial in tuning.trials if trial.test_opened]
    if not trials:
        return []
    verb = "trial has" if len(trials) == 1 else "trials have"
    first = f"{trials[0].arm} {trials[0].number}"
    return [
        f"{len(trials)} {verb} looked at test, the first of them {first}; "
        "what is said of these arms on test is no longer honest."
    ]


def _failures(tuning: Tuning) -> list[str]:
    failed = [trial for trial in tuning.trials if trial.state == "failed"]
    if not failed:
        return []
    arms = Counter(trial.arm for trial in failed)
    where = joined([f"{count} of {arm}" for arm, count in arms.items()])
    why = (failed[0].error or "no reason is known").strip().split("\n")[0].rstrip(".")
    verb = "trial" if len(failed) == 1 else "trials"
    return [f"{len(failed)} {verb} failed ({where}), the first because: {why}."]


def _unfinished(tuning: Tuning) -> list[str]:
    if tuning.finished:
        return []
    left = sum(trial.state not in ENDED for trial in tuning.trials)
    lost = [arm for arm in tuning.arms if {t.state for t in tuning.by_arm[arm]} == {"failed"}]
    if lost and not left:
        return [
            f"All trials of {joined(lost)} have failed, so that there is no recipe; search in "
            "other ranges, under another name (search.name=NAME)."
        ]
    again = f"; the same command goes on: {tuning.command}" if tuning.command else ""
    trials = f"{left} planned trial{'' if left == 1 else 's'} to come"
    return [f"The tuning has not come to its end ({trials}){again}"]
