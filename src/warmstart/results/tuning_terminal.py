"""A tuning as a table for a terminal, or for a file that a terminal wrote."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warmstart.results.best_of_k import best_of_k
from warmstart.results.terminal import UNLIMITED
from warmstart.results.tuning import Tuning
from warmstart.results.tuning_axis import text
from warmstart.results.tuning_verdict import SELECTED, budget, findings, problems, state_phrase


def show(tuning: Tuning, console: Console | None = None) -> None:
    """Print the recipes, what speaks against them, and what every arm was given."""
    console = console or Console()
    width = console.width
    if not console.is_terminal:
        console.width = UNLIMITED
    try:
        console.print()
        console.print(Text(f"tuning of {tuning.name}", style="bold"))
        for sentence in problems(tuning):
            console.print(Text(sentence, style="yellow"))
        console.print()
        for sentence in findings(tuning):
            console.print(Text(sentence, style="bold"))
        console.print(Text(SELECTED, style="dim"))
        console.print(_table(tuning))
    finally:
        console.width = width


def _table(tuning: Tuning) -> Table:
    metric = tuning.metric
    unit = f" ({metric.unit})" if metric.unit else ""
    best = {arm: best_of_k(tuning, arm) for arm in tuning.arms}
    table = Table(
        title=Text(f"{metric.label}{unit}, and the same budget for every arm"),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    # The largest k that all arms have: there their tuning was equally long.
    shared = min((len(values) for values in best.values()), default=0)
    several = [4] if shared > 4 else []
    points = [1, *several, shared] if shared > 1 else [1] * shared
    table.add_column("arm", overflow="fold")
    for axis in tuning.axes:  # a key may break at its dots, a number nowhere
        table.add_column(Text(axis.key.replace(".", ".\n")), no_wrap=True)
    table.add_column("chosen", no_wrap=True)
    for k in points:
        table.add_column(f"best\nof {k}", no_wrap=True)
    table.add_column("trials", overflow="fold")
    table.add_column("in whole\nruns", no_wrap=True)
    for arm in tuning.arms:
        values, spent = tuning.chosen(arm), budget(tuning, arm)
        recipe = [text(values[axis.key]) if axis.key in values else "-" for axis in tuning.axes]
        chosen = metric.value(tuning.best[arm].value) if arm in tuning.best else "not yet"
        cells = [arm, *recipe, chosen, *(metric.value(best[arm][k - 1]) for k in points)]
        cells += [state_phrase(spent.states) or "none", f"{spent.lengths:.3g}"]
        table.add_row(*map(Text, cells))
    if points:
        caption = "best of k: expected of k coarse trials (Dodge et al. 2019)"
        table.caption, table.caption_justify = Text(caption), "left"
    return table
