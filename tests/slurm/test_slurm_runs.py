"""Real runs on a real Slurm cluster: equal to those of this process, also after a preemption."""

import dataclasses
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import warmstart
from tiny import write_configs
from warmstart import configs as compositions
from warmstart.cli import main
from warmstart.launch.jobs import Job, Outcome, Resources
from warmstart.launch.slurm import SlurmEngine
from warmstart.results import record as records
from warmstart.results import state as states
from warmstart.results.record import Record
from warmstart.run.execution import execute
from warmstart.run.preparing import prepare

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _python_path(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the jobs


def comparable(out: Path) -> dict[str, Record]:
    """Return all records, without the state of the checkout, which may change between runs."""
    found = {path.name: records.read(path) for path in (out / "runs").iterdir() if path.is_dir()}
    return {
        key: dataclasses.replace(record, versions={})
        for key, record in found.items()
        if record is not None
    }


def test_a_comparison_gives_the_records_that_basic_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = write_configs(tmp_path / "configs")
    words = ["compare", "--config-dir", str(configs), "comparison=tiny"]
    words.append("data.per_class=2")
    slurm = ["hydra/launcher=slurm", "hydra.launcher.mem_gb=1", "hydra.launcher.poll_seconds=0.3"]
    packed = "hydra.launcher.cells_per_job=2"
    assert main([*words, *slurm, packed, f"out={tmp_path / 'slurm'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if re.match(r"\[\d/4\] .*test/accuracy 0\.", line)]) == 4
    assert sum(line.startswith("submitted") for line in lines) == 3
    assert main([*words, f"out={tmp_path / 'basic'}"]) == 0
    found = comparable(tmp_path / "slurm")
    assert len(found) == 4
    assert found == comparable(tmp_path / "basic")
    state = states.read(tmp_path / "slurm" / "runs" / next(iter(found)))
    assert state is not None
    assert re.fullmatch(r"\d+", state.job)


def test_a_preempted_run_loses_no_step_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    words = ["data=glyphs", "data.variants=10", "steps=800", "trainer=cpu", "test=false"]
    more = ["checkpoint_seconds=1000", "val_every_steps=200", "keep=none", "resources.gpus=1"]

    def job(out: Path) -> Job:
        config = compositions.plain(warmstart.compose([*words, *more, f"out={out}"]))
        run = prepare(config)
        return Job(run.key, "the run", run.folder, config, Resources(gpus=1))

    interrupted = job(tmp_path / "slurm")
    engine = SlurmEngine(
        tmp_path / "slurm" / "slurm", partition="low", mem_gb=1, poll_seconds=0.3, say=print
    )
    ended: list[Outcome] = []
    thread = threading.Thread(target=lambda: ended.extend(engine.run([interrupted])), daemon=True)
    thread.start()
    stopped = _preempt(interrupted)
    thread.join(timeout=120)
    assert [outcome.error for outcome in ended] == [None]
    log = next((tmp_path / "slurm" / "slurm").glob("*_log.err")).read_text()
    assert f"going on after step {stopped} of 800" in log
    unbroken = prepare(job(tmp_path / "basic").config)
    execute(unbroken)
    assert comparable(tmp_path / "slurm") == comparable(tmp_path / "basic")


def _preempt(job: Job) -> int:
    """Take the GPU away from the run while it trains; return the step that it stopped after."""
    end = time.monotonic() + 60
    while (state := states.read(job.folder)) is None or state.stage != "training":
        assert time.monotonic() < end, "the run does not start"
        time.sleep(0.05)
    words = ["sbatch", "--partition=high", "--gres=gpu:4", "--mem=100M", "--output=/dev/null"]
    subprocess.run([*words, "--wrap=sleep 1"], check=True, capture_output=True)
    while (state := states.read(job.folder)) is None or state.state != "stopped":
        assert state is not None
        assert state.state == "running"
        assert time.monotonic() < end, "the run does not stop"
        time.sleep(0.05)
    assert 0 < state.step < 800
    return state.step
