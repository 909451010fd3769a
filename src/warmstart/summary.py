"""The report of finished work: tables in the terminal and one HTML page. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError


def summarize(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Print the tables of what lies in `folders`, write one page about it, and return its path.

    Args:
        folders: Each an output folder, a comparison in it, or a run; or one tuning alone.
        out: The page; by default ``report.html`` in the first folder.

    Raises:
        ConfigError: A folder holds no records, or a tuning is not alone.
    """
    from warmstart.results import differences, loading, page, terminal
    from warmstart.results.tuning import is_tuning

    if tuned := [folder for folder in folders if is_tuning(folder)]:
        if len(folders) > 1:
            raise ConfigError(
                f"{tuned[0]} is a tuning, which has a page of its own; give it to warmstart report "
                "alone"
            )
        return summarize_tuning(tuned[0], out)
    comparisons = [found for folder in folders for found in loading.load(folder)]
    path = out or folders[0] / "report.html"
    # For thousands of runs they take seconds, and both tell them.
    found = [differences.differences(comparison) for comparison in comparisons]
    terminal.show(comparisons, found=found)
    page.write(comparisons, path, found)
    print(f"report: {path}")
    return path


def summarize_tuning(
    folder: Path, out: Path | None = None, *, logger: Mapping[str, Any] | None = None
) -> Path:
    """Print the table of a tuning, write its page, and return the page's path.

    Args:
        folder: OUT/tunings/NAME.
        out: The page; by default ``report.html`` in the folder.
        logger: Node of the config group ``logger``, whose service gets the page as well.

    Raises:
        ConfigError: The folder holds no tuning, or a file in it is damaged.
    """
    from warmstart.results import tuning, tuning_page, tuning_terminal

    found = tuning.load(folder)
    path = out or folder / tuning.PAGE
    tuning_terminal.show(found)
    tuning_page.write(found, path)
    print(f"report: {path}")
    if logger is not None:
        from warmstart import configs

        node = {**logger, "_target_": f"{logger['_target_']}.keep_page"}
        configs.build("logger", node, folder, page=path, name=found.name, created=found.created)
    return path
