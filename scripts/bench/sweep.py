"""What a cell of a sweep costs, and ten thousand of them: python scripts/bench/sweep.py [PART ...].

CPU time at one thread; each number is the median over repetitions, which are measured in turns,
with their range. Parts: ``cell`` (one more cell, beyond a bare Trainer), ``ways`` (a hundred tiny
cells, beside Hydra's own launchers and fresh processes) and ``scale`` (10,008 cells with fake jobs
of 10 ms, which take a few minutes). The exit code is 1 when a median is above its limit.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

from cells import (
    FAKE_COMPARISON,
    SETTINGS,
    STEPS,
    STOCK_APP,
    STOCK_BASIC,
    STOCK_JOBLIB,
    VALIDATE,
    listed,
    seeds,
    sweep,
    tiny_configs,
)
from measuring import Line, cpu_ms, less, process, run_parts

PYTHON = sys.executable
COMMAND = (PYTHON, "-m", "warmstart")
MORE = 5  # cells by which the longer of two sweeps is longer
# Eight choices of options, each of which has to be composed.
CHOICES = {
    "scheduler": ["constant", "cosine", "linear", "step"],
    "optimizer": ["sgd", "adamw"],
}
TINY = 100  # cells
FRESH = 5  # of them are run in fresh processes, for the rest
SEEDS = 556  # of 3 arms and 6 sizes


def main() -> int:
    """Measure the parts that were asked for, print the table, and return the exit code."""
    parts = {"cell": cell, "ways": ways, "scale": scale}
    return run_parts(__doc__, parts, {"cell": 9, "ways": 3, "scale": 1})


def cell(repeat: int) -> Iterator[Line]:
    """Compare one more tiny cell with a bare fit and test of the same steps and evaluations."""
    import plain

    with tempfile.TemporaryDirectory() as folder:
        out, own = Path(folder, "out"), tiny_configs(Path(folder, "own"))
        saved = Path(folder, "bare")
        model, batches = plain.ready(["data.per_class=1"], steps=STEPS)
        pretrained = ["init=pretrained", "init.weights=source:tiny"]

        def bare() -> None:
            for _ in range(MORE):
                plain.fit_and_test(model(), batches, validate=VALIDATE, folder=saved)

        def values(number: int, *given: str) -> float:
            more = cpu_ms(lambda: sweep(own, out, *given, seeds(20 * number, MORE + 1)))
            one = cpu_ms(lambda: sweep(own, out, *given, seeds(20 * number + 19, 1)))
            return (more - one) / MORE

        def options(number: int) -> float:
            more = cpu_ms(lambda: sweep(own, out, *all_of_them, seeds(20 * number + 10, 1)))
            one = cpu_ms(lambda: sweep(own, out, *first_of_them, seeds(20 * number + 11, 1)))
            return (more - one) / (4 * 2 - 1)

        all_of_them = [listed(group, options) for group, options in CHOICES.items()]
        first_of_them = [listed(group, options[:1]) for group, options in CHOICES.items()]
        sweep(own, out, *pretrained)  # the source run, and what is made once in a process
        ways: dict[str, Callable[[int], float]] = {
            "bare": lambda number: cpu_ms(bare) / MORE,
            "only values differ, from scratch": lambda number: values(number),
            "only values differ, pretrained": lambda number: values(number, *pretrained),
            "options differ": options,
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(1, repeat + 1):
            for name, way in ways.items():
                times[name].append(way(number))
        base = times.pop("bare")
        yield Line(f"{STEPS} steps, 2 validations, test, checkpoint: bare Trainer", base, "ms")
        for name, found in times.items():
            limit = 120 if name == "options differ" else 40
            yield Line(f"one more cell, {name}", found, "ms")
            yield Line("  beyond the bare Trainer", less(found, base), "ms", limit)


def ways(repeat: int) -> Iterator[Line]:
    """Compare ways to run a hundred tiny cells; everything counts, imports too."""
    swept = [*SETTINGS, seeds(0, TINY)]
    stock = [PYTHON, "-c", STOCK_APP, "-m", *swept]
    runs: dict[str, list[str]] = {
        "warmstart, basic": [*COMMAND, "train", "-m", *swept],
        "warmstart, local, 2 workers": [
            *(*COMMAND, "train", "-m", "hydra/launcher=local", "hydra.launcher.workers=2"),
            *swept,
        ],
        "Hydra's sweeper and basic launcher": [*stock, *STOCK_BASIC],
    }
    if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"):
        runs["Hydra's sweeper and joblib launcher, 2 processes"] = [*stock, *STOCK_JOBLIB]
    else:
        print("not compared: hydra-joblib-launcher is not installed")
    times: dict[str, list[float]] = {name: [] for name in (*runs, "fresh")}
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            for number, (name, command) in enumerate(runs.items()):
                found = process([*command, f"out={folder}/{number}"], cwd=folder)
                times[name].append(found[0])
            alone = [
                process([*COMMAND, "train", *SETTINGS, f"seed={seed}", f"out={folder}/alone"])[0]
                for seed in range(FRESH)
            ]
            times["fresh"].append(sum(alone) / FRESH * TINY)
    fresh, ours = times.pop("fresh"), times["warmstart, basic"]
    for name, found in times.items():
        yield Line(f"{TINY} tiny cells: {name}", found, "s")
        if found is not ours:
            yield Line("  of warmstart, basic", _ratios(found, ours), "x")
    yield Line(f"{TINY} tiny cells: fresh processes (from {FRESH})", fresh, "s")
    yield Line("  of warmstart, basic", _ratios(fresh, ours), "x")


def scale(repeat: int) -> Iterator[Line]:
    """Check, skip and report on 10,008 cells whose jobs are fake."""
    counts = 3 * 6 * SEEDS
    grid = ["compare", "comparison=digits", "trainer=cpu", "keep=none", seeds(0, SEEDS)]
    first: dict[str, list[float]] = {}
    again: dict[str, list[float]] = {}
    looks: list[float] = []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            process([*COMMAND, "train", "comparison=digits", "trainer=cpu", f"out={folder}/real"])
            (template,) = Path(folder, "real", "runs").glob("*/")
            for found in (first, again):
                told = Path(folder, "told.json")
                words = [f"{folder}/out", str(template), str(told), *grid]
                process([PYTHON, "-c", FAKE_COMPARISON, *words])
                for name, value in json.loads(told.read_text()).items():
                    found.setdefault(name, []).append(value)
            place = f"{folder}/out/comparisons/digits"
            looks.append(process([*COMMAND, "status", place])[1])
    ours = less(first["total"], first["jobs"])
    yield Line(f"{counts:,} new cells: composing and checking", first["check"], "s")
    yield Line(f"{counts:,} new cells: report", first["report"], "s")
    yield Line(f"{counts:,} new cells: all but the fake jobs", ours, "s", 60)
    yield Line("  most memory", first["rss"], "MiB", 1024)
    yield Line(f"{counts:,} finished cells: checking and skipping", again["check"], "s")
    yield Line(f"{counts:,} finished cells: all", again["total"], "s", 60)
    yield Line("  most memory", again["rss"], "MiB", 1024)
    yield Line(f"{counts:,} finished cells: warmstart status, wall", looks, "s", 2)


def _ratios(first: list[float], second: list[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
