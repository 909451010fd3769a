"""What warmstart costs beyond plain Lightning: python scripts/bench/overhead.py [PART ...].

CPU time at one thread. What is compared is measured in turns, block by block, so that a busy
machine slows both alike; each number is the median over repetitions, with their range. Differences
are taken within a repetition. The exit code is 1 when a median is above its limit.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

from cells import tiny_configs
from measuring import Line, less, process, run_parts

PYTHON = sys.executable
WINDOW = 8  # steps; one row of the training curve falls into each window, as in a run of 400
STEPS = 120  # of one block

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


def main() -> int:
    """Measure the parts that were asked for, print the table, and return the exit code."""
    parts = {"start": start, "step": step, "commands": commands}
    return run_parts(__doc__, parts, {"start": 5, "step": 25, "commands": 5})


def start(repeat: int) -> Iterator[Line]:
    """Compare the way to the first step with what importing Lightning takes."""
    times: dict[str, list[float]] = {"import": [], "step": []}
    for _ in range(repeat):
        times["import"].append(process([PYTHON, "-c", IMPORT])[0])
        with tempfile.TemporaryDirectory() as folder:
            times["step"].append(process([PYTHON, "-c", FIRST_STEP, folder])[0])
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
        yield Line("  bare Lightning beyond the loop", less(times["bare"], times["loop"]), "ms")
        yield Line(
            "  warmstart beyond bare Lightning", less(times["ours"], times["bare"]), "ms", 0.1
        )


def commands(repeat: int) -> Iterator[Line]:
    """Time the commands that import no torch."""
    command = [PYTHON, "-m", "warmstart"]
    with tempfile.TemporaryDirectory() as folder:
        own, out = tiny_configs(Path(folder, "own")), Path(folder, "out")
        flags = ["--config-dir", str(own), "comparison=tiny", f"out={out}"]
        process([*command, "compare", *flags])
        asked = [process([*command, "--help"]) for _ in range(repeat)]
        reported = [
            process([*command, "report", str(out / "comparisons" / "tiny")]) for _ in range(repeat)
        ]
    yield Line("warmstart --help, wall", [wall for _, wall in asked], "s", 0.5)
    yield Line("warmstart report (30 runs)", [cpu for cpu, _ in reported], "s")
    yield Line("warmstart report (30 runs), wall", [wall for _, wall in reported], "s")


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


if __name__ == "__main__":
    sys.exit(main())
