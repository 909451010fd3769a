"""``warmstart check``: the findings for a terminal or as JSON for programs, and a picture."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from warmstart.check.finding import WRONG, Finding, worst
from warmstart.errors import RunError
from warmstart.results.terminal import UNLIMITED

if TYPE_CHECKING:
    from warmstart.check.measured import Measurements

_STYLES = {"ok": "green", "look": "yellow", "wrong": "bold red"}


def check_command(
    overrides: Sequence[str], *, config_dirs: Sequence[str] = (), as_json: bool = False
) -> None:
    """Print what the first steps of the run that `overrides` describe show, with verdicts.

    Args:
        overrides: As for ``warmstart train``.
        config_dirs: Folders with configs of the user's own.
        as_json: Print what `as_dict` returns.

    Raises:
        ConfigError: The config, the data or the weights are wrong.
        RunError: Something was found to be wrong: after all is printed.
    """
    from warmstart.check import picture
    from warmstart.check.measure import measure
    from warmstart.check.verdicts import judge
    from warmstart.configs import compose
    from warmstart.run.preparing import prepare

    config = compose(overrides, config_dirs=config_dirs)
    run = prepare(config)
    with _progress() as say, _without_remarks():
        found = measure(run, say)
    scale = run.config["batch_size"] / config.lr_batch if config.lr_batch else 1.0
    findings = judge(found, scale=scale)
    path = Path(run.config["out"]) / "checks" / f"{run.key[:12]}.png"
    picture.draw(found.ranges, path, title=f"learning-rate range test, {run.architecture.name}")
    if as_json:
        print(json.dumps(as_dict(found, findings, path), indent=2, allow_nan=False))
    else:
        show(found, findings)
        print(f"picture: {path}")
    wrong = [finding.name for finding in findings if finding.verdict == WRONG]
    if wrong:
        raise RunError(f"the check finds something wrong with: {', '.join(wrong)}")


def as_dict(
    found: Measurements, findings: Sequence[Finding], picture: Path | None
) -> dict[str, Any]:
    """Return a check as plain data: ``verdict``, ``findings``, ``ranges`` (a curve and what it
    says for each phase that was tested), ``batchnorm`` and ``order``.
    """
    from warmstart.check import rates

    ranges = []
    for test in found.ranges:
        reading = dataclasses.asdict(rates.reading(test))
        curve = {"rates": test.trial.rates, "losses": test.trial.losses}
        place = {"phase": test.phase, "trained": list(test.trained), "rate": test.rate}
        ranges.append(place | curve | reading)
    return {
        "key": found.key,
        "verdict": worst(findings),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "ranges": ranges,
        "untested_phases": found.untested,
        "batchnorm": [dataclasses.asdict(modes) for modes in found.modes],
        "order": found.order,
        "picture": None if picture is None else str(picture),
    }


def show(found: Measurements, findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print the findings, and a sketch of each range test.

    Args:
        found: What was measured.
        findings: About it.
        console: Where to; by default standard output.
    """
    from warmstart.check.picture import sketch

    console = console or Console()
    width = console.width
    for test in found.ranges:
        names = ", ".join(test.trained)
        console.print(Text(f"training loss by learning rate; {names} train", style="bold"))
        for line in sketch(test, width=min(width, 100)):
            console.print(Text(line), soft_wrap=True)
    if found.untested:
        left = ", ".join(map(str, found.untested))
        console.print(Text(f"phases {left} were not tested: they lie between these", style="dim"))
    if not console.is_terminal:
        console.width = UNLIMITED
    try:
        table = Table(box=box.SIMPLE_HEAD, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in findings:
            verdict = Text(finding.verdict, style=_STYLES[finding.verdict])
            table.add_row(verdict, Text(finding.name), Text(finding.sentence))
        console.print(table)
    finally:
        console.width = width


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yield what announces a part of the check, and returns what takes its steps."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )

    def say(name: str) -> Callable[[int, int], None]:
        for task in bars.task_ids:
            bars.remove_task(task)
        task = bars.add_task(name, total=None)
        return lambda done, steps: bars.update(task, completed=done, total=steps)

    if not bars.console.is_terminal:
        yield lambda name: lambda done, steps: None
        return
    with bars:
        yield say


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep the log of the pieces silent but for warnings: the findings say what matters."""
    logger = logging.getLogger("warmstart")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
