"""The Slurm engine on a real cluster, with jobs that only play a run."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from slurm_work import job

from warmstart.errors import ConfigError
from warmstart.launch.jobs import Job, Outcome
from warmstart.results import state as states

pytestmark = pytest.mark.slow

Make = Callable[..., Any]


def bring(engine: Any, jobs: list[Job]) -> dict[str, Outcome]:
    """Run the jobs and return their outcomes by key; each comes once."""
    outcomes = list(engine.run(jobs))
    keys = [outcome.job.key for outcome in outcomes]
    assert sorted(keys) == sorted(job.key for job in jobs)
    return dict(zip(keys, outcomes, strict=True))


def starts(job: Job) -> list[str]:
    """Return Slurm's name of each job that began the run."""
    return (job.folder / "started").read_text().split()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def word(job: Job) -> str:
    """Return what the run's state says it is."""
    state = states.read(job.folder)
    return state.state if state is not None else ""


def queue(form: str = "%i %T") -> str:
    words = ["squeue", "--noheader", f"--format={form}"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def background() -> Iterator[Callable[[Iterator[Outcome]], list[Outcome]]]:
    """Return a function that follows an engine in a thread, and the list that it fills."""
    import threading

    threads = []

    def follow(outcomes: Iterator[Outcome]) -> list[Outcome]:
        found: list[Outcome] = []
        thread = threading.Thread(target=lambda: found.extend(outcomes), daemon=True)
        thread.start()
        threads.append(thread)
        return found

    yield follow
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive(), "the engine does not end"


def test_every_kind_of_death_costs_only_its_own_run(engine: Make, tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "good"),
        job(tmp_path, "raises", "fail"),
        job(tmp_path, "killed", "kill"),
        job(tmp_path, "exits", "exit"),
        job(tmp_path, "hangs", "hang", timeout=2.0),
    ]
    began = time.monotonic()
    ended = bring(engine(), jobs)
    assert time.monotonic() - began < 60
    assert ended["good"].error is None
    assert ended["good"].text == "val/accuracy 0.5000 in 1.0 s"
    assert ended["raises"].error == "the loss is not a number"
    killed = ended["killed"].error or ""
    assert "was killed by signal 9 (SIGKILL)" in killed
    assert "_log.err ends with 'about to die'" in killed
    log = re.search(r"\((/\S+) ends with", killed)
    assert log is not None
    assert Path(log[1]).is_file()
    assert "ended with exit code 3 and without a result" in (ended["exits"].error or "")
    assert ended["hangs"].error == "it took longer than resources.timeout=2 seconds, and was ended"
    for run in jobs[1:]:  # and the files say so too
        assert word(run) == "failed"
        assert states.read(run.folder).reason == ended[run.key].error


def test_no_two_runs_share_a_gpu(engine: Make, tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"run{i}", gpus=1, seconds=0.5) for i in range(8)]
    ended = bring(engine(), jobs)
    assert all(outcome.error is None for outcome in ended.values())
    intervals: dict[str, list[tuple[int, int]]] = {}
    for run in jobs:
        gpu, start, end = (run.folder / "interval").read_text().split()
        intervals.setdefault(gpu, []).append((int(start), int(end)))
    assert intervals.keys() <= set("0123")
    assert len(intervals) > 1
    for taken in intervals.values():
        taken.sort()
        assert all(a[1] < b[0] for a, b in pairwise(taken))


def test_what_others_need_comes_first_and_its_failure_is_theirs(
    engine: Make, tmp_path: Path
) -> None:
    jobs = [
        job(tmp_path, "after", needs=("source",)),
        job(tmp_path, "in vain", needs=("broken",)),
        job(tmp_path, "source", seconds=0.5),
        job(tmp_path, "broken", "fail"),
    ]
    ended = bring(engine(), jobs)
    assert ended["after"].error is None
    assert ended["in vain"].error == "it starts from run broken, which failed"
    assert not (tmp_path / "runs" / "in vain" / "started").exists()

    def start(key: str) -> int:
        return int((tmp_path / "runs" / key / "interval").read_text().split()[0])

    source_end = int((tmp_path / "runs" / "source" / "interval").read_text().split()[1])
    assert start("after") > source_end


def test_several_runs_share_a_job_and_a_death_sends_the_rest_again(
    engine: Make, tmp_path: Path
) -> None:
    # Of equal length they keep their order: three jobs of two runs each.
    words = ["finish", "finish", "kill", "finish", "fail", "finish"]
    jobs = [job(tmp_path, f"run{i}", do) for i, do in enumerate(words)]
    ended = bring(engine(cells_per_job=2), jobs)
    assert {key for key, outcome in ended.items() if outcome.error} == {"run2", "run4"}
    assert starts(jobs[0]) == starts(jobs[1])
    assert starts(jobs[4]) == starts(jobs[5])
    assert starts(jobs[3]) != starts(jobs[2])
    assert all(len(starts(run)) == 1 for run in jobs)


def test_a_driver_that_leaves_finds_its_jobs_again(engine: Make, tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"run{i}", "wait") for i in range(6)]  # two more than there is room for
    first = engine()
    following = first.run(jobs)
    jobs[0].folder.mkdir(parents=True)
    (jobs[0].folder / "go").touch()
    assert next(following).job is jobs[0]
    following.close()
    array = queue("%F").split()[0]
    left = f"5 runs left to Slurm; look with: warmstart status {tmp_path}, end them with: "
    assert first.said[-1] == f"{left}scancel {array}"
    for run in jobs:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "go").touch()
    second = engine()
    ended = bring(second, jobs[1:])
    assert second.said == ["in Slurm's queue already: 5 runs"]
    assert all(outcome.error is None for outcome in ended.values())
    assert all(len(starts(run)) == 1 for run in jobs)


def test_a_cancelled_run_stops_and_says_so(
    engine: Make, tmp_path: Path, background: Callable[..., list[Outcome]]
) -> None:
    jobs = [job(tmp_path, key, "wait") for key in ("begun", "waiting")]
    ended = background(engine(cells_per_job=2).run(jobs))
    until(lambda: word(jobs[0]) == "running")
    subprocess.run(["scancel", queue("%i").split()[0]], check=True)
    until(lambda: len(ended) == 2)
    for outcome in ended:
        assert "was cancelled" in (outcome.error or "")
    assert starts(jobs[0])
    assert not (jobs[1].folder / "started").exists()


def test_jobs_outlive_the_scheduler(
    cluster: Path, engine: Make, tmp_path: Path, background: Callable[..., list[Outcome]]
) -> None:
    """Killed with -9 while one run is under way and others wait; nothing is lost or done twice."""
    jobs = [job(tmp_path, f"run{i}", "wait", gpus=2) for i in range(3)]
    watching = engine()
    ended = background(watching.run(jobs))
    until(lambda: [word(run) for run in jobs].count("running") == 2)
    # It saves its state some seconds after a change; jobs that are younger would be lost.
    saved, began = cluster / "state" / "job_state", time.time()
    change = ["scontrol", "update", f"jobid={queue('%F').split()[0]}", "comment=saved"]
    subprocess.run(change, check=True)
    until(lambda: saved.exists() and saved.stat().st_mtime > began)
    pid = int((cluster / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    line = "Slurm does not answer; waiting for it (jobs go on meanwhile)"
    until(lambda: line in watching.said, 60)
    for run in jobs:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "go").touch()
    until(lambda: [word(run) for run in jobs].count("finished") == 2)
    subprocess.run(["slurmctld", "-f", cluster / "slurm.conf"], check=True)
    until(lambda: len(ended) == 3, 60)
    assert all(outcome.error is None for outcome in ended)
    assert watching.said.count(line) == 1
    assert watching.said[-1] == "Slurm answers again"
    assert all(len(starts(run)) == 1 for run in jobs)


def test_a_job_that_the_queue_forgot_is_reported_with_and_without_accounting(
    engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that never lists the job; then the accounting, if there is one, knows its end."""
    from warmstart.launch import slurm_follow

    monkeypatch.setattr(slurm_follow, "_FORGOTTEN_SECONDS", 1.0)
    fake = tmp_path / "bin"
    fake.mkdir()
    for name, text in {
        "squeue": "exit 0",
        "scontrol": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
        "sacct": "exit 1",
    }.items():
        (fake / name).write_text(f"#!/bin/sh\n{text}\n")
        (fake / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    ended = bring(engine(), [job(tmp_path, "without", "kill")])
    assert "left the queue without a result" in (ended["without"].error or "")
    (fake / "sacct").write_text("#!/bin/sh\necho 'OUT_OF_MEMORY|0:125'\n")
    ended = bring(engine(), [job(tmp_path, "with", "kill")])
    assert "ran out of memory; give hydra.launcher.mem_gb" in (ended["with"].error or "")


def test_limits_reach_slurm(engine: Make, tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"run{i}", "wait", timeout=30.0) for i in range(3)]
    options = {"max_running": 1, "signal_seconds": 30, "extra": {"comment": "a-comment"}}
    following = engine(setup=["export FROM_SETUP=1"], **options).run(jobs)
    jobs[0].folder.mkdir(parents=True)
    (jobs[0].folder / "go").touch()
    next(following)
    following.close()
    until(lambda: "RUNNING" in queue())
    assert queue("%T").split().count("RUNNING") == 1
    # 30 s for the run, 30 s for the signal, and a minute to spare.
    assert set(queue("%l %k").splitlines()) == {"2:00 a-comment"}
    script = next((tmp_path / "slurm").glob("*_submission.sh")).read_text()
    assert "#SBATCH --signal=USR2@30" in script
    assert "export FROM_SETUP=1" in script


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"partition": "nowhere"},
            "Slurm refuses the jobs: .*invalid partition specified: nowhere",
        ),
        ({"mem_gb": 4000}, "Slurm refuses the jobs: .*"),
    ],
)
def test_what_slurm_refuses_is_a_mistake_in_the_config(
    engine: Make, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        list(engine(**options).run([job(tmp_path, "run")]))
    assert "PENDING" not in queue()


def test_more_runs_than_an_array_holds(engine: Make, tmp_path: Path) -> None:
    from warmstart.launch import slurm_queue

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm_queue, "largest_array", lambda: 2)
        first = engine()
        ended = bring(first, [job(tmp_path, f"run{i}") for i in range(3)])
    assert all(outcome.error is None for outcome in ended.values())
    assert len([line for line in first.said if line.startswith("submitted")]) == 2
    files = sorted((tmp_path / "slurm").glob("warmstart-*.json"))
    assert sorted(len(json.loads(file.read_text())) for file in files) == [1, 2]
