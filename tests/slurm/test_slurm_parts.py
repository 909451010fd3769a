"""What the Slurm engine decides without a cluster."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_work import job

from warmstart.errors import ConfigError
from warmstart.launch import slurm_arrays, slurm_queue
from warmstart.launch.jobs import Job, Resources
from warmstart.launch.slurm import SlurmEngine
from warmstart.launch.slurm_arrays import Options, batches, minutes
from warmstart.launch.slurm_follow import _result
from warmstart.launch.slurm_queue import Entry, Place, cause, exit_code
from warmstart.results import pruning
from warmstart.results import state as states


class TestArrays:
    @given(
        kinds=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=30),
        per_job=st.integers(1, 4),
        largest=st.integers(1, 5),
    )
    def test_every_run_is_in_one_task_and_behind_what_it_needs(
        self, kinds: list[tuple[int, int]], per_job: int, largest: int
    ) -> None:
        """A kind is the number of GPUs, and the run before it that is needed (0: none)."""
        jobs = [
            dataclasses.replace(
                job(Path("out"), f"run{i}", gpus=gpus),
                needs=(f"run{i - back}",) if 0 < back <= i else (),
            )
            for i, (gpus, back) in enumerate(kinds)
        ]
        found = batches(jobs, cells_per_job=per_job, largest=largest)
        done: set[str] = set()
        for batch in found:
            assert 1 <= len(batch.tasks) <= largest
            assert set(batch.needs) <= done
            for task in batch.tasks:
                assert 1 <= len(task) <= per_job
                assert {run.resources for run in task} == {batch.resources}
                assert all(set(run.needs) == set(batch.needs) for run in task)
            done |= {run.key for task in batch.tasks for run in task}
        keys = [run.key for batch in found for task in batch.tasks for run in task]
        assert sorted(keys) == sorted(run.key for run in jobs)

    def test_two_sources_and_the_runs_that_start_from_them(self) -> None:
        names = {"s": (), "t": (), "a": ("s",), "b": ("t",), "c": ("s",), "d": (), "e": ("gone",)}
        jobs = [job(Path("out"), key, needs=needs) for key, needs in names.items()]
        found = batches(jobs, cells_per_job=2, largest=1000)
        plan = [([[run.key for run in task] for task in b.tasks], b.needs) for b in found]
        assert plan == [
            ([["s"], ["t"]], ()),  # each in a job of its own
            ([["a", "c"]], ("s",)),
            ([["b"]], ("t",)),
            ([["d", "e"]], ()),
        ]

    def test_who_finds_a_job_in_the_queue_knows_its_runs(self, tmp_path: Path) -> None:
        (tmp_path / "warmstart-1.json").write_text('[["a", "b"], ["c"]]')
        assert slurm_arrays.keys_of(tmp_path, "warmstart-1", Place("12", 1)) == ["c"]
        assert slurm_arrays.keys_of(tmp_path, "warmstart-1", Place("12")) == ["a", "b"]
        assert slurm_arrays.keys_of(tmp_path, "warmstart-2", Place("12", 0)) == []

    @pytest.mark.parametrize(
        ("timeout", "given_minutes", "runs", "expected"),
        [
            (None, None, 1, None),  # the partition's
            (None, 30, 4, 30),
            (60.0, None, 1, 4),  # 60 s and 90 s for the signal are 3 minutes, and one to spare
            (60.0, None, 4, 7),  # 240 s + 90 s: 6 minutes, and one
            (60.0, 30, 4, 30),
        ],
    )
    def test_time_limits(
        self, timeout: float | None, given_minutes: int | None, runs: int, expected: int | None
    ) -> None:
        options = Options(time_minutes=given_minutes)
        assert minutes(Resources(timeout=timeout), options, runs) == expected


class TestWords:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("0", 0),
            ("256", 1),  # of wait(2): exit code 1
            ("35072", -9),  # of wait(2): exit code 137 = 128 + 9
            ("9", -9),  # of wait(2): killed itself
            ("3:0", 3),
            ("137:0", -9),
            ("0:9", -9),
            ("", 0),
            ("N/A", 0),
        ],
    )
    def test_exit_codes(self, text: str, code: int) -> None:
        assert exit_code(text) == code

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            (None, "left the queue without a result"),
            (Entry("FAILED", code=-11), "was killed by signal 11 (SIGSEGV)"),
            (Entry("FAILED", code=3), "ended with exit code 3 and without a result"),
            (Entry("OUT_OF_MEMORY"), "ran out of memory; give hydra.launcher.mem_gb"),
            (Entry("NODE_FAIL"), "was lost with its node"),
            (Entry("TIMEOUT"), "hit its time limit; give more with hydra.launcher.time_minutes"),
            (Entry("CANCELLED"), "was cancelled"),
        ],
    )
    def test_causes(self, entry: Entry | None, words: str) -> None:
        assert cause(entry).startswith(words)

    def test_the_job_around_this_process_is_not_passed_on(self) -> None:
        around = {"SLURM_CONF": "a", "SLURM_JOB_ID": "1", "SRUN_CPUS_PER_TASK": "2", "PATH": "p"}
        assert slurm_queue.environment(around) == {"SLURM_CONF": "a", "PATH": "p"}


class TestOptions:
    @pytest.fixture(autouse=True)
    def _commands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slurm_queue, "check_commands", lambda: None)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"cells_per_job": 0}, "cells_per_job is 0, but must be a whole number from 1"),
            ({"max_running": 1.5}, "max_running is 1.5, but must be a whole number from 1"),
            ({"time_minutes": "1h"}, "time_minutes is '1h', but must be a whole number from 1"),
            ({"mem_gb": 0}, "mem_gb is 0, but must be a number above 0"),
            ({"poll_seconds": 300}, "poll_seconds is 300, but must be from 0.1 to 30"),
            ({"extra": {"array": "0-3"}}, "extra sets 'array', which warmstart itself sets"),
        ],
    )
    def test_what_cannot_be_meant(
        self, tmp_path: Path, options: dict[str, object], words: str
    ) -> None:
        with pytest.raises(ConfigError, match=words):
            SlurmEngine(tmp_path, **options)  # type: ignore[arg-type]

    def test_a_share_of_a_gpu(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"gpus is 0\.5, but Slurm gives whole GPUs"):
            list(SlurmEngine(tmp_path).run([job(tmp_path, "run", gpus=0.5)]))

    def test_a_run_that_may_take_longer_than_its_job(self, tmp_path: Path) -> None:
        engine = SlurmEngine(tmp_path, time_minutes=1)
        with pytest.raises(ConfigError, match=r"timeout is 90 s, but .*time_minutes=1 ends a job"):
            list(engine.run([job(tmp_path, "run", timeout=90.0)]))

    def test_nothing_to_do_asks_slurm_nothing(self, tmp_path: Path) -> None:
        assert list(SlurmEngine(tmp_path).run([])) == []
        assert SlurmEngine(tmp_path).call(max, 1, 2) == 2


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs Slurm's command sbatch, which this machine"):
        SlurmEngine(tmp_path)


def test_slurm_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in slurm_queue.COMMANDS:
        text = "echo 'squeue: fatal: Could not establish a configuration source' >&2; exit 1"
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ConfigError, match="finds no configuration of Slurm on this machine"):
        SlurmEngine(tmp_path)


Task = subprocess.Popen[str]
TASK = """
import sys; from pathlib import Path; from slurm_work import job, play
from warmstart.launch.slurm_task import SlurmTask
SlurmTask([job(Path(sys.argv[1]), "run", "wait")], {}, play)()
"""


class TestSignals:
    """A task in a process of its own, with a `scontrol` that writes down what it is asked."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Job:
        (tmp_path / "scontrol").write_text(
            f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\ncat {tmp_path}/answer\n'
        )
        (tmp_path / "scontrol").chmod(0o755)
        (tmp_path / "answer").touch()
        return job(tmp_path, "run", "wait")

    @pytest.fixture
    def start(self, run: Job, tmp_path: Path) -> Iterator[Callable[..., Task]]:
        """Return a function that starts the task, and waits until it is at its run."""
        processes = []

        def begin(**around: str) -> Task:
            here = str(Path(__file__).parent)
            path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": here}
            process = subprocess.Popen(
                [sys.executable, "-c", TASK, str(tmp_path)],
                env={**os.environ, **path, "SLURM_JOB_ID": "12", **around},
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            while not (run.folder / "started").exists():
                assert process.poll() is None
                time.sleep(0.02)
            return process

        yield begin
        for process in processes:
            process.kill()
            process.communicate()

    @staticmethod
    def asked(tmp_path: Path, *lines: str) -> bool:
        path = tmp_path / "asked"
        return path.exists() and path.read_text().splitlines() == list(lines)

    def requeued(self, task: Task, tmp_path: Path, *lines: str) -> None:
        end = time.monotonic() + 20
        while not self.asked(tmp_path, *lines):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert task.poll() is None  # it waits for Slurm to end it
        task.terminate()
        assert task.wait(5) == -signal.SIGTERM

    def test_time_is_up(self, run: Job, start: Callable[..., Task], tmp_path: Path) -> None:
        task = start()
        task.send_signal(signal.SIGUSR2)
        self.requeued(task, tmp_path, "requeue 12")
        state = states.read(run.folder)
        assert state is not None
        assert state.state == "stopped"

    def test_preempted_without_a_signal_of_its_own(
        self, run: Job, start: Callable[..., Task], tmp_path: Path
    ) -> None:
        (tmp_path / "answer").write_text("JobId=12 JobState=RUNNING PreemptTime=2026-01-01T01:01")
        task = start()
        task.send_signal(signal.SIGTERM)
        self.requeued(task, tmp_path, "show job --oneliner 12", "requeue 12")

    @pytest.mark.parametrize(
        "answer", ["JobState=COMPLETING PreemptTime=None", "JobState=RUNNING PreemptTime=None", ""]
    )
    def test_cancelled(
        self, run: Job, start: Callable[..., Task], tmp_path: Path, answer: str
    ) -> None:
        (tmp_path / "answer").write_text(answer)
        task = start()
        task.send_signal(signal.SIGTERM)
        assert task.wait(20) == 1
        assert self.asked(tmp_path, "show job --oneliner 12")
        assert "cancelled; the checkpoint is written" in task.stderr.read()  # type: ignore[union-attr]

    def test_stopped_again_and_again_before_its_next_step(
        self, run: Job, start: Callable[..., Task], tmp_path: Path
    ) -> None:
        states.State("stopped", step=1).write(run.folder)  # as it will be this time
        task = start(SLURM_RESTART_COUNT="5")
        task.send_signal(signal.SIGUSR2)
        assert task.wait(20) == 1
        assert not (tmp_path / "asked").exists()
        state = states.read(run.folder)
        assert state is not None
        assert state.reason.startswith("it was stopped 6 times before its next step; give it more")


def test_a_trial_that_was_ended_early_has_ended(tmp_path: Path) -> None:
    ended = job(tmp_path, "a")
    states.State("stopped").write(ended.folder)
    assert _result(ended, gone=False) is None
    pruning.write(ended.folder, 10, [{"step": 10, "accuracy": 0.5, "loss": 1.0}])
    outcome = _result(ended, gone=False)
    assert outcome is not None
    assert (outcome.error, outcome.text) == (None, "pruned at step 10")
    # Another attempt is under way.
    states.State("running").write(ended.folder)
    assert _result(ended, gone=False) is None
