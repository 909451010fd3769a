"""A million features of 2,048 numbers: how much memory of its own a process takes for them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import Line

# Anonymous memory is what is left without mapped pages, which the system can take back.
SCRIPT = """
import json, re, sys, threading, time
from pathlib import Path

peak = {}
def watch():
    while True:
        found = re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())
        peak[part] = max(peak.get(part, 0), int(found[1]) / 2**20)
        time.sleep(0.01)

part = "start"
threading.Thread(target=watch, daemon=True).start()

import numpy as np, torch
from warmstart.features.entries import stored
from warmstart.optim.stacked import Member, Stack
from warmstart.optim.stacked_updates import Sgd
from warmstart.strategies.probes import NearestMean, Sample

folder, count, width = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
labels = np.random.default_rng(0).integers(0, 10, count)
means = torch.randn(10, width)

def compute(rows):
    for start in range(0, len(rows), 256):
        piece = rows[start : start + 256]
        yield (means[labels[piece]] + torch.randn(len(piece), width)).half()

time.sleep(0.05)
seconds, began = {}, time.process_time()
def done():
    global began
    now = time.process_time()
    seconds[part], began = now - began, now

part = "extraction"
limit = 64 * 2**30
features = stored(
    folder, "0" * 64, count=count, shape=(width,), dtype=torch.float16, compute=compute,
    limit=limit, title="Simulated", batch=256,
)
done()
part = "8 probes, one pass"
order = np.random.default_rng(1).permutation(count)
blank = torch.zeros(10, width), torch.zeros(10)
stack = Stack([[Member(*blank, rate=0.01 * (1 + n)) for n in range(8)]], Sgd())
for step, start in enumerate(range(0, count - 255, 256)):
    rows = order[start : start + 256]
    x, y = features[rows], torch.from_numpy(labels[rows])
    stack.run([[(x, y)]], factors=[1.0], step=step)
done()
part = "nearest mean"
few = Sample(features[np.arange(1000)], labels[:1000])
NearestMean().fit(Sample(features, labels), few, classes=10, seed=0)
done()
time.sleep(0.05)
print(json.dumps({"peak": peak, "seconds": seconds}))
"""


def memory(place: Any, repeat: int) -> Iterator[Line]:
    """Let features stream through extraction and probes; their source is simulated."""
    count = 20_000 if place.quick else 1_000_000
    found = []
    for number in range(repeat):
        folder = Path(place.folder, f"million{number}")
        words = [sys.executable, "-c", SCRIPT, str(folder), str(count), "2048"]
        told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(json.loads(told.splitlines()[-1]))
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    start = [one["peak"]["start"] for one in found]
    yield Line("anonymous memory after the imports", start, "GiB")
    for part in found[0]["seconds"]:
        peak = [one["peak"][part] for one in found]
        yield Line(f"{count:,} x 2,048 float16, {part}: at most", peak, "GiB", 2)
        yield Line("  its time", [one["seconds"][part] for one in found], "s")
