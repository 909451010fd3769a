"""A search under way: waves of trials for every arm, then the finalists, then the recipes."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.results.tuning import CONFIGS
from warmstart.tuning import estimate, projection, recipes, sampling
from warmstart.tuning import study as studies
from warmstart.tuning.arms import Arm, Question
from warmstart.tuning.runs import Runner
from warmstart.tuning.study import ArmStudy
from warmstart.tuning.trials import (
    FAILED,
    RUNNING,
    Trial,
    Wave,
    finals,
    limits,
    next_wave,
    winner,
)


class Searching:
    """A search that is under way.

    Args:
        folder: Of the tuning, whose lock is held.
        asked: What is tuned.
        arms: All of them.
        runner: Runs trials.
        command: That the user typed.
    """

    def __init__(
        self, folder: Path, asked: Question, arms: Sequence[Arm], runner: Runner, command: str
    ) -> None:
        self._folder, self._command, self._display = folder, command, runner.display
        self._asked, self._search, self._runner = asked, asked.search, runner
        self._runs = folder.parents[1] / "runs"
        self._arms = {arm.label: arm for arm in arms}
        storage = studies.open_storage(self._folder)
        begun = projection.begun(self._folder)
        hint = f"give search.name=NAME for a search of its own, or delete {self._folder}"
        if begun:
            hint = f"its command was {begun['command']}; {hint}"
        self._created = begun["created"] if begun else _now()
        self._studies = {
            arm.label: ArmStudy(
                storage, arm.label, {**self._search.fixed(), studies.RUN: arm.key}, self._runs, hint
            )
            for arm in arms
        }
        self._finals: dict[str, list[Trial]] = {}
        self._shown = 0  # runs in all, as the display counts them
        self._failed: list[tuple[str, str]] = []

    def run(self) -> list[tuple[str, str]]:
        """Bring the search to its end; return the label and reason of what keeps it from there."""
        self._announce()
        while not self._failed:
            waves = {label: next_wave(self._search, s.trials) for label, s in self._studies.items()}
            left = [
                (trial, wave)
                for label, wave in waves.items()
                if wave is not None
                for trial in self._drawn(self._studies[label], wave)
            ]
            if not left:
                break
            self._bring([trial for trial, _ in left], [self._limits(*pair) for pair in left])
        if not self._failed:
            self._train_the_best()
        self._write()
        return self._failed

    def _announce(self) -> None:
        done = sum(trial.over for s in self._studies.values() for trial in s.trials)
        total = len(self._arms) * sum(self._search.trials)
        long = len(self._arms) * self._search.finalists * (len(self._search.seeds) - 1)
        if done:
            self._display.say(f"{done} of {total} trials are over and are not run again")
        self._shown = total - done + long
        self._display.plan(self._shown)
        self._write()

    def _drawn(self, study: ArmStudy, wave: Wave) -> list[Trial]:
        """Return the trials of a wave that are not over; those that lack are drawn first."""
        arm = self._arms[study.arm]
        for number in range(len(study.trials), wave.end):
            values = sampling.draw(self._search, wave, arm.label, study.trials, number)
            steps = estimate.trial_steps(self._search, arm)
            trial = Trial(arm.label, number, wave.round, values, self._search.seeds[0], steps)
            study.add(trial, wave.space)
        return [trial for trial in study.trials[wave.first : wave.end] if not trial.over]

    def _limits(self, trial: Trial, wave: Wave) -> list[list[float]]:
        # Heads that train together are done at about the price of one: no run of them ends early.
        if not self._search.prune or self._arms[trial.arm].stacks:
            return []
        return limits(wave, trial.steps)

    def _train_the_best(self) -> None:
        for label, study in self._studies.items():
            self._finals[label] = finals(self._search, study.trials, self._arms[label].steps)
            if not self._finals[label]:
                errors = [trial.error for trial in study.trials if trial.error]
                why = f"the last one: {errors[-1]}" if errors else "all were pruned"
                self._failed.append((label, f"none of its trials has finished; {why}"))
        runs = [trial for trials in self._finals.values() for trial in trials]
        self._bring(runs, [[] for _ in runs])
        for label, trials in self._finals.items():
            best = winner(trials)
            if best is not None:
                self._write_recipe(self._arms[label], *best)
            elif trials:
                reason = next((t.error for t in trials if t.error), "a run has not ended")
                self._failed.append((label, f"none of its finalists has finished: {reason}"))

    def _bring(self, trials: Sequence[Trial], prune: Sequence[list[list[float]]]) -> None:
        """Run trials, and write down what has become of each."""
        arms = [self._arms[trial.arm] for trial in trials]
        configs, planned = self._runner.plan(arms, trials, prune)
        waiting: dict[str, list[Trial]] = {}
        for trial, run in zip(trials, planned, strict=True):
            trial.key, trial.state = run.key, RUNNING
            if run.finished:
                self._end(trial)
            else:
                waiting.setdefault(run.key, []).append(trial)
        self._shown -= len(trials) - len(waiting)  # what needs no run of its own
        self._display.plan(self._shown)
        self._write()
        labels = [_label(trial) for trial in trials]
        for outcome in self._runner.bring(configs, planned, labels):
            job = outcome.job
            text = outcome.text if outcome.error is None else f"FAILED: {outcome.error}"
            self._display.end(text, label=job.label, shared=job.source > 0)
            for trial in () if job.source else waiting.get(job.key, ()):
                self._end(trial, outcome.error)
            if job.source and outcome.error is not None:
                self._failed.append((job.label, outcome.error))
            self._write()

    def _end(self, trial: Trial, error: str | None = None) -> None:
        """Take over how a run has ended; one whose process was killed is still to be done."""
        studies.read_end(trial, self._runs / trial.key)
        if error is not None and trial.state != FAILED:
            trial.state, trial.error = RUNNING, error
            self._failed.append((_label(trial), f"{error}; the same command takes it up again"))
        elif trial.over and trial.number < sum(self._search.trials):
            self._studies[trial.arm].end(trial)

    def _write(self) -> None:
        projection.write(
            self._folder,
            self._asked,
            list(self._arms.values()),
            {label: study.trials for label, study in self._studies.items()},
            self._finals,
            command=self._command,
            created=self._created,
        )

    def _write_recipe(
        self, arm: Arm, values: Mapping[str, Any], value: float, numbers: Sequence[int]
    ) -> None:
        score = f"{projection.METRIC} {value:.4f}, the mean of {len(numbers)} seeds"
        text = recipes.recipe(arm, values, command=self._command, score=score)
        name = recipes.write(self._folder, arm, text)
        config = self._folder / CONFIGS
        self._display.say(f"arm={name} (with --config-dir {config}):\n{text.rstrip()}")


def _label(trial: Trial) -> str:
    values = " ".join(f"{key}={value}" for key, value in trial.values.items())
    return f"{trial.round} {trial.arm} {values} seed={trial.seed}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
