"""The order of jobs, and the time that they take on so many devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import ConfigError
from warmstart.launch.jobs import Job, Resources
from warmstart.launch.order import makespan, ordered


def job(
    key: str, seconds: float = 1.0, needs: tuple[str, ...] = (), *, gpus: float = 0, cpus: int = 1
) -> Job:
    return Job(key, key, Path(key), {}, Resources(gpus, cpus), needs=needs, seconds=seconds)


def keys(jobs: list[Job]) -> str:
    return "".join(job.key for job in jobs)


@st.composite
def graphs(draw: st.DrawFn, **options: Any) -> list[Job]:
    """Jobs that need earlier ones, then shuffled; half-second lengths keep sums exact."""
    count = draw(st.integers(0, 12))
    jobs = []
    for index in range(count):
        needs = draw(st.sets(st.integers(0, index - 1), max_size=2)) if index else set()
        seconds = draw(st.integers(0, 20)) / 2
        gpus = draw(options["gpus"]) if "gpus" in options else 0
        jobs.append(job(f"{index}", seconds, tuple(map(str, sorted(needs))), gpus=gpus))
    return draw(st.permutations(jobs))


def test_the_longest_goes_first_and_equals_keep_their_order() -> None:
    jobs = [job("a", 1), job("b", 3), job("c", 2), job("d", 3)]
    assert keys(ordered(jobs)) == "bdca"


def test_what_others_need_goes_before_all_with_what_it_needs_itself() -> None:
    jobs = [job("x", 99), job("c", 1, ("b",)), job("b", 1, ("a",)), job("a", 1)]
    assert keys(ordered(jobs)) == "abxc"


def test_the_source_with_the_longest_way_behind_it_goes_first() -> None:
    # s is longer itself, but 3 + 9 seconds hang on r and only 5 + 1 on s.
    jobs = [job("s", 5), job("r", 3), job("a", 1, ("s",)), job("b", 9, ("r",))]
    assert keys(ordered(jobs)) == "rsba"


def test_jobs_of_unknown_length_stand_behind_what_they_need() -> None:
    jobs = [job("c", 0, ("b",)), job("b", 0, ("a",)), job("a", 0), job("d", 0)]
    assert keys(ordered(jobs)) == "abcd"


def test_a_finished_job_is_not_waited_for() -> None:
    jobs = [job("a", 2, ("done",)), job("b", 3)]
    assert keys(ordered(jobs)) == "ba"
    assert makespan(jobs, 2) == 3


def test_a_circle_is_named() -> None:
    with pytest.raises(ValueError, match="a circle: a, b"):
        ordered([job("a", 1, ("b",)), job("b", 1, ("a",)), job("c", 1)])


@given(graphs())
def test_every_job_once_behind_what_it_needs(jobs: list[Job]) -> None:
    order = ordered(jobs)
    assert sorted(map(id, order)) == sorted(map(id, jobs))
    place = {job.key: index for index, job in enumerate(order)}
    assert all(place[need] < place[job.key] for job in jobs for need in job.needs)
    needed = {need for job in jobs for need in job.needs}
    flags = [job.key in needed for job in order]
    assert flags == sorted(flags, reverse=True)
    lengths = [job.seconds for job in order if job.key not in needed]
    assert lengths == sorted(lengths, reverse=True)


def test_the_makespan_of_hand_made_plans() -> None:
    # Longest first on two devices: 5 | 4, then 3 behind the 4 and 2 behind the 5.
    assert makespan([job("a", 2), job("b", 3), job("c", 4), job("d", 5)], 2) == 7
    # Nothing but the source can start; then 3 + max(2, 1).
    assert makespan([job("s", 3), job("a", 2, ("s",)), job("b", 1, ("s",))], 8) == 5
    assert makespan([], 4) == 0


def test_two_halves_share_a_gpu_and_three_thirds_fill_it() -> None:
    halves = [job(f"{index}", 10, gpus=0.5) for index in range(5)]
    assert makespan(halves, 1) == 30
    assert makespan(halves, 2) == 20
    thirds = [job(f"{index}", 10, gpus=1 / 3) for index in range(6)]
    assert makespan(thirds, 2) == 10
    # 0.6 and 0.6 do not fit on one GPU, and no run takes parts of two.
    assert makespan([job(f"{index}", 10, gpus=0.6) for index in range(3)], 2) == 20


def test_several_gpus_at_once() -> None:
    # Longest first: two single ones start (9 and 8 s), so the pair waits until both have ended.
    jobs = [job("pair", 5, gpus=2), job("a", 9, gpus=1), job("b", 8, gpus=1)]
    assert makespan(jobs, 2) == 14
    assert makespan(jobs, 4) == 9


def test_cores_are_the_devices_where_no_run_takes_a_gpu() -> None:
    jobs = [job(f"{index}", 10, cpus=2) for index in range(4)]
    assert makespan(jobs, 4) == 20
    # Beside runs on a GPU those without take none of the devices.
    assert makespan([*jobs, job("gpu", 15, gpus=1)], 1) == 15


def test_a_run_that_never_fits_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="the run big takes 4 devices, but there are 2; give"):
        makespan([job("small", 1, gpus=1), job("big", 1, gpus=4)], 2)


@given(graphs(), st.integers(1, 5))
def test_the_makespan_lies_within_grahams_bounds(jobs: list[Job], devices: int) -> None:
    by_key = {job.key: job for job in jobs}

    def chain(job: Job) -> float:
        return job.seconds + max((chain(by_key[need]) for need in job.needs), default=0.0)

    work = sum(job.seconds for job in jobs) / devices
    critical = max((chain(job) for job in jobs), default=0.0)
    span = makespan(jobs, devices)
    assert max(work, critical) - 1e-9 <= span
    assert span <= work + (1 - 1 / devices) * critical + 1e-9
    if devices == 1:
        assert span == sum(job.seconds for job in jobs)


@given(graphs(gpus=st.sampled_from([0.25, 0.5, 1, 2])), st.integers(2, 5))
def test_with_shares_no_more_work_is_done_than_devices_can(jobs: list[Job], devices: int) -> None:
    span = makespan(jobs, devices)
    assert sum(job.seconds * job.resources.gpus for job in jobs) <= span * devices + 1e-9
    assert span <= sum(job.seconds for job in jobs)
