"""What a search would run, and how long it takes, before anything runs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from warmstart.cells import jobs_of
from warmstart.launch.cost import describe_plan
from warmstart.launch.jobs import Job
from warmstart.launch.work import Planned
from warmstart.tuning.arms import Arm, before
from warmstart.tuning.settings import Search
from warmstart.tuning.trials import COARSE, FINAL, Trial

Plan = Callable[
    [Sequence[Arm], Sequence[Trial], Sequence[Any]],
    tuple[list[Mapping[str, Any]], list[Planned]],
]


def describe(arms: Sequence[Arm], search: Search, plan: Plan, devices: int) -> str:
    """Return the number of runs and steps of a search, and the time that they take.

    Args:
        arms: That are searched.
        search: How.
        plan: Of `Runner`.
        devices: To share the runs out on.

    Raises:
        ConfigError: A run asks for more devices than there are.
    """
    seeds = len(search.seeds) - 1
    count, long = sum(search.trials), search.finalists * seeds
    # What a run takes does not depend on the values: one stands for all of its length.
    shown = [
        (arm, Trial(arm.label, 0, round_, before(arm.cell.config, search), search.seeds[0], steps))
        for arm in arms
        for round_, steps in ((COARSE, trial_steps(search, arm)), (FINAL, arm.steps))
    ]
    configs, planned = plan([arm for arm, _ in shown], [t for _, t in shown], [[] for _ in shown])
    unfinished = [dataclasses.replace(run, finished=False) for run in planned]
    times = Counter[str]()  # trials that are as long as the finals are the same run here
    for (_, trial), run in zip(shown, unfinished, strict=True):
        times[run.key] += count if trial.round == COARSE else long
    jobs = [
        dataclasses.replace(job, key=f"{job.key} {number}")
        for job in jobs_of(configs, unfinished, [trial.arm for _, trial in shown])
        for number in range(1 if job.source else times[job.key])
    ]
    steps = sum(count * trial_steps(search, arm) + long * arm.steps for arm in arms)
    lengths = ", ".join(f"{arm.label} {trial_steps(search, arm)}, then {arm.steps}" for arm in arms)
    return "\n".join(
        [
            f"{_count(len(arms), 'arm')}, for each {_count(count, 'trial')}, and "
            f"{_count(search.finalists, 'finalist')} on {_count(seeds, 'seed')}; {steps:,} steps "
            f"in all ({lengths})",
            describe_plan(jobs, _basis(jobs, planned), finished=0, devices=devices),
            *(["pruning saves a part of it"] if search.prune else []),
        ]
    )


def trial_steps(search: Search, arm: Arm) -> int:
    """Return the length of an arm's trials; 0 where it takes no steps."""
    return max(1, round(search.coarse * arm.steps)) if arm.steps else 0


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _basis(jobs: Sequence[Job], planned: Sequence[Planned]) -> dict[str, str]:
    """Return where the time of each job is from, by its key."""
    by_key: dict[str, str] = {}
    for run in planned:
        by_key[run.key] = run.basis
        while run.source is not None:
            run = run.source
            by_key[run.key] = run.basis
    return {job.key: by_key[job.key.partition(" ")[0]] for job in jobs}
