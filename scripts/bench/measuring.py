"""How the benchmarks measure, and their table of medians."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import functools
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table: at most `limit`, at least `least`; without them for reference."""

    name: str
    values: list[float]
    unit: str
    limit: float | None = None
    least: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def failed(self) -> bool:
        return not (self.least or -math.inf) <= self.median <= (self.limit or math.inf)

    def __str__(self) -> str:
        number = f"{self.median:9.3f} [{min(self.values):9.3f} {max(self.values):9.3f}]"
        limit = "" if self.limit is None else f"{self.limit:g}"
        limit = limit if self.least is None else f">={self.least:g}"
        wrong = "TOO MUCH" if self.least is None else "TOO LITTLE"
        verdict = "" if not limit else wrong if self.failed else "ok"
        return f"{self.name:58} {number} {self.unit:3} {limit:>6} {verdict}"


def run_parts(
    description: str | None,
    parts: Mapping[str, Callable[[int], Iterator[Line]]],
    repeats: Mapping[str, int],
) -> int:
    """Measure the parts that the command line asks for, print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--repeat", type=int, help="repetitions of each part")
    options = parser.parse_args()
    wrong = sorted(set(options.parts) - set(parts))
    if wrong:
        parser.error(f"there is no part {wrong[0]!r}; the parts are {', '.join(parts)}")
    print(header())
    failed = False
    for name in options.parts or parts:
        for line in parts[name](options.repeat or repeats[name]):
            print(line, flush=True)
            failed |= line.failed
    return int(failed)


def header() -> str:
    """Return the headings of the table."""
    title = f"{'CPU time at one thread, unless it says wall':58}"
    return f"{title} {'median':>9} [{'least':>9} {'most':>9}] {'':3} {'limit':>6}"


def process(
    command: Sequence[str], *, cwd: str | None = None, **environment: str
) -> tuple[float, float]:
    """Run a command and return its CPU-seconds, with those of all that it starts, and its seconds.

    What outlives the command, as a server that forks workers does for a moment, is waited for.
    """
    _adopt_orphans()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    quiet = subprocess.DEVNULL
    # Imports from source would double the time of a process that has little to do.
    environment = {**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run(command, check=True, stdout=quiet, stderr=quiet, env=environment, cwd=cwd)
    wall = time.perf_counter() - began
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


@functools.cache
def _adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, or the system would not count them."""
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1)


def cpu_ms(work: Callable[[], None]) -> float:
    """Return the CPU milliseconds of `work`."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3


def less(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True)]
