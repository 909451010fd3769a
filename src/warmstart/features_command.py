"""``warmstart features``: activations of all images, into a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warmstart.errors import ConfigError
from warmstart.results.terminal import UNLIMITED

if TYPE_CHECKING:
    from warmstart.exporting import Export

_GROUP, _POOL = "group=", "features.pool="
_CAPTION = "rectified: no activation of the first training images is below 0, as behind a ReLU"


def features_command(
    overrides: Sequence[str],
    *,
    config_dirs: Sequence[str] = (),
    out: Path | None = None,
    half: bool = False,
) -> list[Path]:
    """Write the features of all images at ``group=L`` or ``group=all``, and return the files.

    Args:
        overrides: As for ``warmstart train``; ``group`` and perhaps ``features.pool`` among them.
        config_dirs: Folders with configs of the user's own.
        out: The file; by default ``OUT/features/KEY.npz``.
        half: As float16.

    Raises:
        ConfigError: The config, the data or the weights are wrong, there are no such features, or
            `out` is no file that can be written.
        RunError: The source run, from which the model starts, failed.
    """
    from warmstart import configs, feature_files
    from warmstart.data.images import openings
    from warmstart.exporting import OPENINGS, default_path, export_of
    from warmstart.run.preparing import prepare

    group, pool = _one(overrides, _GROUP), _one(overrides, _POOL)
    if group is None:
        raise ConfigError(
            "features takes one layer group, but got none; give group=NAME, or group=all"
        )
    if out is not None:
        feature_files.check_place(out)
    rest = [word for word in overrides if not word.startswith((_GROUP, _POOL))]
    if half:
        rest.append("features.dtype=float16")
    run = prepare(configs.compose(rest, config_dirs=config_dirs))
    path = out or default_path(run, f"{group}.npz")
    log = path.with_name(f"{path.stem}.{OPENINGS}")
    export = export_of(run, group=group, pool=pool, log=log)
    _show(export)
    files = feature_files.write(export, path)
    if "test" in export.labels:
        count = openings(log)
        times = "once" if count == 1 else f"{count} times"
        print(f"test was opened for this file {times} ({log}); test=false leaves it closed")
    for file in files:
        print(f"features: {file}")
    return files


def _one(overrides: Sequence[str], start: str) -> str | None:
    """Return the value of a key; None where it is not given, or null."""
    given = [word.removeprefix(start) for word in overrides if word.startswith(start)]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(start + value for value in given)} are given; give one")
    return None if given in ([], ["null"], [""]) else given[0]


def _show(export: Export, console: Console | None = None) -> None:
    console = console or Console()
    width = console.width
    if not console.is_terminal:
        console.width = UNLIMITED
    counts = ", ".join(f"{name} {len(labels):,}" for name, labels in export.labels.items())
    table = Table(
        title=Text(f"features of {counts} images, {'float16' if export.half else 'float32'}"),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    for name in ("group", "activation", "pooled", "features", "rectified"):
        table.add_column(name, overflow="fold")
    for group in export.groups:
        (features, *_) = group.splits.values()
        table.add_row(
            *(Text(group.group), " x ".join(map(str, group.activation)), group.pool or "-"),
            *(f"{features.shape[1]:,}", "yes" if group.rectified else "no"),
        )
    try:
        console.print(table)
        console.print(Text(_CAPTION, style="dim"))
    finally:
        console.width = width
