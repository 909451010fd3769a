"""From the files of runs to comparisons."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError
from warmstart.results import record as records
from warmstart.results import selection
from warmstart.results.comparison import Cell, Comparison
from warmstart.results.metric import Metric, Size, mixture, training_size
from warmstart.results.planned import PLAN
from warmstart.results.record import Record
from warmstart.results.sharing import Reader
from warmstart.results.tuning import FILE as TUNING
from warmstart.results.tuning import trial_keys


def load(directory: Path) -> list[Comparison]:
    """Read what `directory` holds: an output folder, a comparison or a run.

    Raises:
        ConfigError: It is none of these or empty, a file in it is damaged, or its records were
            written by versions of the program whose numbers differ.
    """
    if (directory / PLAN).is_file():
        return [_planned(directory)]
    if (directory / records.FILE).is_file():
        return _unplanned(directory.resolve().name[:12], [directory])
    plans = sorted(directory.glob(f"comparisons/*/{PLAN}"))
    if plans:
        return [_planned(plan.parent) for plan in plans]
    runs = sorted(path.parent for path in directory.glob(f"runs/*/{records.FILE}"))
    # Thousands of trials of recipes are no comparison of them.
    tunings = [file.parent for file in sorted(directory.glob(f"tunings/*/{TUNING}"))]
    trials = {key for folder in tunings for key in trial_keys(folder)}
    if others := [folder for folder in runs if folder.name not in trials]:
        return _unplanned(directory.resolve().name, others)
    if tunings or (directory / TUNING).is_file():
        raise ConfigError(
            f"{directory} holds the trials of a tuning and no other run; "
            f"warmstart report {tunings[0] if tunings else directory} shows them"
        )
    problem = "holds no finished run" if directory.is_dir() else "is not a folder"
    raise ConfigError(
        f"{directory} {problem}; give an output folder (with runs/ or comparisons/), "
        "a folder in its comparisons/, or one in its runs/"
    )


def _planned(folder: Path) -> Comparison:
    path = folder / PLAN
    runs = folder.resolve().parent.parent / "runs"
    try:
        plan = json.loads(path.read_text())
        rows = list(dict.fromkeys(_row(cell) for cell in plan["cells"]))
        names = [str(plan[key] or "") for key in ("name", "reference", "metric", "command")]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a plan of warmstart ({type(error).__name__}: {error}); "
            "delete it and start the comparison again"
        ) from error
    if not rows:
        raise ConfigError(f"{path} plans no cell; start the comparison again with arms and seeds")
    if problem := mixture([row[2] for row in rows], [row[4] for row in rows]):
        raise ConfigError(f"{path} cannot be compared: {problem}")
    (arm, size, seed, fold), count = Counter(row[1:5] for row in rows).most_common(1)[0]
    if count > 1:
        raise ConfigError(
            f"{path} plans arm {arm!r} at size {size} with seed {seed}"
            f"{'' if fold is None else f' and fold {fold}'} twice; give cells that differ "
            "different arms"
        )
    del plan  # of thousands of cells it takes more memory than their rows
    reader = Reader()
    found = {row[0]: reader(runs / row[0]) for row in rows}
    cells = tuple(
        Cell(*row, runs / row[0], found[row[0]], reader.sentences.get(row[0], ())) for row in rows
    )
    _check_versions(folder, cells)
    return Comparison(names[0], names[1], Metric(names[2]), names[3], cells)


def _row(cell: dict[str, Any]) -> tuple[str, str, Size, int, int | None, str]:
    key, arm, command = (str(cell.get(name, "")) for name in ("key", "arm", "command"))
    return key, arm, cell["size"], int(cell["seed"]), cell.get("fold"), command


def _unplanned(name: str, folders: list[Path]) -> list[Comparison]:
    """Return the comparison of all runs, or one per kind where kinds cannot be compared."""
    reader = Reader()
    found = [(folder, run) for folder in folders if (run := reader(folder))]
    places = [(_size(run), _fold(run)) for _, run in found]
    kinds: dict[str, list[tuple[Path, Record]]] = {}
    mixed = mixture([size for size, _ in places], [fold for _, fold in places])
    for (size, fold), entry in zip(places, found, strict=True):
        shares = ", shares" if mixed and isinstance(size, float) else ""
        folds = ", folds" if mixed and fold is not None else ""
        kinds.setdefault(f"{name}{shares}{folds}", []).append(entry)
    return [_of_runs(kind, entries, reader) for kind, entries in kinds.items()]


def _of_runs(name: str, found: list[tuple[Path, Record]], reader: Reader) -> Comparison:
    runs = [run for _, run in found]
    labels = selection.labels(runs, [(_size(run), run.seed, _fold(run)) for run in runs])
    said = reader.sentences
    cells = [
        Cell(
            *(run.key, arm, _size(run), run.seed, _fold(run), _command(run), folder, run),
            said[run.key],
        )
        for (folder, run), arm in zip(found, labels, strict=True)
    ]
    # The first is the reference: scratch where there is any, and of its variants the plainest.
    cells.sort(
        key=lambda c: (
            not c.arm.startswith("scratch"),
            -c.arm.count("=none"),
            c.arm,
            c.size or 0,
            c.seed,
        )
    )
    _check_versions(found[0][0].parent, cells)
    tested = any("test/accuracy" in run.metrics for _, run in found)
    metric = Metric("test/accuracy" if tested else "val/accuracy")
    return Comparison(name, cells[0].arm, metric, "", tuple(cells))


def _size(run: Record) -> Size:
    data = run.config.get("data", {})
    return training_size(data.get("per_class"), data.get("fraction"))


def _fold(run: Record) -> int | None:
    fold = run.config.get("data", {}).get("fold")
    return None if fold is None else int(fold)


def _command(run: Record) -> str:
    command = run.environment.get("command", "")
    return command if isinstance(command, str) else " ".join(map(str, command))


def _check_versions(folder: Path, cells: Sequence[Cell]) -> None:
    counts = Counter(cell.record.result_version for cell in cells if cell.record)
    if len(counts) > 1:
        parts = ", ".join(f"{count} of version {v}" for v, count in sorted(counts.items()))
        raise ConfigError(
            f"{folder} mixes results that cannot be compared ({parts}); delete the runs of the "
            "older version and run them again"
        )
