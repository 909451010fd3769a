"""``warmstart tune``: for every arm a coarse search, a finer one, the best for long, a recipe."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart import store
from warmstart.arms import check_arm
from warmstart.cells import arm_of, jobs_of, placed
from warmstart.errors import ConfigError
from warmstart.launch.jobs import Engine, Outcome
from warmstart.launch.resources import check_alone
from warmstart.launch.work import Planned, plan_cells
from warmstart.progress import Display
from warmstart.sweep import Composer
from warmstart.tuning import estimate, projection, recipes, sampling
from warmstart.tuning import study as studies
from warmstart.tuning.arms import Arm, Question, question, trial_words
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


class Tuner:
    """The task of a multirun that searches: draws trials, gives their runs to an engine, reports.

    Args:
        display: Shows what happens.
        command: That the user typed.
        devices: Only say what would run, and how long it takes on so many; None runs.

    Attributes:
        failed: Label and reason of what keeps the search from its end.
        folder: Of the tuning; None where nothing runs.
    """

    def __init__(self, display: Display, *, command: str, devices: int | None = None) -> None:
        self.display = display
        self.command = command
        self.devices = devices
        self.failed: list[tuple[str, str]] = []
        self.folder: Path | None = None

    def sweep(
        self,
        compose: Composer,
        params: Sequence[str],
        arguments: Sequence[str],
        engine: Engine,
    ) -> None:
        """Search for every arm, as far as that is not done already."""
        asked = question(compose, params, arguments)
        for note in asked.notes:
            self.display.say(note)
        for cell in asked.cells:
            check_arm(cell.config, compose.parse(arguments))
            if not engine.parallel:
                check_alone(cell.config)
        runner = _Runner(compose, asked, engine, self.display)
        arms = runner.arms()
        if self.devices is not None:
            self.display.say(estimate.describe(arms, asked.search, runner.plan, self.devices))
            return
        out = Path(asked.cells[0].config["out"])
        self.folder = out / "tunings" / asked.name
        self.folder.mkdir(parents=True, exist_ok=True)
        with store.lock(self.folder):
            search = _Searching(self, asked, arms, runner, out / "runs")
            self.failed += search.run()

    def finish(self) -> int:
        """Report on the search, name what failed, and return the exit code."""
        if self.folder is not None:
            from warmstart.results import tuning, tuning_page, tuning_terminal

            found = tuning.load(self.folder)
            tuning_terminal.show(found)
            page = self.folder / "report.html"
            tuning_page.write(found, page)
            print(f"report: {page}")
        for label, reason in self.failed:
            self.display.say(f"failed: {label}: {reason}")
        return 1 if self.failed else 0


class _Runner:
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


class _Searching:
    """A search that is under way, with the lock of its folder held."""

    def __init__(
        self, tuner: Tuner, asked: Question, arms: Sequence[Arm], runner: _Runner, runs: Path
    ) -> None:
        assert tuner.folder is not None
        self._folder, self._command, self._display = tuner.folder, tuner.command, tuner.display
        self._asked, self._search, self._runner, self._runs = asked, asked.search, runner, runs
        self._arms = {arm.label: arm for arm in arms}
        self._created = projection.created_at(self._folder) or _now()
        storage = studies.open_storage(self._folder)
        hint = f"give search.name=NAME for a search of its own, or delete {self._folder}"
        self._studies = {
            arm.label: ArmStudy(
                storage, arm.label, {**self._search.fixed(), "run": arm.key}, runs, hint
            )
            for arm in arms
        }
        self._finals: dict[str, list[Trial]] = {}
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
        self._display.plan(total - done + long)
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
        config = self._folder / recipes.FOLDER
        self._display.say(f"arm={name} (with --config-dir {config}):\n{text.rstrip()}")


def _label(trial: Trial) -> str:
    values = " ".join(f"{key}={value}" for key, value in trial.values.items())
    return f"{trial.round} {trial.arm} {values} seed={trial.seed}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
