"""Ensembles as tables for a terminal, or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warmstart.results.ensemble import Ensemble, Score, ensembles

# Where nobody's window limits the lines, nothing is folded.
_UNLIMITED = 10_000


def ensemble_command(
    folders: Sequence[Path],
    *,
    snapshots: bool = False,
    as_json: bool = False,
    console: Console | None = None,
) -> None:
    """Print the ensembles of the runs in `folders`.

    Args:
        folders: Output folders, comparisons or runs.
        snapshots: Of each run's snapshots, not of several runs.
        as_json: For programs.
        console: Where to; by default standard output.

    Raises:
        ConfigError: There is no ensemble.
    """
    found = ensembles(folders, snapshots=snapshots)
    if as_json:
        print(json.dumps([one.as_dict() for one in found], indent=1))
        return
    console = console or Console()
    if not console.is_terminal:
        console.width = _UNLIMITED
    for one in found:
        _show(one, console)


def _show(ensemble: Ensemble, console: Console) -> None:
    count = len(ensemble.members)
    table = Table(
        title=Text(f"{ensemble.name}: {count} members"),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("", "members: mean (range)", "ensemble, 95 %", "ensemble - mean, 95 %"):
        table.add_column(heading, overflow="fold")
    for score in ensemble.scores:
        table.add_row(*map(Text, _row(score)))
    table.caption = Text(
        f"intervals over the {ensemble.images:,} {ensemble.scores[0].metric.split} images, members "
        "fixed; of the loss, less is better"
    )
    table.caption_justify = "left"
    console.print(table)


def _row(score: Score) -> tuple[str, str, str, str]:
    metric = score.metric
    unit = f" ({metric.unit})" if metric.unit else ""
    low, high = (metric.value(end(score.members)) for end in (min, max))
    return (
        f"{metric.label}{unit}",
        f"{metric.value(score.mean)} ({low} to {high})",
        f"{metric.value(score.ensemble.mean)} {metric.ends(score.ensemble)}",
        f"{metric.value(score.gain.mean, sign=True)} {metric.ends(score.gain, sign=True)}",
    )
