"""Jobs that become one, and what is said of each of their runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmstart.launch.jobs import Job, Outcome, Resources
from warmstart.launch.stacks import merged, one_job, outcomes
from warmstart.results.record import Record


def job(name: str, stack: str = "", **more: object) -> Job:
    return Job(name, f"label {name}", Path(name), {}, stack=stack, **more)  # type: ignore[arg-type]


def names(jobs: list[Job]) -> list[str]:
    return ["".join(run.key for run in one.runs) for one in jobs]


def test_what_trains_together_is_one_job_where_the_first_stood() -> None:
    jobs = [job("a"), job("b", "s"), job("c"), job("d", "t"), job("e", "s")]
    assert names(merged(jobs)) == ["a", "be", "c", "d"]
    together = merged(jobs)[1]
    assert (together.key, together.label) == ("b", "label b and 1 more")
    assert merged(jobs)[3] is jobs[3]


def test_runs_with_other_needs_or_resources_stay_apart() -> None:
    jobs = [job("a", "s"), job("b", "s", needs=("x",)), job("c", "s", resources=Resources(cpus=2))]
    assert names(merged(jobs)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("count", "slots", "sizes"),
    [(20, 1, [20]), (20, 2, [10, 10]), (20, 9, [8, 8, 4]), (130, 1, [64, 64, 2]), (5, 4, [5])],
)
def test_large_groups_are_shared_out(count: int, slots: int, sizes: list[int]) -> None:
    jobs = [job(str(index), "s") for index in range(count)]
    assert [len(one.runs) for one in merged(jobs, slots=slots)] == sizes


def test_the_timeout_is_that_of_each_run() -> None:
    jobs = [job(name, "s", resources=Resources(timeout=10.0)) for name in "abc"]
    assert one_job(jobs).timeout == 30
    assert jobs[0].timeout == 10
    assert job("a").timeout is None


def test_of_a_job_that_died_the_finished_runs_count(tmp_path: Path) -> None:
    jobs = [Job(name, name, tmp_path / name, {}, stack="s") for name in "ab"]
    (tmp_path / "b").mkdir()
    done = {"status": "finished", "test_opened": 1, "metrics": {"test/accuracy": 0.5}}
    Record(
        key="b", seed=0, config={}, choices={}, versions={}, timing={"total_seconds": 2.0}, **done
    ).write(tmp_path / "b")
    died = Outcome(one_job(jobs), error="killed")
    first, second = outcomes(died)
    assert (first.job, first.error) == (jobs[0], "killed")
    assert (second.job, second.error, second.text) == (
        jobs[1],
        None,
        "test/accuracy 0.5000 in 2.0 s",
    )


def test_what_the_runs_say_is_passed_on() -> None:
    jobs = [job("a", "s"), job("b", "s")]
    ends = (Outcome(jobs[0], text="x"), Outcome(jobs[1], error="y"))
    assert outcomes(Outcome(one_job(jobs), members=ends)) == list(ends)
    alone = Outcome(jobs[0], text="x")
    assert outcomes(alone) == [alone]
