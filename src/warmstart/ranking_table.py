"""``warmstart rank``: the candidates as a table for a terminal or as JSON for programs."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warmstart.errors import ConfigError
from warmstart.results.terminal import UNLIMITED

Row = dict[str, Any]

_MODELS = "models="
# Overrides that say which images and where, and so go for the comparison too.
_DATA = ("data", "data.", "out", "store", "cache_gib", "trainer", "trainer.")
_CAPTION = (
    "in parentheses the same network with random weights; 5-NN: each training image by its "
    "neighbours; nearest mean: on validation; GFLOPs: 1e9 multiply-adds of an image"
)


def rank_command(overrides: Sequence[str], *, config_dirs: Sequence[str], as_json: bool) -> None:
    """Print the candidates of ``models=[...]`` by predicted transfer; nothing is trained.

    Args:
        overrides: That, and those of every candidate.
        config_dirs: Folders with configs of the user's own.
        as_json: Print what `warmstart.ranking.rank` returns.

    Raises:
        ConfigError: No models are given, or the config, the data or the weights are wrong.
        RunError: A source run, from which a candidate starts, failed.
    """
    given = [word.removeprefix(_MODELS) for word in overrides if word.startswith(_MODELS)]
    if len(given) != 1:
        raise ConfigError(
            f"rank takes one list of candidates, but got {len(given) or 'none'}; give "
            "models=[MODEL,MODEL@WEIGHTS,...]"
        )
    from warmstart.ranking import candidates, rank

    rest = [word for word in overrides if not word.startswith(_MODELS)]
    names = [candidate.name for candidate in candidates(given[0])]
    waiting = Console(stderr=True)
    rows = rank(
        names,
        rest,
        config_dirs=config_dirs,
        say=(lambda text: waiting.print(Text(text, style="dim"))) if waiting.is_terminal else None,
    )
    if as_json:
        print(json.dumps(rows, indent=2, allow_nan=False))
    else:
        show(rows, rest, config_dirs=config_dirs)


def show(
    rows: Sequence[Row],
    overrides: Sequence[str],
    *,
    config_dirs: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Print the candidates, what the figures are worth, and what to run next.

    Args:
        rows: As `warmstart.ranking.rank` returns them.
        overrides: Of every candidate.
        config_dirs: Folders with configs of the user's own.
        console: Where to; by default standard output.
    """
    console = console or Console()
    width = console.width
    if not console.is_terminal:
        console.width = UNLIMITED
    try:
        judged = [row for row in rows if "problem" not in row]
        if judged:
            console.print(_table(judged))
            console.print(Text(_CAPTION, style="dim"))
        for row in rows:
            if "problem" in row:
                console.print(Text(f"{row['model']}: {row['problem']}", style="yellow"))
        for row in judged:
            if not _above_control(row):
                console.print(Text(_no_better(row), style="yellow"))
        if judged:
            console.print(Text(_worth(judged[0])))
            # A command is copied: it stays one line.
            command = shlex.join(_next(judged[0], overrides, config_dirs))
            console.print(Text(f"next: {command}", style="bold"), soft_wrap=True)
    finally:
        console.width = width


def _table(rows: Sequence[Row]) -> Table:
    images = rows[0]["images"]
    table = Table(
        title=Text(
            f"predicted transfer to {images['train']:,} training images "
            f"({images['val']:,} of validation)"
        ),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("model", overflow="fold")
    table.add_column("weights", overflow="fold")
    for name in ("LogME", "5-NN", "nearest mean", "features", "GFLOPs", "ms per image"):
        table.add_column(name, justify="right")
    for row in rows:
        model, _, weights = row["model"].partition("@")
        table.add_row(
            *(Text(model), Text(weights or row["weights"])),
            *(_beside(row, "log_me", "{:.3f}"), _beside(row, "knn/accuracy", "{:.1%}")),
            *(_beside(row, "nearest_mean/accuracy", "{:.1%}"), f"{row['features']:,}"),
            "-" if row["multiply_adds"] is None else f"{row['multiply_adds'] / 1e9:.3g}",
            f"{row['image_seconds'] * 1e3:.2g}",
        )
    return table


def _beside(row: Row, name: str, form: str) -> Text:
    """Return a figure with that of the control beside it."""
    control = row["control"][name]
    other = "-" if control is None else form.format(control)
    return Text.assemble((form.format(row[name]), "bold"), (f" ({other})", "dim"))


def _above_control(row: Row) -> bool:
    control = row["control"]["log_me"]
    return bool(row["log_me"] > (-math.inf if control is None else control))


def _no_better(row: Row) -> str:
    return f"{row['model']}: random weights score as high, so that its own are no reason to take it"


def _worth(best: Row) -> str:
    return (
        "LogME sorts them. It predicts how well a linear classifier does on frozen features; it "
        "proves nothing, and says little about what fine-tuning would reach. Test was not looked "
        f"at. A comparison is evidence, here of {best['model'].partition('@')[0]}, the first:"
    )


def _next(best: Row, overrides: Sequence[str], config_dirs: Sequence[str]) -> list[str]:
    """Return the command that compares training with the best candidate to training without."""
    data = [word for word in overrides if _is_data(word.lstrip("+").partition("=")[0])]
    dirs = [part for folder in config_dirs for part in ("--config-dir", folder)]
    return ["warmstart", "compare", *dirs, "comparison=folder", *data, *best["use"]]


def _is_data(key: str) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in _DATA)
