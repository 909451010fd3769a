"""``warmstart tune``: for every arm a coarse search, a finer one, the best for long, a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart import store
from warmstart.arms import check_arm
from warmstart.launch.jobs import Engine
from warmstart.launch.resources import check_alone
from warmstart.progress import Display
from warmstart.sweep import Composer
from warmstart.tuning import estimate
from warmstart.tuning.arms import question
from warmstart.tuning.runs import Runner
from warmstart.tuning.searching import Searching


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
        self._logger: Mapping[str, Any] = {}

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
        runner = Runner(compose, asked, engine, self.display)
        arms = runner.arms()
        runner.check(arms)
        if self.devices is not None:
            self.display.say(estimate.describe(arms, asked.search, runner.plan, self.devices))
            return
        out = Path(asked.cells[0].config["out"])
        self.folder = out / "tunings" / asked.name
        self._logger = asked.cells[0].config["logger"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with store.lock(self.folder):
            self.failed += Searching(self.folder, asked, arms, runner, self.command).run()

    def finish(self) -> int:
        """Report on the search, name what failed, and return the exit code."""
        if self.folder is not None:
            from warmstart.summary import summarize_tuning

            summarize_tuning(self.folder, logger=self._logger)
        for label, reason in self.failed:
            self.display.say(f"failed: {label}: {reason}")
        return 1 if self.failed else 0
