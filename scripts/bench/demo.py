"""CPU-seconds of the demo at one thread, in total and by parts: python scripts/bench/demo.py.

Runs ``warmstart compare comparison=digits`` in a process of its own, into a fresh folder. The total
is what the system counts for that process and its children; the parts are read from the process's
own CPU clock where they begin and end. The exit code is 1 above the limit.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AIM, LIMIT = 120, 180  # CPU-seconds

# The parts nest (a source run within the cell that needs it first), so each one counts what is
# inside of it as its own: the clock runs for the innermost.
PARTS = """
import collections, functools, json, sys, time
from pathlib import Path

seconds, calls, open_parts = collections.Counter(), collections.Counter(), ["start-up"]
before = 0.0

def switch():
    global before
    now = time.process_time()
    seconds[open_parts[-1]] += now - before
    before = now

def timed(home, name, part):
    inner = getattr(home, name)
    @functools.wraps(inner)
    def outer(*args, **options):
        name = part(*args)
        if name is None:
            return inner(*args, **options)
        switch()
        open_parts.append(name)
        calls[name] += 1
        try:
            return inner(*args, **options)
        finally:
            switch()
            open_parts.pop()
    setattr(home, name, outer)

def source(run):
    makes = not (run.folder / "result.json").exists()
    return "source run" if makes and run.folder.is_relative_to(store) else None

store = Path(sys.argv[1], "store")
from warmstart import cells, cli, summary
from warmstart.run import execution as run
from warmstart.launch import basic
switch()
open_parts[-1] = "the rest"
timed(cells, "plan_cells", lambda *args: "planning all cells")
timed(basic, "run_job", lambda job, *args: None if job.source else f"runs of {job.config['arm']}")
timed(run, "execute", source)
timed(summary, "summarize", lambda *args: "report")
code = cli.main(["compare", "comparison=digits", "out=" + sys.argv[1]])
switch()
json.dump({"seconds": seconds, "calls": calls}, open(sys.argv[2], "w"))
sys.exit(code)
"""


def main() -> int:
    """Run the demo, print what it took, and return the exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        parts, out = Path(folder, "parts.json"), Path(folder, "out")
        began = time.perf_counter()
        command = [sys.executable, "-c", PARTS, str(out), str(parts)]
        subprocess.run(command, check=True, env=environment)
        wall = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        content = json.loads(parts.read_text())
        trained = _training_seconds(out)
    total = used.ru_utime + used.ru_stime
    measured: dict[str, float] = content["seconds"]
    measured["the rest"] = total - sum(measured.values()) + measured["the rest"]
    print(f"\n{'CPU-seconds':32}{'s':>8}{'times':>8}{'s each':>9}")
    for name, seconds in measured.items():
        count = content["calls"].get(name)
        each = f"{count:8}{seconds / count:9.2f}" if count else ""
        print(f"{name:32}{seconds:8.1f}{each}")
    print(f"{'total':32}{total:8.1f}   aim {AIM}, limit {LIMIT}: {_verdict(total)}")
    print(f"{'wall, total':32}{wall:8.1f}")
    print(f"{'wall, training by the records':32}{trained:8.1f}")
    return int(total > LIMIT)


def _verdict(total: float) -> str:
    if total > LIMIT:
        return "TOO MUCH"
    return "ok" if total <= AIM else "within the limit, above the aim"


def _training_seconds(out: Path) -> float:
    records = [json.loads(path.read_text()) for path in out.glob("**/runs/*/result.json")]
    return sum(record["timing"]["train_seconds"] for record in records)


if __name__ == "__main__":
    sys.exit(main())
