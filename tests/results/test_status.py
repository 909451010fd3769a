"""What has become of runs, read from files that runs, launchers and kills leave behind."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import write_comparison
from rich.console import Console

from warmstart.cli import main
from warmstart.errors import ConfigError
from warmstart.launch.jobs import Job
from warmstart.results.outlook import Pace, duration, seconds_left
from warmstart.results.planned import COMING, RunStatus, Status
from warmstart.results.record import Record
from warmstart.results.state import SILENT_SECONDS, State
from warmstart.results.status import Follower, status
from warmstart.status_view import Watch, status_command

HERE = socket.gethostname()
RUNNING = State(
    "running", stage="training", step=30, steps=120, device="gpu 3", host=HERE, pid=os.getpid()
)


def key(index: int) -> str:
    return f"{index:064x}"


def write_plan(
    out: Path, count: int, *, seconds: float = 0.0, stages: Sequence[dict[str, Any]] = ()
) -> Path:
    """Write the plan of `count` cells; return the comparison's folder."""
    cells = [
        {"key": key(i), "label": f"seed={i}", "arm": "full", "size": 1, "seed": i}
        | {"seconds": seconds}
        for i in range(count)
    ]
    plan = {"name": "few", "command": "warmstart compare comparison=few", "cells": cells}
    folder = out / "comparisons" / "few"
    folder.mkdir(parents=True)
    (folder / "cells.json").write_text(json.dumps(plan | {"stages": list(stages)}))
    return folder


def write_record(folder: Path, **content: Any) -> None:
    record = {"key": folder.name, "status": "finished", "seed": 0, "config": {}, "choices": {}}
    Record(**(record | {"timing": {"curves": {}, "total_seconds": 4.5}} | content)).write(folder)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def one(folder: Path) -> RunStatus:
    """Return the status of the run in ``folder/runs/KEY``."""
    (run,) = status(folder)[0].cells
    return run


class TestOneRun:
    """What is said of a run whose files say this or that."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        folder = tmp_path / "runs" / key(0)
        folder.mkdir(parents=True)
        return folder

    def test_without_files_it_is_planned(self, run: Path) -> None:
        assert one(run.parents[1]).status == "planned"

    def test_its_record_is_the_truth(self, run: Path) -> None:
        write_record(run)
        assert (one(run.parents[1]).status, one(run.parents[1]).device_seconds) == ("done", 4.5)
        # Killed by a launcher between its record and its last state.
        State("failed", reason="timeout", device_seconds=6.0).write(run)
        found = one(run.parents[1])
        assert (found.status, found.reason, found.device_seconds) == ("done", "", 6.0)

    def test_a_deleted_record_is_to_be_made_again(self, run: Path) -> None:
        State("finished", step=5, steps=5).write(run)
        assert one(run.parents[1]).status == "planned"
        write_record(run)
        assert one(run.parents[1]).status == "done"

    def test_a_failed_record_says_why(self, run: Path) -> None:
        write_record(run, status="failed", error="the loss is nan", timing={})
        found = one(run.parents[1])
        assert (found.status, found.reason) == ("failed", "the loss is nan")

    def test_a_run_that_was_started_again_has_not_failed(self, run: Path) -> None:
        write_record(run, status="failed", error="the loss is nan", timing={})
        RUNNING.write(run)
        found = one(run.parents[1])
        assert (found.status, found.reason, found.share) == ("running", "", 0.25)

    def test_a_process_that_is_gone_has_died_at_once(self, run: Path) -> None:
        pid = dead_process()
        State("running", host=HERE, pid=pid, device_seconds=3.0).write(run)
        found = one(run.parents[1])
        assert (found.status, found.device_seconds) == ("died", 3.0)
        assert found.reason == f"its process {pid} has ended without a word"

    def test_on_another_machine_the_file_tells(self, run: Path) -> None:
        State("running", host="node7", pid=dead_process()).write(run)
        assert one(run.parents[1]).status == "running"
        past = time.time() - SILENT_SECONDS - 10
        os.utime(run / "state.json", (past, past))
        found = one(run.parents[1])
        assert (found.status, found.reason) == ("died", "no sign of life from node7 for 40 s")

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running", "odd": 1}'])
    def test_an_unreadable_state_says_nothing(self, run: Path, text: str) -> None:
        (run / "state.json").write_text(text)
        assert one(run.parents[1]).status == "planned"

    def test_a_damaged_record_says_nothing(self, run: Path) -> None:
        (run / "result.json").write_text('{"key"')
        assert one(run.parents[1]).status == "planned"


def test_a_comparison_with_runs_of_every_status(tmp_path: Path) -> None:
    stage = {"key": key(99), "label": "shared: glyphs", "folder": "/gone", "seconds": 5.0}
    folder = write_plan(tmp_path, 8, seconds=10.0, stages=[stage])
    runs = tmp_path / "runs"
    write_record(runs / key(0))
    State("finished", device_seconds=20.0).write(runs / key(0))
    State("running", host=HERE, pid=os.getpid(), seconds_left=7.0).write(runs / key(1))
    State("waiting", job="12_3").write(runs / key(2))
    State("stopped", step=5, steps=10, device_seconds=8.0).write(runs / key(4))
    State("running", host=HERE, pid=dead_process()).write(runs / key(5))
    State("failed", reason="out of memory", device_seconds=2.0).write(runs / key(6))
    write_record(tmp_path / "store" / "runs" / key(99))

    (found,) = status(folder)
    names = ["done", "running", "waiting", "planned", "stopped", "died", "failed", "planned"]
    assert [cell.status for cell in found.cells] == names
    assert found.counts["planned"] == 2
    assert [(stage.label, stage.status) for stage in found.stages] == [("shared: glyphs", "done")]
    assert found.device_seconds == 20.0 + 8.0 + 2.0 + 4.5
    # The finished one took 20 s of predicted 10, so a whole one takes 20 and half of one 10. One
    # at a time: 7 of the running one, 4 whole ones (one of them died at step 0), half of one.
    assert found.seconds_left == 7 + 4 * 20 + 10
    assert not found.ended


def test_an_output_folder_names_runs_of_no_comparison_too(tmp_path: Path) -> None:
    write_plan(tmp_path, 1)
    State("running", host=HERE, pid=os.getpid()).write(tmp_path / "runs" / key(7))
    (tmp_path / "runs" / f"{key(7)}.lock").touch()
    few, rest = status(tmp_path)
    assert (few.name, rest.name) == ("few", "other runs")
    assert [(cell.key, cell.status) for cell in rest.cells] == [(key(7), "running")]


def test_a_run_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RUNNING.write(tmp_path / "runs" / key(7))
    monkeypatch.chdir(tmp_path / "runs" / key(7))
    (found,) = status(Path())
    assert found.counts == {"running": 1}


def test_a_comparison_by_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_plan(tmp_path, 2)
    write_record(tmp_path / "runs" / key(0))
    monkeypatch.chdir(folder)
    assert status(Path())[0].counts == {"done": 1, "planned": 1}


def test_plans_and_records_of_older_versions(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, {("full", 5): [0.9, None, "the loss is nan"]})
    (found,) = status(folder)
    assert found.counts == {"done": 1, "planned": 1, "failed": 1}
    assert found.cells[2].reason == "the loss is nan"
    assert found.cells[0].label == "full, 5 per class, seed 0"


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run; give an output folder"):
        status(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        status(tmp_path / "none")
    folder = write_plan(tmp_path, 1)
    (folder / "cells.json").write_text('{"cells": 3}')
    with pytest.raises(ConfigError, match="is not a plan of warmstart"):
        status(tmp_path)


def test_following_sees_what_is_new(tmp_path: Path) -> None:
    folder = write_plan(tmp_path, 2)
    follower = Follower(status(folder)[0])
    assert follower.read().counts == {"planned": 2}
    RUNNING.write(tmp_path / "runs" / key(0))
    assert follower.read().counts == {"running": 1, "planned": 1}
    write_record(tmp_path / "runs" / key(0))
    write_record(tmp_path / "runs" / key(1))
    assert follower.read().counts == {"done": 2}
    assert follower.read().ended


class TestOutlook:
    """The seconds until all is done."""

    def test_as_many_at_once_as_now(self) -> None:
        running = [Pace("running", left=4.0), Pace("running", left=1.0)]
        rest = [Pace("planned", predicted=length) for length in (2.0, 6.0, 3.0)]
        # The longest go first: 6 behind the 1, 3 behind the 4, 2 behind those (7).
        assert seconds_left([*running, *rest], coming=COMING) == 9.0

    def test_nothing_is_known_while_nothing_runs(self) -> None:
        assert seconds_left([Pace("planned", predicted=3.0)], coming=COMING) is None
        assert seconds_left([Pace("running"), Pace("planned")], coming=COMING) is None

    def test_nothing_is_left_when_all_have_ended(self) -> None:
        assert seconds_left([Pace("done", spent=3.0), Pace("failed")], coming=COMING) == 0.0

    def test_runs_without_a_prediction_last_as_long_as_others(self) -> None:
        done = [Pace("done", spent=4.0), Pace("done", spent=8.0)]
        runs = [*done, Pace("running", left=1.0), Pace("planned"), Pace("stopped", share=0.5)]
        assert seconds_left(runs, coming=COMING) == 1 + 6 + 3

    @given(
        st.lists(st.integers(0, 50), min_size=1, max_size=5),
        st.lists(st.integers(1, 50), max_size=10),
    )
    def test_no_less_than_the_work_and_no_more_than_one_after_the_other(
        self, lefts: list[int], lengths: list[int]
    ) -> None:
        running = [Pace("running", left=float(left)) for left in lefts]
        rest = [Pace("planned", predicted=float(length)) for length in lengths]
        found = seconds_left([*running, *rest], coming=COMING)
        work = sum(lefts) + sum(lengths)
        assert found is not None
        assert max(work / len(lefts), *lefts, *lengths) <= found <= work


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (45.4, "45 s"),
        (99.6, "2 min"),
        (3600, "60 min"),
        (6000, "1.7 h"),
        (86400, "24.0 h"),
        (2.1 * 86400, "2.1 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class TestCommand:
    """``warmstart status``."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = write_plan(tmp_path, 4, seconds=10.0)
        runs = tmp_path / "runs"
        write_record(runs / key(0), timing={"total_seconds": 10.0})
        state = {"device": "gpu 3", "host": HERE, "pid": os.getpid(), "seconds_left": 5.0}
        State(
            "running", stage="training", step=30, steps=120, device_seconds=3.0, attempts=2, **state
        ).write(runs / key(1))
        State("failed", reason="the loss is nan", device_seconds=0.5).write(runs / key(2))
        return folder

    def test_prints_counts_cost_and_what_runs(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["status", str(folder)]) == 0
        lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert lines[:3] == [
            "few",
            "1 done, 1 running, 1 planned, 1 failed, of 4 runs",
            "14 s of device time so far, about 15 s left",
        ]
        (running,) = [line for line in lines if "step" in line]
        assert running.split() == (
            f"seed=1 step 30 of 120 (attempt 2) 5.0 s left gpu 3 on {HERE}".split()
        )
        assert "failed: seed=2: the loss is nan" in lines
        assert not any("nothing runs" in line for line in lines)

    def test_says_when_nothing_runs(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_record(folder.parents[1] / "runs" / key(1))
        assert main(["status", str(folder), "--watch"]) == 0
        output = capsys.readouterr().out
        assert "nothing runs; the same command goes on: warmstart compare comparison=few" in output

    def test_for_programs(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["status", str(folder.parents[1]), "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert found["counts"] == {
            **dict.fromkeys(("waiting", "stopped", "died"), 0),
            **dict.fromkeys(("done", "running", "planned", "failed"), 1),
        }
        assert (found["device_seconds"], found["seconds_left"]) == (13.5, 15.0)
        assert found["cells"][1]["device"] == "gpu 3"
        assert found["cells"][2]["reason"] == "the loss is nan"

    def test_both_ways_exclude_each_other(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["status", str(folder), "--json", "--watch"]) == 2
        assert "--watch and --json exclude each other" in capsys.readouterr().err

    def test_watches_until_all_have_ended(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = folder.parents[1] / "runs"
        rest = [key(3), key(1)]

        def finish_another(seconds: float) -> None:
            write_record(runs / rest.pop())

        monkeypatch.setattr("warmstart.status_view.time.sleep", finish_another)
        text = io.StringIO()
        console = Console(file=text, force_terminal=True, width=100)
        status_command(folder, watch=True, console=console)
        assert rest == []
        # Erased when it ends; what stays is the last state.
        assert "3 done" in text.getvalue().rpartition("few")[2]

    def test_long_lists_are_cut_and_counted(self, tmp_path: Path) -> None:
        folder = write_plan(tmp_path / "long", 130)
        for index in range(130):
            State("failed", reason="no").write(tmp_path / "long" / "runs" / key(index))
        text = io.StringIO()
        status_command(folder, console=Console(file=text))
        assert "and 30 more (all of them: --json)" in text.getvalue()


class TestWatch:
    """The live view of a launcher's runs."""

    @staticmethod
    def jobs(out: Path) -> list[Job]:
        names = enumerate(("shared: glyphs", "seed=0", "seed=1"))
        return [
            Job(key(i), label, out / "runs" / key(i), {}, source=int(i == 0)) for i, label in names
        ]

    def test_shows_running_runs_and_says_lines_above(self, tmp_path: Path) -> None:
        jobs = self.jobs(tmp_path)
        State("failed", reason="of an earlier start", updated=1.0).write(jobs[1].folder)
        text = io.StringIO()
        console = Console(file=text, force_terminal=True, width=100, highlight=False)
        with Watch(jobs, console) as watch:
            RUNNING.write(jobs[0].folder)
            RUNNING.write(jobs[2].folder)
            watch.say("[1/2] seed=9: done")
            time.sleep(0.8)
            shown = text.getvalue()
        assert "[1/2] seed=9: done" in shown
        assert "shared: glyphs" in shown
        assert "step 30 of 120" in shown
        assert "1 running, 1 planned, of 2 runs" in shown
        assert "failed" not in shown

    def test_a_new_failure_counts(self, tmp_path: Path) -> None:
        jobs = self.jobs(tmp_path)
        State("failed", reason="of an earlier start").write(jobs[1].folder)
        text = io.StringIO()
        with Watch(jobs, Console(file=text, force_terminal=True, width=100)):
            State("failed", reason="again").write(jobs[1].folder)
            time.sleep(0.8)
            assert "1 failed" in text.getvalue()

    def test_elsewhere_it_prints_lines_alone(self, tmp_path: Path) -> None:
        text = io.StringIO()
        with Watch(self.jobs(tmp_path), Console(file=text)) as watch:
            watch.say("[1/2] seed=0: done")
        assert text.getvalue() == "[1/2] seed=0: done\n"


def test_ten_thousand_runs_in_two_seconds(tmp_path: Path) -> None:
    folder = write_plan(tmp_path, 10_000, seconds=30.0)
    text = json.dumps({"key": "k", "status": "finished", "groups": ["x" * 50] * 100})
    for index in range(9_000):
        run = tmp_path / "runs" / key(index)
        State("finished", device_seconds=30.0).write(run)
        (run / "result.json").write_text(text)
    started = time.process_time()
    found = Follower(status(folder)[0])
    first = time.process_time() - started
    assert found.read().counts == {"done": 9000, "planned": 1000}
    again = time.process_time()
    assert isinstance(found.read(), Status)
    assert first < 1.5  # 0.3 s here, and 0.3 s to start
    assert time.process_time() - again < 0.3  # what the live view costs twice a second
