"""What ``warmstart look`` says in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warmstart.look.facts import SPLITS, Facts, counted, extremes
from warmstart.results.terminal import UNLIMITED

if TYPE_CHECKING:
    from warmstart.sight import Sight

MOST_CLASSES = 20
_MOST_DAMAGED = 20
_BAR = 30  # characters


def show(
    view: Sight,
    found: Facts,
    problems: Sequence[str],
    *,
    title: str,
    console: Console | None = None,
) -> None:
    """Print the classes, what a network gets and what is wrong, to standard output by default."""
    console = console or Console()
    width = console.width
    if not console.is_terminal:
        console.width = UNLIMITED
    try:
        console.print(Text(title, style="bold"))
        console.print(_classes(found))
        console.print(_rest(view, found))
        for index, sentence in enumerate(problems):
            console.print(Text(sentence, style="yellow"))
            if index == 0:
                _damaged(found, console)
    finally:
        console.width = width


def _damaged(found: Facts, console: Console) -> None:
    for name, reason in found.damaged[:_MOST_DAMAGED]:
        console.print(Text(f"  {name}: {reason}"))
    if len(found.damaged) > _MOST_DAMAGED:
        console.print(Text(f"  and {len(found.damaged) - _MOST_DAMAGED} more, on the page"))


def _classes(found: Facts) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for split in SPLITS:
        table.add_column(split, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    first, last = extremes(found.by_size(), MOST_CLASSES)
    most = max(1, int(found.totals.max()))
    for index in (*first, None, *last) if last else first:
        if index is None:
            between = len(found.classes) - len(first) - len(last)
            table.add_row(Text(f"... {between} classes in between ..." if between else "..."))
            continue
        counts = [f"{found.counts[split][index]:,}" for split in SPLITS]
        bar = "#" * round(_BAR * int(found.totals[index]) / most)
        table.add_row(*map(Text, (found.classes[index], *counts, bar)))
    table.add_section()
    sums = [f"{found.counts[split].sum():,}" for split in SPLITS]
    table.add_row(*map(Text, ("all", *sums)))
    return table


def _rest(view: Sight, found: Facts) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    lines = {
        "guessing": f"{found.chance:.1%} are right by chance, {found.majority('val'):.1%} of val "
        f"and {found.majority('test'):.1%} of test by always saying "
        f"{found.classes[found.largest]!r}",
        "loss": f"{found.first_loss:.3f} at step 0, which is ln {len(found.classes)}",
        "imbalance": _imbalance(found),
        "images": _images(view, found),
        "input": _input(view),
        "duplicates": _duplicates(view, found),
        "notes": "\n".join(view.notes),
    }
    for name, text in lines.items():
        if text:
            table.add_row(name, Text(text))
    return table


def _imbalance(found: Facts) -> str:
    train = found.counts["train"]
    if found.imbalance == 1:
        return f"none: each class has {train[0]:,} training images"
    return (
        f"{found.imbalance:.3g} : 1 in train ({train[found.largest]:,} of "
        f"{found.classes[found.largest]!r}, {train[found.smallest]:,} of "
        f"{found.classes[found.smallest]!r})"
    )


def _images(view: Sight, found: Facts) -> str:
    modes = ", ".join(f"{mode} ({count:,})" for mode, count in found.modes)
    if found.one_size:
        sizes = f"{found.widths[0]} x {found.heights[0]}"
    else:
        least, median, most = (
            f"{f(found.widths):.0f} x {f(found.heights):.0f}" for f in (np.min, np.median, np.max)
        )
        sizes = f"{least} to {most}, median {median}"
    streamed = "; read from their files in every pass" if view.dataset.streamed else ""
    return f"{sizes} pixels (width x height), stored as {modes}{streamed}"


def _input(view: Sight) -> str:
    height, width = view.images.size
    kind = {1: "gray", 3: "RGB"}.get(view.input.channels, f"{view.input.channels} channels")
    mean, std = (
        [float(f"{v:.3g}") for v in values] for values in (view.input.mean, view.input.std)
    )
    return f"{width} x {height}, {kind}, of pixels in [0, 1] minus {mean}, divided by {std}"


def _duplicates(view: Sight, found: Facts) -> str:
    groups = {
        "equal in several splits": found.shared,
        "equal within a split": found.repeated,
        "equal with different labels": found.conflicting,
    }
    texts = [f"{counted(len(sets), 'group')} {what}" for what, sets in groups.items() if sets]
    if found.near:
        texts.append(f"{counted(len(found.near), 'pair')} of different splits look alike")
    if view.dataset.dropped:
        texts.append(f"{counted(len(view.dataset.dropped), 'image')} left out")
    return "; ".join(texts) or "no image is equal to another, or looks like one of another split"
