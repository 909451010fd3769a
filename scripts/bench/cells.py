"""Tiny cells of sweeps, for the benchmarks: their configs, and the ways to run them."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

STEPS, VALIDATE = 10, 5  # of one cell, and between two of its validations
SETTINGS = (
    *("trainer=cpu", "data.per_class=1"),
    *(f"steps={STEPS}", f"val_every_steps={VALIDATE}"),
)

# What a user would write without this program: Hydra's own sweeper, one job after the other.
STOCK_APP = """
import sys
import hydra
from hydra.core.hydra_config import HydraConfig
from warmstart.configs import folder, without_hydra

@hydra.main(config_path=str(folder()), config_name="train", version_base="1.3")
def main(cfg):
    from warmstart.run.preparing import prepare
    from warmstart.run.execution import execute
    execute(prepare(without_hydra(cfg, HydraConfig.get(), [])))

main()
"""
STOCK_BASIC = (
    "hydra/sweeper=basic",
    "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher",
)
STOCK_JOBLIB = ("hydra/sweeper=basic", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")

# A comparison whose jobs take 10 ms each and leave a record, and where the rest of the time goes.
FAKE_COMPARISON = """
import dataclasses, json, random, resource, sys, time
from pathlib import Path
from warmstart import cells, cli, summary
from warmstart.launch import basic
from warmstart.launch.jobs import Outcome
from warmstart.results import record

out, template, report, arguments = *map(Path, sys.argv[1:4]), sys.argv[4:]
known = record.read(template)
random.seed(0)
seconds = dict.fromkeys(("check", "jobs", "report"), 0.0)

def fake(job, progress=None):
    if job.members:
        return Outcome(job, members=tuple(map(fake, job.members)))
    until = time.perf_counter() + 0.01
    metrics = {name: random.uniform(0.8, 0.9) for name in known.metrics}
    config = {**known.config, "seed": job.config["seed"], "data": job.config["data"]}
    seed = job.config["seed"]
    made = dataclasses.replace(known, key=job.key, config=config, metrics=metrics, seed=seed)
    made.write(job.folder)
    if job.source:
        (job.folder / "best.safetensors").touch()
    time.sleep(max(0.0, until - time.perf_counter()))
    return Outcome(job, text="fake")

def timed(home, name, part):
    inner = getattr(home, name)
    def outer(*args, **options):
        began = time.process_time()
        try:
            return inner(*args, **options)
        finally:
            seconds[part] += time.process_time() - began
    setattr(home, name, outer)

basic.run_job = fake
timed(basic, "run_job", "jobs")
timed(cells, "plan_cells", "check")
timed(summary, "summarize", "report")
code = cli.main([*arguments, f"out={out}"])
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
report.write_text(json.dumps({**seconds, "total": time.process_time(), "rss": rss}))
sys.exit(code)
"""


def tiny_configs(folder: Path) -> Path:
    """Write a source run of a few steps and a comparison of thirty tiny runs."""
    from warmstart.configs import folder as shipped

    glyphs = (shipped() / "source" / "glyphs.yaml").read_text()
    tiny, found = re.subn(r"(?m)^steps:.*", f"steps: {STEPS}", glyphs)
    assert found == 1
    grid = {"init": "scratch", "data.per_class": "1,2,5", "seed": ",".join(map(str, range(10)))}
    comparison = {
        "comparison": {"name": "tiny", "reference": "scratch/full", "metric": "test/accuracy"},
        "steps": STEPS,
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


def sweep(own: Path, out: Path, *swept: str) -> None:
    """Run a sweep as the command does, in this process."""
    from warmstart.cli import main as warmstart

    words = ["train", "--config-dir", str(own), "-m", f"out={out}", *SETTINGS, *swept]
    with contextlib.redirect_stdout(io.StringIO()):
        assert warmstart(words) == 0


def seeds(first: int, count: int) -> str:
    """Return an override that sweeps over `count` seeds."""
    return "seed=" + ",".join(map(str, range(first, first + count)))


def listed(name: str, values: Sequence[str]) -> str:
    """Return an override that sweeps over values."""
    return f"{name}={','.join(values)}"
