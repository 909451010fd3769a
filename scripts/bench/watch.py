"""What the looks at the layer groups cost: python scripts/bench/watch.py [PART ...].

Runs of equal steps with looks and without them take turns, each in this process. Of every run the
CPU time between the first and the last step counts, with all of its looks, which come about 26
times in a run of 400 steps. The number is the ratio within a repetition; the exit code is 1 when
its median is above 1.02.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

from measuring import Line, run_parts

LIMIT = 1.02
PARTS = {
    "digits": [],
    "resnet20": ["model=resnet20", "steps=200", "batch_size=16"],
    "mobilenet": ["model=mobilenet_v2", "data.size=96", "steps=40", "batch_size=16"],
}


def main() -> int:
    """Measure the parts that were asked for, print the table, and return the exit code."""
    parts: dict[str, Callable[[int], Iterator[Line]]] = {
        name: partial(compare, name, overrides) for name, overrides in PARTS.items()
    }
    return run_parts(__doc__, parts, {"digits": 15, "resnet20": 5, "mobilenet": 3})


def compare(name: str, overrides: Sequence[str], repeat: int) -> Iterator[Line]:
    """Compare runs with looks and without."""
    steps(overrides, watch="null")  # decodes the images, warms up the caches
    times: dict[str, list[float]] = {"0": [], "null": []}
    for turn in range(repeat):
        # Neither has the better place in every turn.
        for watch in sorted(times, reverse=bool(turn % 2)):
            times[watch].append(steps(overrides, watch=watch))
    ratios = [b / a for a, b in zip(times["0"], times["null"], strict=True)]
    yield Line(f"{name}: a step without looks", times["0"], "ms")
    yield Line(f"{name}: a step with looks", times["null"], "ms")
    yield Line("  ratio", ratios, "x", LIMIT)


def steps(overrides: Sequence[str], *, watch: str) -> float:
    """Return the milliseconds of CPU time of an average step."""
    import warmstart
    from warmstart.task import Classification

    training_step, stamps = Classification.training_step, list[float]()

    def stamped(self: Classification, batch: Any, batch_idx: int) -> Any:
        stamps.append(time.process_time())
        return training_step(self, batch, batch_idx)

    Classification.training_step = stamped  # type: ignore[method-assign]
    settings = ["trainer=cpu", "val_every_steps=100000", "test=false", "keep=none"]
    try:
        with tempfile.TemporaryDirectory() as out:
            given = [f"out={out}", f"watch_every_steps={watch}", *settings, *overrides]
            warmstart.train(given)
    finally:
        Classification.training_step = training_step  # type: ignore[method-assign]
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1) * 1e3


if __name__ == "__main__":
    sys.exit(main())
