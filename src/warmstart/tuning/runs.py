"""The runs of trials: planned by the code of every sweep, brought to their ends by its engines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from warmstart.cells import arm_of, jobs_of, placed
from warmstart.errors import ConfigError
from warmstart.launch.jobs import Engine, Outcome
from warmstart.launch.work import Planned, plan_cells
from warmstart.progress import Display
from warmstart.sweep import Composer
from warmstart.tuning.arms import Arm, Question, trial_words
from warmstart.tuning.estimate import trial_steps
from warmstart.tuning.space import extremes
from warmstart.tuning.trials import Trial


class Runner:
    """Plans the runs of trials, and brings them to their ends."""

    def __init__(
        self, compose: Composer, asked: Question, engine: Engine, display: Display
    ) -> None:
        self._compose = compose
        self._asked = asked
        self._engine = engine
        self.display = display

    def arms(self) -> list[Arm]:
        """Return all arms, with the lengths of their runs."""
        bare = [Arm(arm_of(cell), cell, 1, "", False) for cell in self._asked.cells]
        # The length in steps, which may follow from the images, is known from here on alone.
        words = [[*arm.cell.overrides, "test=false"] for arm in bare]
        planned = self._plan(words, [arm.label for arm in bare], [[] for _ in bare])[1]
        arms = [
            Arm(arm.label, arm.cell, run.steps, run.key, bool(run.stack))
            for arm, run in zip(bare, planned, strict=True)
        ]
        for arm in arms:
            without = [k for k in self._asked.search.space if k.startswith(("optimizer", "sched"))]
            if not arm.steps and without:
                raise ConfigError(
                    f"the arm {arm.label} takes no steps, so that {without[0]} has no effect on "
                    "it; leave the arm out with arm=..., or give "
                    f"search.space.{without[0].partition('.')[0]}=null and a space of strategy.*"
                )
        return arms

    def check(self, arms: Sequence[Arm]) -> None:
        """Refuse a space that has values which no run can take, before any value is drawn."""
        search = self._asked.search
        pairs = [(arm, values) for arm in arms for values in extremes(search.space)]
        words = [
            trial_words(arm, values, seed=search.seeds[0], steps=trial_steps(search, arm))
            for arm, values in pairs
        ]
        labels = [
            " ".join([arm.label, *(f"{key}={value}" for key, value in values.items())])
            for arm, values in pairs
        ]
        self._plan(words, labels, [[] for _ in pairs])

    def plan(
        self, arms: Sequence[Arm], trials: Sequence[Trial], prune: Sequence[Any]
    ) -> tuple[list[Mapping[str, Any]], list[Planned]]:
        """Return the configs of trials, and what is known of their runs."""
        words = [
            trial_words(arm, trial.values, seed=trial.seed, steps=trial.steps)
            for arm, trial in zip(arms, trials, strict=True)
        ]
        labels = [f"{trial.round} {trial.arm} #{trial.number}" for trial in trials]
        return self._plan(words, labels, prune)

    def _plan(
        self, words: Sequence[Sequence[str]], labels: Sequence[str], prune: Sequence[Any]
    ) -> tuple[list[Mapping[str, Any]], list[Planned]]:
        engine = self._engine
        configs = [
            placed(
                {**self._compose(line), "search": None} | ({"prune": limits} if limits else {}),
                elsewhere=engine.elsewhere,
            )
            for line, limits in zip(words, prune, strict=True)
        ]
        return configs, engine.call(plan_cells, configs, labels, engine.elsewhere)

    def bring(
        self,
        configs: Sequence[Mapping[str, Any]],
        planned: Sequence[Planned],
        labels: Sequence[str],
    ) -> Iterator[Outcome]:
        """Run what is not finished; yield each run's outcome."""
        jobs = jobs_of(configs, planned, labels)
        if not jobs:
            return
        engine = self._engine
        watched = self.display.watch(jobs) if engine.parallel else contextlib.nullcontext()
        # Closed at once when Ctrl-C or a signal ends the loop: no process stays behind.
        with watched, contextlib.closing(engine.run(jobs)) as outcomes:
            yield from outcomes
