"""One sweep: which cells it has, which of them are left, and what became of them."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from warmstart.arms import check_arm
from warmstart.declaration import check_cells, check_node
from warmstart.errors import ConfigError
from warmstart.launch.jobs import Engine, Job
from warmstart.launch.resources import check_alone
from warmstart.launch.work import Planned, plan_cells
from warmstart.progress import Display
from warmstart.results.metric import Size, training_size
from warmstart.store import publish
from warmstart.sweep import Cell, Composer, grid

AXES = ("arm", "data.per_class", "data.fraction", "data.fold", "seed")


class Sweep:
    """The task of a multirun: plans all cells, gives what is left to a launcher's engine, reports.

    Args:
        display: Shows what happens.
        command: That the user typed.
        devices: Only say what would run, and how long it takes on so many; None runs.
        compares: There must be something to compare (``warmstart compare``).

    Attributes:
        failed: Label and reason of each cell that failed.
        folder: Of the comparison; None for a sweep without a name, and where nothing runs.
    """

    def __init__(
        self,
        display: Display,
        *,
        command: str,
        devices: int | None = None,
        compares: bool = False,
    ) -> None:
        self.display = display
        self.command = command
        self.devices = devices
        self.compares = compares
        self.failed: list[tuple[str, str]] = []
        self.folder: Path | None = None

    def sweep(
        self,
        compose: Composer,
        params: Sequence[str],
        arguments: Sequence[str],
        engine: Engine,
    ) -> None:
        """Compose the grid of what the config and the command line sweep over, and run it."""
        self.run(grid(compose, params, arguments), compose.parse(arguments), engine)

    def run(self, cells: Sequence[Cell], arguments: Sequence[Override], engine: Engine) -> None:
        """Check every cell, write down what is planned, and run what is not finished."""
        check_node(cells[0].config, needed=self.compares)
        self.display.note(f"checking {len(cells)} runs before the first one starts")
        # Once for each arm: that reads its files.
        for cell in {cell.config["arm"]: cell for cell in cells}.values():
            check_arm(cell.config, arguments)
        for cell in cells:
            if not engine.parallel:
                check_alone(cell.config)
        labels = [" ".join(cell.swept) or "run" for cell in cells]
        configs = [placed(cell.config, elsewhere=engine.elsewhere) for cell in cells]
        planned = engine.call(plan_cells, configs, labels, engine.elsewhere)
        first = cells[0].config
        entries = list(map(_entry, cells, planned, labels))
        check_cells(first, entries)
        jobs = jobs_of(configs, planned, labels)
        if self.devices is not None:
            self._describe(jobs, planned)
            return
        self._write(first, entries, planned)
        if first["comparison"] is not None:
            self._warn(entries, planned)
        finished = len({p.key for p in planned if p.finished})
        if finished:
            total = len({p.key for p in planned})
            self.display.say(f"{finished} of {total} runs are finished and are skipped")
        self._bring(jobs, engine)

    def finish(self) -> int:
        """Report on the comparison, name what failed, and return the exit code."""
        if self.folder is not None:
            from warmstart.summary import summarize

            summarize([self.folder])
        for label, reason in self.failed:
            self.display.say(f"failed: {label}: {reason}")
        if self.failed:
            self.display.say(f"{len(self.failed)} failed; the same command runs them again")
        return 1 if self.failed else 0

    def _bring(self, jobs: Sequence[Job], engine: Engine) -> None:
        """Run the jobs; what goes wrong with one is kept, and stops no other."""
        self.display.plan(sum(not job.source for job in jobs))
        watched = self.display.watch(jobs) if engine.parallel else contextlib.nullcontext()
        # Closed at once when Ctrl-C or a signal ends the loop: no process stays behind.
        with watched, contextlib.closing(engine.run(jobs)) as outcomes:
            for outcome in outcomes:
                job, error = outcome.job, outcome.error
                if error is not None:
                    self.failed.append((job.label, error))
                text = outcome.text if error is None else f"FAILED: {error}"
                self.display.end(text, label=job.label, shared=job.source > 0)

    def _describe(self, jobs: Sequence[Job], planned: Sequence[Planned]) -> None:
        from warmstart.launch.cost import describe_plan

        assert self.devices is not None
        finished = len({p.key for p in planned if p.finished})
        basis = {p.key: p.basis for p in (*planned, *_sources(planned))}
        self.display.say(describe_plan(jobs, basis, finished=finished, devices=self.devices))

    def _warn(self, entries: Sequence[Mapping[str, Any]], planned: Sequence[Planned]) -> None:
        """Say that arms of one place see different pixels, where they do."""
        inputs: dict[tuple[Size, int, int | None], dict[str, str]] = {}
        for entry, run in zip(entries, planned, strict=True):
            same = inputs.setdefault((entry["size"], entry["seed"], entry["fold"]), {})
            same.setdefault(run.input, entry["arm"])
        differing = next((arms for arms in inputs.values() if len(arms) > 1), None)
        if differing:
            self.display.say(
                f"the arms {' and '.join(differing.values())} see differently preprocessed images, "
                "each those of its weights; give all of them their weights by model.weights= to "
                "have one preprocessing"
            )

    def _write(
        self,
        config: Mapping[str, Any],
        entries: list[dict[str, Any]],
        planned: Sequence[Planned],
    ) -> None:
        declared = config["comparison"]
        if declared is None:
            return
        name = str(declared["name"])
        if name != Path(name).name or name.startswith("."):
            raise ConfigError(f"comparison.name is {name!r}, but must be the name of a folder")
        content = {
            "name": name,
            "reference": declared["reference"],
            "metric": declared["metric"],
            "command": self.command,
            "cells": entries,
            "stages": [_stage(run) for run in _sources(planned)],
        }
        self.folder = Path(config["out"]) / "comparisons" / name
        text = json.dumps(content, indent=1)
        publish(self.folder / "cells.json", lambda part: _write_text(part, text))


def placed(config: Mapping[str, Any], *, elsewhere: bool) -> Mapping[str, Any]:
    """Return the config with the device of the machine that it will run on, not of this one."""
    resources, trainer = config["resources"], config["trainer"]
    if not elsewhere or not isinstance(trainer, Mapping) or trainer.get("accelerator") != "auto":
        return config
    return _on(config, "gpu" if resources["gpus"] else "cpu")


def _on(config: Mapping[str, Any], device: str) -> dict[str, Any]:
    return {**config, "trainer": {**config["trainer"], "accelerator": device}}


def _sources(planned: Sequence[Planned]) -> list[Planned]:
    """Return every run once that weights come from. Cells have folders of their own."""
    found: dict[Path, Planned] = {}
    for run in planned:
        source = run.source
        while source is not None and source.folder not in found:
            found[source.folder] = source
            source = source.source
    return list(found.values())


def jobs_of(
    configs: Sequence[Mapping[str, Any]], planned: Sequence[Planned], labels: Sequence[str]
) -> list[Job]:
    """Return what is left to do, every run once, and a source before what starts from it."""
    jobs: dict[Path, Job] = {}
    for config, cell, label in zip(configs, planned, labels, strict=True):
        # Fixed by now: where it runs, `auto` could stand for another device.
        config = _on(config, cell.device)
        run: Planned | None = cell
        depth = 0
        while run is not None and not run.finished and run.folder not in jobs:
            jobs[run.folder] = Job(
                key=run.key,
                label=_source_label(run) if depth else label,
                folder=run.folder,
                config=config,
                resources=run.resources,
                source=depth,
                needs=_needs(run),
                seconds=run.seconds,
                stack="" if depth else run.stack,
            )
            run, depth = run.source, depth + 1
    return list(jobs.values())


def _needs(run: Planned) -> tuple[str, ...]:
    return (run.source.key,) if run.source is not None and not run.source.finished else ()


def _source_label(run: Planned) -> str:
    return f"shared: {run.name}"


def _stage(run: Planned) -> dict[str, Any]:
    return {
        "key": run.key,
        "label": _source_label(run),
        "folder": str(run.folder),
        "seconds": run.seconds,
        "needs": [run.source.key] if run.source else [],
    }


def arm_of(cell: Cell) -> str:
    """Return the label of a cell's arm: its name, and what else was swept."""
    # The name of an arm without a file says these already.
    told = (*AXES, *(() if cell.config["arm"] else ("init", "strategy")))
    extra = [line for line in cell.swept if line.split("=", 1)[0] not in told]
    return " ".join([cell.config["arm"] or _arm_of(cell.config), *extra])


def _entry(cell: Cell, run: Planned, label: str) -> dict[str, Any]:
    data = cell.config["data"]
    flags = [word for name in cell.config["config_dirs"] for word in ("--config-dir", name)]
    # A run by itself takes the machine as it is.
    alone = [line for line in cell.overrides if not line.startswith("resources.")]
    return {
        "key": run.key,
        "label": label,
        "arm": arm_of(cell),
        "size": training_size(data.get("per_class"), data.get("fraction")),
        "seed": cell.config["seed"],
        "fold": data.get("fold"),
        "overrides": cell.overrides,
        "command": shlex.join(["warmstart", "train", *flags, *alone]),
        "seconds": run.seconds,
        "needs": [run.source.key] if run.source else [],
    }


def _arm_of(config: Mapping[str, Any]) -> str:
    return f"{config['choices']['init']}/{config['choices']['strategy']}"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
