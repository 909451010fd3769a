"""Many runs on one machine: devices, deaths, timeouts, and the same records as one by one."""

import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import planted
import pytest

from processes import start
from tiny import write_configs
from warmstart import ConfigError
from warmstart.cli import main
from warmstart.launch import worker
from warmstart.launch.jobs import Job, Outcome, Resources
from warmstart.launch.local import LocalEngine, Machine
from warmstart.results import state
from warmstart.results.record import read

pytestmark = pytest.mark.slow

FOUR = Machine(gpus=("0", "1", "2", "3"), cores=tuple(range(8)))


def jobs(folder: Path, count: int, *, seconds: float = 0.0, **resources) -> list[Job]:
    return [
        Job(
            f"{i:03d}",
            f"seed={i}",
            folder / f"{i:03d}",
            {},
            Resources(**resources),
            seconds=seconds,
        )
        for i in range(count)
    ]


def intervals(folder: Path) -> dict[str, list[tuple[int, int, int]]]:
    """Return when each device was held, and by which process, in the order of time."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for path in folder.glob("*/interval.json"):
        device, *interval = json.loads(path.read_text())
        found.setdefault(device, []).append(tuple(interval))
    return {device: sorted(times) for device, times in found.items()}


def test_two_hundred_runs_on_four_devices_never_meet(tmp_path):
    engine = LocalEngine(machine=FOUR, folder=tmp_path / "leases", bring=planted.mark_interval)
    todo = jobs(tmp_path / "runs", 200, seconds=0.01, gpus=1)
    outcomes = list(engine.run(todo))
    assert sorted(outcome.job.key for outcome in outcomes) == [job.key for job in todo]
    assert {outcome.error for outcome in outcomes} == {None}
    held = intervals(tmp_path / "runs")
    assert sorted(held) == ["0", "1", "2", "3"]
    assert sum(map(len, held.values())) == 200
    for times in held.values():
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))
        # Warm: a device was served by one process all the time.
        assert len({pid for *_, pid in times}) == 1


def test_two_sweeps_share_the_devices_and_halves_of_them(tmp_path):
    sweeps = [
        LocalEngine(machine=FOUR, folder=tmp_path / "leases", bring=planted.mark_interval).run(
            jobs(tmp_path / name, 24, seconds=0.05, gpus=0.5)
        )
        for name in ("a", "b")
    ]
    for pair in itertools.zip_longest(*sweeps):
        assert [outcome.error for outcome in pair] == [None, None]
    events = [
        event
        for name in ("a", "b")
        for device, times in intervals(tmp_path / name).items()
        for start, end, _ in times
        for event in ((start, 1, device), (end, -1, device))
    ]
    load = dict.fromkeys(FOUR.gpus, 0)
    for _, change, device in sorted(events):
        load[device] += change
        assert load[device] <= 2


def test_one_that_leaves_without_a_word_is_no_hang(tmp_path):
    engine = LocalEngine(machine=FOUR, folder=tmp_path / "leases", bring=planted.leave)
    (outcome,) = engine.run(jobs(tmp_path / "runs", 1))
    assert outcome.error == (
        "its process was gone, with exit code 0; the same command goes on from its last checkpoint"
    )
    assert state.read(tmp_path / "runs" / "000").state == "failed"


def test_closing_ends_what_is_under_way(tmp_path):
    engine = LocalEngine(machine=FOUR, folder=tmp_path / "leases", bring=planted.mark_interval)
    short, long = jobs(tmp_path / "runs", 2, seconds=0.01, gpus=1)
    long = dataclasses.replace(long, seconds=600.0)
    outcomes = engine.run([short, long])
    assert next(outcomes).job == short
    state.State("running", pid=os.getpid()).write(long.folder)
    closing = threading.Thread(target=outcomes.close, daemon=True)
    closing.start()
    closing.join(timeout=30)
    assert not closing.is_alive()
    assert state.read(long.folder).state == "stopped"


def test_the_death_of_an_idle_worker_costs_no_run(tmp_path, monkeypatch):
    (job,) = jobs(tmp_path / "runs", 1)
    answers = iter([BrokenProcessPool("All workers expired"), Outcome(job, text="done")])

    class Pool:
        def schedule(self, function, args, timeout=None):
            future = Future()
            answer = os.getpid() if function is worker.devices else next(answers)
            failed = isinstance(answer, Exception)
            future.set_exception(answer) if failed else future.set_result(answer)
            return future

        def stop(self):
            pass

        join = stop

    engine = LocalEngine(machine=FOUR, folder=tmp_path / "leases")
    monkeypatch.setattr(engine, "_pool", Pool)
    assert [outcome.text for outcome in engine.run([job])] == ["done"]


def test_more_than_there_is_is_refused_by_name(tmp_path):
    engine = LocalEngine(machine=FOUR, folder=tmp_path / "leases", bring=planted.leave)
    with pytest.raises(ConfigError, match=r"resources.gpus is 5, but there are 4"):
        list(engine.run(jobs(tmp_path / "runs", 1, gpus=5)))


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "two"])
def test_the_number_of_workers_is_checked(tmp_path, workers):
    with pytest.raises(ConfigError, match=r"hydra.launcher.workers is .*, but must be a whole"):
        LocalEngine(workers=workers, folder=tmp_path)


@pytest.fixture
def thirty(tmp_path):
    """Return the arguments of a comparison of 30 short runs, and its output folder."""
    configs = write_configs(tmp_path / "configs")
    (configs / "comparison" / "thirty.yaml").write_text(
        "# @package _global_\n"
        "comparison: {name: thirty, reference: null, metric: test/accuracy}\n"
        "hydra: {sweeper: {params: {arm: short/scratch, data.per_class: 1, "
        f"seed: '{','.join(map(str, range(30)))}'}}}}}}\n"
    )
    out = tmp_path / "out"
    arguments = ["compare", "comparison=thirty", "--config-dir", str(configs), f"out={out}"]
    return [*arguments, "hydra/launcher=local"], out


def test_ten_of_thirty_go_wrong_and_the_others_finish(thirty, tmp_path, monkeypatch, capsys):
    arguments, out = thirty
    monkeypatch.setattr(
        "warmstart.launch.local.LocalEngine",
        lambda **_: LocalEngine(folder=tmp_path / "leases", bring=planted.go_wrong),
    )
    assert main([*arguments, "resources.timeout=8"]) == 1
    printed = capsys.readouterr().out
    finished = list((out / "runs").glob("*/result.json"))
    assert len(finished) == 20
    reasons = {
        line.split(":")[1].split()[-1]: line.split(":", 2)[2].strip()
        for line in printed.splitlines()
        if line.startswith("failed: ")
    }
    again = "; the same command goes on from its last checkpoint"
    assert reasons == {
        **{f"seed={seed}": f"planted {seed}" for seed in range(5)},
        **{f"seed={seed}": f"its process was killed by SIGKILL{again}" for seed in (5, 6, 7)},
        "seed=8": "the run ended its process (SystemExit)",
        "seed=9": f"it took more than 8 s (resources.timeout){again}",
    }
    assert "10 failed; the same command runs them again" in printed


def _command(configs: Path, out: Path, *more: str) -> ForkServerProcess:
    words = ["compare", "comparison=chaos", "--config-dir", str(configs), f"out={out}", *more]
    return start(words, out.with_suffix(".log"), warm=True)


def _tree(pid: int) -> list[int]:
    """Return a process and all below it that are alive."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(path.parent.name)] = int(fields[1])
    found = [pid] if pid in parents else []
    for process in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == process]
    return found


def _running(out: Path) -> bool:
    states = (state.read(folder) for folder in (out / "runs").glob("*"))
    return any(found and found.state == "running" for found in states)


def test_an_interrupt_while_workers_import_has_no_traceback(tmp_path):
    """A terminal sends Ctrl-C to the whole group, so also to the server that forks workers."""
    configs, out = write_configs(tmp_path / "configs"), tmp_path / "out"
    command = [sys.executable, "-m", "warmstart", "compare", "comparison=tiny", f"out={out}"]
    command += ["--config-dir", str(configs), "hydra/launcher=local"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Where the tests run in the background, the shell has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(_tree(process.pid)) < 3:  # itself, a tracker of resources, the server
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.decode().startswith("warmstart: stopped")
    assert b"Traceback" not in said


def test_chaos(tmp_path):
    """24 cells; a random process of the tree is killed every now and then, at least 20 times."""
    configs = write_configs(tmp_path / "configs")
    (configs / "comparison" / "chaos.yaml").write_text(
        "# @package _global_\n"
        "steps: 120\nval_every_steps: 40\ncheckpoint_seconds: 0.1\n"
        "comparison: {name: chaos, reference: short/scratch, metric: test/accuracy}\n"
        "model: {weights: 'source:tiny'}\n"
        "hydra: {sweeper: {params: {arm: 'short/scratch,short/probe', "
        "data.per_class: '1,2,5', seed: '0,1,2,3'}}}\n"
    )
    for arm in ("scratch", "probe"):
        path = configs / "arm" / "short" / f"{arm}.yaml"
        path.write_text(path.read_text().replace("steps: 6", "steps: 120"))
    dice, kills, starts, code = random.Random(5), 0, 0, None
    out = tmp_path / "out"
    while code != 0:
        process = _command(configs, out, "hydra/launcher=local")
        starts += 1
        begun = time.monotonic()
        while process.is_alive():
            if kills < 20 and _running(out):
                time.sleep(dice.uniform(0.05, 0.3))
                tree = _tree(process.pid)
                if len(tree) > 3:  # itself, a tracker of resources, the server, and workers
                    os.kill(dice.choice(tree), signal.SIGKILL)
                    kills += 1
            time.sleep(0.05)
            assert time.monotonic() - begun < 240, "it hangs"
        code = process.exitcode
        assert starts < 40
    assert kills == 20
    unbroken = tmp_path / "unbroken"
    process = _command(configs, unbroken)
    process.join(timeout=240)
    assert process.exitcode == 0
    names = {path.name for path in (unbroken / "runs").iterdir() if path.is_dir()}
    assert len(names) == 24
    assert {path.name for path in (out / "runs").iterdir() if path.is_dir()} == names
    for name in names:
        record = read(out / "runs" / name)
        # Killed between a look at the test split and the record: the second look is counted.
        assert 1 <= record.test_opened <= 1 + kills
        assert dataclasses.replace(record, test_opened=1) == read(unbroken / "runs" / name)
