"""The result of a comparison as tables for a terminal, or for a file that a terminal wrote."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warmstart.results import advice, features
from warmstart.results.comparison import Comparison
from warmstart.results.differences import Difference, differences
from warmstart.results.metric import Size, size_axis, size_label
from warmstart.results.verdict import (
    N_TOO_SMALL,
    NOT_OVER_FOLDS,
    basis,
    data_notes,
    findings,
    grounds,
    macro,
    outcome_label,
    p_label,
    pairing_label,
    problem,
    vault,
)

# Where nobody's window limits the lines, nothing is folded.
UNLIMITED = 10_000
LISTED = 50  # of the runs without a result
LOOKED_AT = 3  # lines on what to look at


def show(
    comparisons: Sequence[Comparison],
    console: Console | None = None,
    *,
    found: Sequence[Sequence[Difference]] | None = None,
) -> None:
    """Print problems, verdict and tables of each comparison.

    Args:
        comparisons: To be shown.
        console: Where.
        found: The differences of each, if they are known.

    Raises:
        ConfigError: A file of predictions is damaged.
    """
    console = console or Console()
    width = console.width
    if not console.is_terminal:
        console.width = UNLIMITED
    try:
        known = found or map(differences, comparisons)
        for comparison, its in zip(comparisons, known, strict=True):
            _show(comparison, its, console)
    finally:
        console.width = width


def _show(comparison: Comparison, found: Sequence[Difference], console: Console) -> None:
    console.print()
    console.print(Text(comparison.name, style="bold"))
    unfinished = comparison.unfinished
    for cell in unfinished[:LISTED]:
        style = "yellow" if cell.status == "missing" else "red"
        console.print(Text(problem(cell, comparison.metric), style=style))
    if len(unfinished) > LISTED:
        rest = f"and {len(unfinished) - LISTED:,} more; the page lists all runs"
        console.print(Text(rest, style="yellow"))
    console.print()
    for sentence in findings(comparison, found):
        console.print(Text(sentence, style="bold"))
    sentences = [*grounds(comparison, found), vault(comparison)]
    console.print(Text(" ".join(filter(None, sentences)), style="dim"))
    if notes := data_notes(comparison):
        console.print(Text(f"data: {', '.join(notes)}", style="yellow"))
    console.print(_results(comparison))
    if found:
        console.print(_differences(comparison, found))
    for line in advice.most_frequent(comparison, LOOKED_AT):
        console.print(Text(f"to look at: {line}", style="yellow"))
    for sentence in features.sentences(comparison):
        console.print(Text(sentence, style="dim"))


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def _results(comparison: Comparison) -> Table:
    """Return mean, interval and n; the longer one of arms and sizes runs downwards."""
    metric, beside = comparison.metric, macro(comparison)
    unit = f" ({metric.unit})" if metric.unit else ""
    down = len(comparison.arms) <= len(comparison.sizes)
    table = _table(f"{metric.label}{unit}: mean, 95 % interval, {comparison.repeated}")
    captions = [f"n {basis(comparison)}"] if comparison.folds else []
    captions += ["macro: mean of the classes' accuracies"] if beside else []
    table.caption, table.caption_justify = Text("; ".join(captions)), "left"

    def entry(arm: str, size: Size) -> Text:
        interval = comparison.interval(arm, size)
        if interval is None:
            return Text("-")
        mean = (metric.value(interval.mean), "bold")
        text = Text.assemble(mean, f" {metric.ends(interval)}", (f" n={interval.n}", "dim"))
        if beside and (other := comparison.interval(arm, size, metric=beside.name)):
            text.append(f" macro {beside.value(other.mean)}")
        return text

    table.add_column(Text(size_axis(comparison.sizes) if down else "arm"), overflow="fold")
    for name in comparison.arms if down else map(size_label, comparison.sizes):
        table.add_column(Text(name), overflow="fold")
    if down:
        for size in comparison.sizes:
            table.add_row(size_label(size), *(entry(arm, size) for arm in comparison.arms))
    else:
        for arm in comparison.arms:
            table.add_row(Text(arm), *(entry(arm, size) for size in comparison.sizes))
    return table


def _differences(comparison: Comparison, found: Sequence[Difference]) -> Table:
    metric = comparison.metric
    unit = f" ({metric.difference_unit})" if metric.difference_unit else ""
    family = sum(d.interval.low is not None for d in found)
    table = _table(f"difference to {comparison.reference}{unit}")
    tested = any(d.p is not None for d in found)
    loud = any(d.preprocessing or not d.paired for d in found)
    columns = {
        "arm": lambda d: d.arm,
        "size": lambda d: size_label(d.size),
        "mean": lambda d: metric.value(d.interval.mean, sign=True),
        "95 %": lambda d: metric.ends(d.interval, sign=True),
        f"all {family} at once": lambda d: metric.ends(d.simultaneous, sign=True),
        "verdict": outcome_label,
        **({"corrected p": p_label} if tested else {}),
        **({"pairing": pairing_label} if loud else {}),
    }
    for heading in columns:
        table.add_column(heading, overflow="fold")
    for d in found:
        table.add_row(*(Text(label(d)) for label in columns.values()))
    if not tested:
        why = N_TOO_SMALL if comparison.correction is None else NOT_OVER_FOLDS
        table.caption = Text(f"permutation test: {why}")
        table.caption_justify = "left"
    return table
