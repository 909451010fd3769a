"""Which finished runs belong together: those that differ in their seeds alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    single = [folder for folder in folders if (folder / records.FILE).is_file()]
    given = [cell for folder in single for found in load(folder) for cell in _finished(found)]
    if given:
        yield f"{len(given)} run{'' if len(given) == 1 else 's'}", given
    for folder in folders:
        for found in [] if folder in single else load(folder):
            cells, by_place = _finished(found), dict[str, list[Cell]]()
            arms = [cell.arm for cell in cells] if found.command else _names(cells)
            for arm, cell in zip(arms, cells, strict=True):
                fold = "" if cell.fold is None else f", fold {cell.fold}"
                name = f"{found.name}: {arm}, {size_phrase(cell.size)}{fold}"
                by_place.setdefault(name, []).append(cell)
            yield from by_place.items()


def _finished(comparison: Comparison) -> list[Cell]:
    return [cell for cell in comparison.cells if cell.status == "finished"]


def _names(cells: Sequence[Cell]) -> list[str]:
    """Return a name for the config of each run but for its seed, of runs that nobody planned.

    A report tells such runs apart by what their models see as well, which may follow from the seed.
    """
    runs = [cell.record for cell in cells if cell.record is not None]
    contents = [json.dumps({**run.config, "seed": None}, sort_keys=True) for run in runs]
    distinct = dict(zip(contents, runs, strict=True))
    configs = {content: _flat(json.loads(content)) for content in distinct}
    options = [_flat(run.choices) for run in distinct.values()]
    chosen = {c: _differing(_flat(run.choices), options) for c, run in distinct.items()}
    names = {}
    for content, run in distinct.items():
        # Where the same options were chosen, by the values that differ.
        alike = [configs[other] for other, words in chosen.items() if words == chosen[content]]
        first = chosen[content] or f"{run.choices.get('init')}/{run.choices.get('strategy')}"
        names[content] = " ".join(filter(None, [first, _differing(configs[content], alike)]))
    return [names[content] for content in contents]


def _differing(own: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> str:
    """Return the entries of `own` that differ from those of any of the others, as words."""
    return " ".join(
        f"{key}={value}"
        for key, value in own.items()
        if any(other.get(key) != value for other in others)
    )


def _flat(node: Any, path: str = "") -> dict[str, str]:
    """Return the values in nested mappings by their dotted keys, as a config would say them."""
    if not isinstance(node, Mapping):
        return {path: node if isinstance(node, str) else json.dumps(node)}
    parts = [_flat(value, f"{path}.{key}" if path else str(key)) for key, value in node.items()]
    return {key: value for part in parts for key, value in part.items()}
