"""Leases of devices that several real processes share, some of which are killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from warmstart.errors import ConfigError
from warmstart.launch.jobs import Resources
from warmstart.launch.leases import contended, detect_gpus, lease, shared_folder

CONTEXT = multiprocessing.get_context("forkserver")
FOUR = ("0", "1", "2", "3")
CORES = tuple(range(8))


def ask(folder, gpus=1.0, cpus=1, *, devices=FOUR, cores=CORES, timeout=0.0):
    return lease(
        Resources(gpus=gpus, cpus=cpus), gpus=devices, cores=cores, folder=folder, timeout=timeout
    )


def start(target, *args):
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    return process


def await_file(path: Path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.005)


def intervals(log: Path):
    return [json.loads(line) for line in log.read_text().splitlines()]


def use(folder, log, wishes, seconds):
    """Take one lease after the other and note when each was there, on what."""
    for gpus, cpus in wishes:
        with ask(folder, gpus, cpus, timeout=None) as held:
            start_ns = time.monotonic_ns()
            time.sleep(seconds)
            line = [start_ns, time.monotonic_ns(), gpus, held.gpus, held.cores]
        with log.open("a") as file:  # one short line is written in one piece
            file.write(json.dumps(line) + "\n")


def hold(folder, ready, gpus, fork=False):
    held = ask(folder, gpus, devices=("0",), timeout=None)
    if fork and os.fork() == 0:  # as a loader worker does, which outlives a killed parent
        held.release()
        time.sleep(5)
        os._exit(0)
    ready.write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.slow
def test_200_leases_of_8_processes_never_overlap(tmp_path):
    log = tmp_path / "log"
    wishes = [(1.0, 1), (1.0, 1), (0.5, 1), (2.0, 1), (0.0, 2)] * 5
    workers = [
        start(use, tmp_path / "leases", log, wishes[index:] + wishes[:index], 0.01)
        for index in range(8)
    ]
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 8
    used = intervals(log)
    assert len(used) == 200
    for moment, *_ in used:
        load: Counter[str] = Counter()
        cores = []
        for first, last, gpus, names, numbers in used:
            if first <= moment < last:
                load.update({name: min(gpus, 1) for name in names})
                cores += numbers
        assert not load or max(load.values()) <= 1
        assert len(cores) == len(set(cores))
    assert {name for *_, names, _ in used for name in names} == set(FOUR)
    assert not list((tmp_path / "leases").glob("*.claim"))


def test_two_halves_share_a_gpu_and_a_third_waits(tmp_path):
    first, second = (ask(tmp_path, 0.5, devices=("7",)) for _ in range(2))
    assert first.gpus == second.gpus == ("7",)
    assert set(first.cores).isdisjoint(second.cores)
    with pytest.raises(TimeoutError):
        ask(tmp_path, 0.5, devices=("7",))
    second.release()
    second.release()
    assert ask(tmp_path, 0.5, devices=("7",)).gpus == ("7",)


def test_a_request_that_gave_up_keeps_nothing_from_others(tmp_path):
    with ask(tmp_path, 1.0):
        with pytest.raises(TimeoutError, match="gpus=4"):
            ask(tmp_path, 4.0, timeout=0.1)
        with ask(tmp_path, 3.0) as three:
            assert three.gpus == ("1", "2", "3")


@pytest.mark.slow
@pytest.mark.parametrize("fork", [False, True], ids=["alone", "with a forked child"])
def test_the_slot_of_a_killed_process_is_free_within_a_second(tmp_path, fork):
    owner = start(hold, tmp_path, tmp_path / "ready", 1.0, fork)
    await_file(tmp_path / "ready")
    with pytest.raises(TimeoutError):
        ask(tmp_path, devices=("0",), timeout=0.2)
    os.kill(owner.pid, signal.SIGKILL)
    killed = time.monotonic()
    with ask(tmp_path, devices=("0",), timeout=10):
        assert time.monotonic() - killed < 1
    owner.join()


@pytest.mark.slow
def test_four_gpus_at_once_come_in_spite_of_many_small_runs(tmp_path):
    small = [
        start(use, tmp_path / "leases", tmp_path / "log", [(1.0, 1)] * 40, 0.1) for _ in range(5)
    ]
    await_file(tmp_path / "log")
    asked = time.monotonic()
    with ask(tmp_path / "leases", 4.0, timeout=60) as four:
        waited = time.monotonic() - asked
        assert four.gpus == FOUR
    # Those under way end after 0.1 s; all that come later wait.
    assert waited < 1.5
    for process in small:
        assert process.is_alive()
        process.terminate()
        process.join()


def test_a_lease_that_others_wait_for_is_contended(tmp_path):
    with ask(tmp_path, devices=("0",)):
        assert not contended(tmp_path)
        waiter = start(hold, tmp_path, tmp_path / "ready", 1.0)
        deadline = time.monotonic() + 60
        while not contended(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not (tmp_path / "ready").exists()
    await_file(tmp_path / "ready")
    assert not contended(tmp_path)  # it is the other one's now
    waiter.kill()
    waiter.join()


@pytest.mark.parametrize(
    ("gpus", "cpus", "devices", "message"),
    [
        (8.0, 1, FOUR, r"resources.gpus is 8, but there are 4 \(0, 1, 2, 3\) to be given out"),
        (0.5, 1, (), "resources.gpus is 0.5, but there is none to be given out"),
        (2.0, 1, ("0", "0"), "resources.gpus is 2, but there are 1 "),
        (1.5, 1, FOUR, "resources.gpus is 1.5, but must be 0, a share below 1"),
        (0.0, 9, FOUR, "resources.cpus is 9, but must be from 1 to the 8 cores"),
        (0.0, 0, FOUR, "resources.cpus is 0, but must be from 1"),
    ],
)
def test_what_can_never_be_given_is_refused(tmp_path, gpus, cpus, devices, message):
    with pytest.raises(ConfigError, match=message):
        ask(tmp_path, gpus, cpus, devices=devices)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0,1,2", ["0", "1", "2"]),
        ("3", ["3"]),
        (" GPU-8932f937-d72c , 1", ["GPU-8932f937-d72c", "1"]),
        ("MIG-a1,MIG-b2", ["MIG-a1", "MIG-b2"]),
        ("0,-1,1", ["0"]),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_visible_gpus_are_taken_as_they_stand(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert detect_gpus() == names


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA A100 (UUID: GPU-2)'", "01"),
        ("echo 'Failed to initialize NVML' >&2; exit 9", ""),
    ],
)
def test_the_driver_is_asked_where_nothing_is_set(monkeypatch, tmp_path, script, names):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 2\n{script}\n')
    tool.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert detect_gpus() == list(names)


def test_a_divided_gpu_is_named_by_its_parts(monkeypatch):
    text = (
        "GPU 0: NVIDIA H100 (UUID: GPU-aa)\n"
        "GPU 1: NVIDIA H100 (UUID: GPU-bb)\n"
        "  MIG 1g.10gb     Device  0: (UUID: MIG-c1)\n"
        "  MIG 1g.10gb     Device  1: (UUID: MIG-c2)\n"
        "GPU 2: NVIDIA H100 (UUID: GPU-dd)\n"
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    answer = subprocess.CompletedProcess([], 0, stdout=text)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert detect_gpus() == ["0", "MIG-c1", "MIG-c2", "2"]


def test_a_machine_without_gpus_has_none(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect_gpus() == []


def test_a_slurm_job_has_leases_of_its_own(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "pytest")
    folder = shared_folder()
    try:
        assert folder.name == f"warmstart-{os.getuid()}-pytest"
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        folder.rmdir()
