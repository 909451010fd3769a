"""Which finished runs belong together: those that differ in their seeds alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.results import record as records
from warmstart.results.comparison import Cell, Comparison
from warmstart.results.loading import load
from warmstart.results.metric import size_phrase


def together(folders: Sequence[Path]) -> Iterator[tuple[str, list[Cell]]]:
    """Yield finished runs that belong together, and the name of what they have in common.

    Args:
        folders: Output folders or comparisons, whose runs of an arm, a size and a fold belong
            together; runs that are given themselves do whatever they are.

    Raises:
        ConfigError: A folder holds no runs.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    single = [folder for folder in folders if (folder / records.FILE).is_file()]
    given = [cell for folder in single for found in load(folder) for cell in _finished(found)]
    if given:
        yield f"{len(given)} run{'' if len(given) == 1 else 's'}", given
    for folder in folders:
        for found in [] if folder in single else load(folder):
            cells, by_place = _finished(found), dict[str, list[Cell]]()
            for cell in cells:
                fold = "" if cell.fold is None else f", fold {cell.fold}"
                name = f"{found.name}: {cell.arm}, {size_phrase(cell.size)}{fold}"
                by_place.setdefault(name, []).append(cell)
            yield from by_place.items()


def _finished(comparison: Comparison) -> list[Cell]:
    return [cell for cell in comparison.cells if cell.status == "finished"]
