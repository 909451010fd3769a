"""Sweeps of many cells: every one is checked, run once, skipped the next time and reported.

What ten thousand of them cost, ``scripts/bench/sweep.py scale`` measures.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warmstart
from results.records import write_comparison
from tiny import write_configs
from warmstart import summary
from warmstart.cli import main
from warmstart.launch import basic
from warmstart.launch.jobs import Job, Outcome
from warmstart.results.record import Record, read

pytestmark = pytest.mark.slow

SEEDS = 100
CELLS = 2 * 2 * SEEDS  # of comparison=tiny: arms, sizes, seeds


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Job]:
    """Let jobs end at once with a record, and return those that ran."""
    real = warmstart.train(["trainer=cpu", "steps=2", "data.per_class=1", f"out={tmp_path}/real"])
    ran: list[Job] = []

    def fake(job: Job, progress: Any = None) -> Outcome:
        ran.extend(job.runs)
        for one in job.runs:
            finished(real, one).write(one.folder)
        if job.source:
            (job.folder / "best.safetensors").touch()
        outcomes = tuple(Outcome(one, text="fake") for one in job.members)
        return Outcome(job, text="fake", members=outcomes)

    monkeypatch.setattr(basic, "run_job", fake)
    return ran


def finished(real: Record, job: Job) -> Record:
    seed = job.config["seed"]
    metrics = dict.fromkeys(real.metrics, 0.9 + seed * 1e-6)
    return dataclasses.replace(real, key=job.key, seed=seed, metrics=metrics)


def test_a_thousand_cells_are_checked_run_skipped_and_reported(
    jobs: list[Job],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seeds = "seed=" + ",".join(map(str, range(SEEDS)))
    words = ["compare", "--config-dir", str(write_configs(tmp_path / "configs"))]
    words += ["comparison=tiny", "trainer=cpu", "keep=none", seeds, f"out={tmp_path}/out"]

    assert main(words) == 0
    assert sum(not job.source for job in jobs) == CELLS
    assert sum(job.source > 0 for job in jobs) == 1, "the shared source once"
    ran = len(jobs)

    assert main(words) == 0
    assert len(jobs) == ran, "finished cells are skipped"
    assert f"{CELLS} of {CELLS} runs are finished and are skipped" in capsys.readouterr().out

    folder = tmp_path / "out" / "comparisons" / "tiny"
    plan = json.loads((folder / "cells.json").read_text())
    assert len({cell["key"] for cell in plan["cells"]}) == CELLS
    assert all(read(tmp_path / "out" / "runs" / cell["key"]) for cell in plan["cells"])
    assert f"All {CELLS} runs" in (folder / "report.html").read_text()


def test_a_report_on_many_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    arms = ["scratch", *(f"full optimizer.lr={0.001 * i:g}" for i in range(1, 150))]
    values = {
        (arm, size): [float(value) for value in generator.uniform(0.8, 0.9, 3)]
        for arm in arms
        for size in (1, 5)
    }
    # A failed and a missing half, of which only the first ones are listed.
    values |= {(arm, 5): ["out of memory", None, None] for arm in arms[50:]}  # type: ignore[dict-item]
    folder = write_comparison(tmp_path, values)
    path = summary.summarize([folder])
    told, page = capsys.readouterr().out, path.read_text()
    assert told.count("failed: ") == 50
    assert "and 250 more; the page lists all runs" in told
    assert "and 250 more: see the table of all runs" in page
    assert f"All {3 * 2 * len(arms)} runs" in page
