"""What ``state.json`` says while a run goes on, and after it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import processes
import warmstart
from warmstart import store
from warmstart.errors import ConfigError, RunError
from warmstart.results import state
from warmstart.results.state import State
from warmstart.run import beat
from warmstart.run.beat import Beat, place
from warmstart.run.execution import execute
from warmstart.run.preparing import prepare
from warmstart.task import Classification

WORDS = ["steps=6", "val_every_steps=3", "data.per_class=2", "batch_size=10", "trainer=cpu"]


def known(folder: Path) -> State:
    found = state.read(folder)
    assert found is not None
    return found


def a_beat(folder: Path, **options: object) -> Beat:
    return Beat(folder, **{"steps": 10, "devices": 1, "device": "cpu", **options})


class TestRun:
    def test_the_way_of_a_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(beat, "_LEAST_SECONDS", 0.0)
        run = prepare(warmstart.compose([*WORDS, f"out={tmp_path}"]))
        seen: list[State] = []
        write = State.write

        def note(self: State, folder: Path) -> None:
            seen.append(self)
            write(self, folder)

        monkeypatch.setattr(State, "write", note)
        execute(run)
        assert [(s.state, s.stage, s.step) for s in seen] == [
            ("running", "preparing", 0),
            ("running", "training", 0),
            *(("running", "training", step) for step in range(1, 7)),
            ("running", "evaluating", 6),
            ("finished", "", 6),
        ]
        assert {(s.steps, s.pid, s.host, s.attempts, s.devices) for s in seen} == {
            (6, os.getpid(), socket.gethostname(), 1, 1)
        }
        # A pace is known from the second step on, and nothing is left after the last.
        assert [s.seconds_left is None for s in seen[:4]] == [True] * 3 + [False]
        assert seen[7].seconds_left == 0
        cost = [s.device_seconds for s in seen]
        assert cost == sorted(cost)
        assert cost[-1] > 0
        assert dataclasses.replace(known(run.folder), updated=0.0) == seen[-1]

    def test_a_failed_run_says_why_and_a_second_attempt_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = prepare(warmstart.compose([*WORDS, f"out={tmp_path}"]))
        with monkeypatch.context() as patch:
            patch.setattr(Classification, "_loss", lambda *_: 1 / 0)
            with pytest.raises(RunError):
                execute(run)
        first = known(run.folder)
        assert (first.state, first.reason) == ("failed", "ZeroDivisionError: division by zero")
        execute(run)
        second = known(run.folder)
        assert (second.state, second.reason, second.attempts) == ("finished", "", 2)
        assert second.device_seconds > first.device_seconds > 0

    def test_a_finished_run_is_left_as_it_is(self, tmp_path: Path) -> None:
        record = warmstart.train([*WORDS, f"out={tmp_path}"])
        before = known(tmp_path / "runs" / record.key)
        warmstart.train([*WORDS, f"out={tmp_path}"])
        assert known(tmp_path / "runs" / record.key) == before

    def test_a_run_that_waits_for_another_process_says_nothing(self, tmp_path: Path) -> None:
        run = prepare(warmstart.compose([*WORDS, f"out={tmp_path}"]))
        State("running", step=3).write(run.folder)
        before = known(run.folder)
        thread = threading.Thread(target=execute, args=(run,))
        with store.lock(run.folder):
            thread.start()
            time.sleep(0.3)
            assert known(run.folder) == before
        thread.join()
        assert known(run.folder).state == "finished"


class TestBeat:
    def test_cost_and_attempts_go_on_from_a_killed_one(self, tmp_path: Path) -> None:
        State("running", device_seconds=100.0, attempts=2).write(tmp_path)
        with a_beat(tmp_path, devices=4):
            assert known(tmp_path).attempts == 3
            time.sleep(0.05)
        found = known(tmp_path)
        assert 100.2 <= found.device_seconds < 110

    @pytest.mark.parametrize(
        ("error", "word", "reason"),
        [
            (KeyboardInterrupt(), "stopped", ""),
            (SystemExit(3), "stopped", ""),
            (ConfigError("the rate\nis wrong"), "failed", "the rate is wrong"),
            (MemoryError(), "failed", "MemoryError"),
        ],
    )
    def test_how_it_ends(
        self, error: BaseException, word: str, reason: str, tmp_path: Path
    ) -> None:
        with pytest.raises(type(error)), a_beat(tmp_path):
            raise error
        found = known(tmp_path)
        assert (found.state, found.reason, found.stage) == (word, reason, "")

    def test_steps_are_written_once_in_a_second(self, tmp_path: Path) -> None:
        with a_beat(tmp_path) as running:
            running.stage("training", step=2)
            running.step(3, 10)
            assert known(tmp_path).step == 2
            running._written -= 2
            running.step(4, 10)
            assert known(tmp_path).step == 4

    def test_the_time_left_by_hand(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [50.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        with a_beat(tmp_path, steps=100) as running:
            running.stage("training", step=20)
            clock[0] += 30  # the first step takes long, which tells nothing of the others
            running.step(21, 100)
            assert known(tmp_path).seconds_left is None
            clock[0] += 8
            running.step(25, 100)
            assert known(tmp_path).seconds_left == pytest.approx(75 * 2)
            running.stage("evaluating")
            assert known(tmp_path).seconds_left is None

    def test_it_beats_while_nothing_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state, "BEAT_SECONDS", 0.02)
        with a_beat(tmp_path) as running:
            running.stage("evaluating")
            before = known(tmp_path)
            time.sleep(0.2)
            assert known(tmp_path).updated > before.updated
            assert known(tmp_path).device_seconds > before.device_seconds
        last = known(tmp_path)
        assert last.state == "finished"
        time.sleep(0.1)
        assert known(tmp_path) == last, "no beat after the end"

    def test_a_folder_that_cannot_be_written_ends_no_run(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with a_beat(tmp_path / "file") as running:
            running.stage("training")

    def test_a_folder_that_somebody_deletes_stays_deleted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state, "BEAT_SECONDS", 0.02)
        with a_beat(tmp_path / "run"):
            (tmp_path / "run" / "state.json").unlink()
            (tmp_path / "run").rmdir()
            time.sleep(0.1)
            assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_run_is_known_to_be_dead(tmp_path: Path) -> None:
    words = [*WORDS, "steps=30", "checkpoint_seconds=0", f"out={tmp_path}"]
    folder = prepare(warmstart.compose(words)).folder
    assert processes.run(["train", *words], tmp_path / "log", die_at_save=3) == -signal.SIGKILL
    found = known(folder)
    assert found.state == "running"
    assert not state.alive(found, folder)
    assert processes.run(["train", *words], tmp_path / "log") == 0
    assert (known(folder).state, known(folder).attempts) == ("finished", 2)


class TestPlace:
    def config(self, gpus: float | None = None, devices: int = 1) -> dict[str, object]:
        return {"trainer": {"devices": devices}, "resources": {"gpus": gpus}}

    @pytest.mark.parametrize(
        ("device", "gpus", "devices", "visible", "expected"),
        [
            ("gpu", None, 1, None, (1, "gpu 0")),
            ("gpu", None, 1, "3", (1, "gpu 3")),
            ("gpu", None, 1, "3,5", (1, "gpu 3")),  # Lightning takes the first
            ("gpu", None, 2, "3, 5", (2, "gpu 3,5")),
            ("gpu", 0.5, 1, "GPU-8932f937", (1, "gpu GPU-8932f937")),
            ("gpu", 2, 2, None, (2, "gpu 0,1")),
            ("cpu", 1, 1, "2", (1, "gpu 2")),  # reserved, and so paid for
            ("cpu", None, 1, "2", (1, "cpu")),
            ("cpu", 0, 4, None, (4, "cpu")),
        ],
    )
    def test_gpus(self, device, gpus, devices, visible, expected, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr(os, "cpu_count", lambda: 2)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert place(self.config(gpus, devices), device) == expected

    @pytest.mark.parametrize(
        ("cores", "text"),
        [({5}, "cpu 5"), ({4, 5, 6, 7}, "cpu 4-7"), ({0, 1, 2, 7, 9, 10}, "cpu 0-2,7,9-10")],
    )
    def test_cores_by_hand(self, cores, text, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        assert place(self.config(), "cpu") == (1, text)

    @given(cores=st.sets(st.integers(0, 63), min_size=1, max_size=63))
    def test_the_text_names_exactly_the_cores(self, cores):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "sched_getaffinity", lambda _: cores)
            patch.setattr(os, "cpu_count", lambda: 64)
            text = place(self.config(), "cpu")[1].removeprefix("cpu ")
        named = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            named += range(int(first), int(last or first) + 1)
        assert named == sorted(cores)

    @pytest.mark.parametrize(
        ("environment", "job"),
        [
            ({}, ""),
            ({"SLURM_JOB_ID": "12"}, "12"),
            (
                {
                    "SLURM_JOB_ID": "14",
                    "SLURM_ARRAY_JOB_ID": "12",
                    "SLURM_ARRAY_TASK_ID": "1",
                },
                "12_1",
            ),
        ],
    )
    def test_the_job_of_slurm(self, environment, job, tmp_path, monkeypatch):
        for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with a_beat(tmp_path):
            assert json.loads((tmp_path / "state.json").read_text())["job"] == job
