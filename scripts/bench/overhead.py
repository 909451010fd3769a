"""What warmstart costs beyond plain Lightning: python scripts/bench/overhead.py [PART ...].

CPU time at one thread. What is compared is measured in turns, block by block, so that a busy
machine slows both alike; each number is the median over repetitions, with their range. Differences
are taken within a repetition. The exit code is 1 when a median is above its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

PYTHON = sys.executable
WINDOW = 8  # steps; one row of the training curve falls into each window, as in a run of 400
STEPS = 120  # of one block
# Of one tiny cell: its steps, and how many of them lie between two validations.
CELL_STEPS, VALIDATE = 10, 5
CELLS = 5  # more of them in the longer of two sweeps

# Both leave without taking the interpreter down. The first step is over when the second begins.
IMPORT = "import os, pytorch_lightning; os._exit(0)"
FIRST_STEP = """
import os, sys
from warmstart.cli import main
from warmstart.task import Classification
step = Classification.training_step
def stop(self, batch, batch_idx):
    if batch_idx:
        os._exit(0)
    return step(self, batch, batch_idx)
Classification.training_step = stop
sys.exit(main(["train", "out=" + sys.argv[1]]) or 1)
"""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table; no limit: for reference."""

    name: str
    values: list[float]
    unit: str
    limit: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def failed(self) -> bool:
        return self.limit is not None and self.median > self.limit

    def __str__(self) -> str:
        number = f"{self.median:9.3f} [{min(self.values):9.3f} {max(self.values):9.3f}]"
        limit = "" if self.limit is None else f"{self.limit:g}"
        verdict = "" if self.limit is None else "TOO MUCH" if self.failed else "ok"
        return f"{self.name:58} {number} {self.unit:3} {limit:>6} {verdict}"


def main() -> int:
    """Measure the parts that were asked for, print the table, and return the exit code."""
    parts: dict[str, Callable[[int], Iterator[Line]]] = {
        "start": start,
        "step": step,
        "cell": cell,
        "commands": commands,
    }
    repeats = {"start": 5, "step": 25, "cell": 9, "commands": 5}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--repeat", type=int, help="repetitions of each part")
    options = parser.parse_args()
    wrong = sorted(set(options.parts) - set(parts))
    if wrong:
        parser.error(f"there is no part {wrong[0]!r}; the parts are {', '.join(parts)}")
    title = f"{'CPU time at one thread, unless it says wall':58}"
    print(f"{title} {'median':>9} [{'least':>9} {'most':>9}] {'':3} {'limit':>6}")
    failed = False
    for name in options.parts or parts:
        for line in parts[name](options.repeat or repeats[name]):
            print(line, flush=True)
            failed |= line.failed
    return int(failed)


def start(repeat: int) -> Iterator[Line]:
    """Compare the way to the first step with what importing Lightning takes."""
    times: dict[str, list[float]] = {"import": [], "step": []}
    for _ in range(repeat):
        times["import"].append(_process([PYTHON, "-c", IMPORT])[0])
        with tempfile.TemporaryDirectory() as folder:
            times["step"].append(_process([PYTHON, "-c", FIRST_STEP, folder])[0])
    ratios = [b / a for a, b in zip(times["import"], times["step"], strict=True)]
    yield Line("import pytorch_lightning, in a fresh process", times["import"], "s")
    yield Line("warmstart train until its first step, likewise", times["step"], "s")
    yield Line("  ratio", ratios, "x", 1.3)


def step(repeat: int) -> Iterator[Line]:
    """Compare a training step with that of the barest module and trainer, and of a bare loop.

    Theirs get finished tensors; ours cuts the batch from the images and normalizes it too.
    """
    import plain

    for name, overrides in (
        ("default net", []),
        ("net of width 2", ["model.widths=[2,2]"]),
    ):
        model, batches = plain.ready(overrides, steps=STEPS)
        ways: dict[str, Callable[[list[float]], None]] = {
            "loop": lambda stamps, m=model, b=batches["train"]: plain.loop(m(), b, stamps),
            "bare": lambda stamps, m=model, b=batches["train"]: plain.fit(m(), b, stamps),
            "ours": lambda stamps, o=overrides: _our_steps(o, stamps),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeat):
            for way, run in ways.items():
                stamps: list[float] = []
                run(stamps)
                times[way].append(_per_step(stamps))
        yield Line(f"step, {name}: bare torch loop", times["loop"], "ms")
        yield Line(f"step, {name}: bare Lightning", times["bare"], "ms")
        yield Line(f"step, {name}: warmstart", times["ours"], "ms")
        yield Line("  bare Lightning beyond the loop", _less(times["bare"], times["loop"]), "ms")
        yield Line(
            "  warmstart beyond bare Lightning", _less(times["ours"], times["bare"]), "ms", 0.1
        )


def cell(repeat: int) -> Iterator[Line]:
    """Compare one more tiny cell of a sweep with a bare fit and test."""
    import plain

    with tempfile.TemporaryDirectory() as folder:
        out, own = Path(folder, "out"), _own_configs(Path(folder, "own"))
        model, batches = plain.ready(["data.per_class=1"], steps=CELL_STEPS)
        arms = {
            "scratch": ["init=scratch"],
            "pretrained": ["init=pretrained", "init.weights=source:tiny"],
        }
        for arm in arms.values():  # the source run, and what is made once in a process
            _sweep(own, out, arm, range(1))
        times: dict[str, list[float]] = {name: [] for name in ("bare", *arms)}

        def bare() -> None:
            for _ in range(CELLS):
                plain.fit_and_test(model(), batches, validate=VALIDATE)

        seeds = 1
        for _ in range(repeat):
            times["bare"].append(_timed(bare) / CELLS)
            for name, arm in arms.items():
                many, one = range(seeds, seeds + CELLS + 1), range(seeds + CELLS + 1, seeds + 8)
                more = _timed(lambda a=arm, s=many: _sweep(own, out, a, s))
                less = _timed(lambda a=arm, s=one: _sweep(own, out, a, s))
                times[name].append((more - less) / (len(many) - len(one)))
            seeds += 8
        yield Line(f"{CELL_STEPS} steps, validation, test: bare Trainer", times["bare"], "ms")
        for name in arms:
            yield Line(f"one more cell, {name}", times[name], "ms")
            yield Line("  beyond the bare Trainer", _less(times[name], times["bare"]), "ms", 150)


def commands(repeat: int) -> Iterator[Line]:
    """Time the commands that import no torch."""
    command = [PYTHON, "-m", "warmstart"]
    with tempfile.TemporaryDirectory() as folder:
        own, out = _own_configs(Path(folder, "own")), Path(folder, "out")
        flags = ["--config-dir", str(own), "comparison=tiny", f"out={out}"]
        _process([*command, "compare", *flags])
        asked = [_process([*command, "--help"]) for _ in range(repeat)]
        reported = [
            _process([*command, "report", str(out / "comparisons" / "tiny")]) for _ in range(repeat)
        ]
    yield Line("warmstart --help, wall", [wall for _, wall in asked], "s", 0.5)
    yield Line("warmstart report (30 runs)", [cpu for cpu, _ in reported], "s")
    yield Line("warmstart report (30 runs), wall", [wall for _, wall in reported], "s")


def _process(command: Sequence[str]) -> tuple[float, float]:
    """Run a command and return its CPU-seconds and its seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


def _timed(work: Callable[[], None]) -> float:
    """Return the CPU milliseconds of `work`."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3


def _less(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True)]


def _per_step(stamps: Sequence[float]) -> float:
    """Return the milliseconds of a step: of the least disturbed quarter of a block's windows."""
    starts = range(WINDOW, len(stamps) - WINDOW, WINDOW)  # the first window is left out
    windows = [stamps[start + WINDOW] - stamps[start] for start in starts]
    return statistics.quantiles(windows, n=4)[0] / WINDOW * 1e3


def _our_steps(overrides: Sequence[str], stamps: list[float]) -> None:
    import warmstart
    from warmstart.task import Classification

    training_step = Classification.training_step

    def stamped(self: Classification, batch: Any, batch_idx: int) -> Any:
        stamps.append(time.process_time())
        return training_step(self, batch, batch_idx)

    settings = [f"steps={STEPS}", f"val_every_steps={STEPS}", f"log_every_steps={WINDOW}"]
    Classification.training_step = stamped  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as out:
            warmstart.train(["trainer=cpu", f"out={out}", *settings, *overrides])
    finally:
        Classification.training_step = training_step  # type: ignore[method-assign]


def _own_configs(folder: Path) -> Path:
    """Write a source run of a few steps and a comparison of thirty tiny runs."""
    from warmstart.configs import folder as shipped

    glyphs = (shipped() / "source" / "glyphs.yaml").read_text()
    tiny, found = re.subn(r"(?m)^steps:.*", f"steps: {CELL_STEPS}", glyphs)
    assert found == 1
    grid = {"init": "scratch", "data.per_class": "1,2,5", "seed": ",".join(map(str, range(10)))}
    comparison = {
        "comparison": {"name": "tiny", "reference": "scratch/full", "metric": "test/accuracy"},
        "steps": CELL_STEPS,
        "hydra": {"sweeper": {"params": grid}},
    }
    files = {
        "source/tiny.yaml": tiny,
        "comparison/tiny.yaml": f"# @package _global_\n{json.dumps(comparison)}\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


def _sweep(own: Path, out: Path, arm: Sequence[str], seeds: Sequence[int]) -> None:
    """Run a sweep as the command does, in this process."""
    from warmstart.cli import main as warmstart

    settings = ["trainer=cpu", f"out={out}", "data.per_class=1", f"steps={CELL_STEPS}"]
    swept = [f"val_every_steps={VALIDATE}", f"seed={','.join(map(str, seeds))}"]
    with contextlib.redirect_stdout(io.StringIO()):
        code = warmstart(["train", "--config-dir", str(own), "-m", *settings, *swept, *arm])
    assert code == 0


if __name__ == "__main__":
    sys.exit(main())
