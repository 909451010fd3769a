"""Many runs at a time on one machine: warm worker processes, each with devices of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from warmstart.errors import ConfigError, RunError
from warmstart.launch import worker
from warmstart.launch.board import Board
from warmstart.launch.jobs import Job, Outcome, Resources, T
from warmstart.launch.leases import check, detect_gpus, shared_folder
from warmstart.launch.stacks import merged, outcomes
from warmstart.launch.work import run_job
from warmstart.results import state

_SERVER_GONE = 255  # what is said of a process whose end the server could not tell
_LOOK_SECONDS = 1.0  # between two looks whether the worker of a run is still there
_TRIES = 3  # to start a job whose worker dies before it has begun

# Imported once by the server that forks the workers; a fork of it takes a twentieth of a second.
_PRELOAD = ["warmstart.launch.server"]


class LocalEngine:
    """Runs jobs in worker processes, as many at a time as devices (or `workers`) allow.

    A worker stays for many runs, so that imports and data are there already. It holds a lease on
    its devices while it lives; the death of a worker, or a timeout, costs the run that it was at.

    Args:
        workers: At most so many runs at a time; None takes as many as fit.
        machine: What there is to give out; by default all that this process may use.
        folder: Of the leases; by default that of all sweeps on this machine.
        bring: What a worker does with a job; it can be pickled.
    """

    elsewhere = False
    parallel = True

    def __init__(
        self,
        *,
        workers: int | None = None,
        machine: Machine | None = None,
        folder: Path | None = None,
        bring: Callable[[Job], Outcome] = run_job,
    ) -> None:
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ConfigError(
                f"hydra.launcher.workers is {workers!r}, but must be a whole number of at least 1, "
                "or null for as many as fit"
            )
        self._workers = workers
        self._machine = machine
        self._bring = bring
        self._folder = folder or shared_folder()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        try:
            with self._pool() as pool:
                try:
                    result: T = pool.schedule(function, args).result()
                finally:
                    pool.stop()  # type: ignore[no-untyped-call]
        except ProcessExpired as error:
            raise RunError(
                f"the process that checks the runs was {_death(error.exitcode)}; start again"
            ) from error
        except BrokenProcessPool as error:
            raise RunError("no worker process can be started; see what it said above") from error
        return result

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        machine = self._machine or Machine.here()
        for resources in {job.resources for job in jobs}:
            check(resources, machine.gpus, machine.cores)
        most = self._workers or machine.slots(jobs) if jobs else 1
        jobs = merged(jobs, slots=most)
        board = Board(jobs)
        slots = [
            _Slot(self._pool, board, machine, self._folder, self._bring)
            for _ in range(min(len(jobs), most))
        ]
        for slot in slots:
            slot.start()
        try:
            for outcome in board.outcomes():
                yield from outcomes(outcome)
        finally:
            board.close()
            for slot in slots:
                slot.stop()
            for slot in slots:
                slot.join()

    def _pool(self) -> ProcessPool:
        return ProcessPool(max_workers=1, initializer=worker.begin, context=self._context)


@dataclasses.dataclass(frozen=True)
class Machine:
    """The GPUs and cores that may be given to runs."""

    gpus: tuple[str, ...]
    cores: tuple[int, ...]

    @classmethod
    def here(cls) -> Machine:
        has = hasattr(os, "sched_getaffinity")
        cores = os.sched_getaffinity(0) if has else range(os.cpu_count() or 1)
        return cls(tuple(detect_gpus()), tuple(sorted(cores)))

    def slots(self, jobs: Sequence[Job]) -> int:
        """Return how many of the smallest jobs fit at a time."""
        gpus, cpus = (
            min(getattr(job.resources, name) for job in jobs) for name in ("gpus", "cpus")
        )
        by_cores = len(self.cores) // cpus
        by_gpus = int(len(self.gpus) / gpus + 1e-6) if gpus else by_cores
        return int(max(1, min(by_cores, by_gpus)))


class _Slot(threading.Thread):
    """Room for one run at a time: takes jobs from the board until there are none."""

    def __init__(
        self,
        new_pool: Callable[[], ProcessPool],
        board: Board,
        machine: Machine,
        folder: Path,
        bring: Callable[[Job], Outcome],
    ) -> None:
        super().__init__(name="slot", daemon=True)
        self._new_pool = new_pool
        self._board = board
        self._machine = machine
        self._folder = folder
        self._work = bring
        self._pool: ProcessPool | None = None
        self._stopped = False

    def stop(self) -> None:
        """End what is under way; its run goes on from its last checkpoint another time."""
        self._stopped = True  # seen by whatever the slot waits for; a stopped pool tells nobody

    def run(self) -> None:
        while not self._board.empty:
            job = self._board.take(wait=False)
            if job is None:  # all others wait for one under way: devices are better used elsewhere
                self._end_pool()
                job = self._board.take(wait=True)
            if job is not None:
                self._bring(job)
        self._end_pool()

    def _bring(self, job: Job) -> None:
        try:
            outcome = self._outcome(job)
        except CancelledError:
            self._end_pool()
            _interrupted(job)
            return
        except BrokenProcessPool:
            self._end_pool()
            outcome = Outcome(job, error="its worker process could not be started")
        except Exception as error:  # no run raises: what does is a defect, which must not hang
            self._end_pool()
            outcome = Outcome(job, error=f"{type(error).__name__}: {error}")
        self._board.end(outcome)

    def _outcome(self, job: Job) -> Outcome:
        """Run the job in a worker that holds its devices, in a new one where that is needed."""
        broken = 0
        while True:
            pid = self._devices(job.resources)
            assert self._pool is not None
            timeout = job.timeout
            try:
                future = self._pool.schedule(worker.work, (job, self._work), timeout=timeout)
                outcome = self._result(future, pid)
                if outcome is not None:
                    return outcome
                self._end_pool()
            except BrokenProcessPool:  # the worker died before it began with this job
                self._end_pool()
                broken += 1
                if broken == _TRIES:
                    raise
            except TimeoutError:
                self._end_pool()
                return _killed(job, f"it took more than {timeout:g} s (resources.timeout)")
            except ProcessExpired as error:
                self._end_pool()
                return _killed(job, f"its process was {_death(error.exitcode)}")

    def _devices(self, resources: Resources) -> int:
        """Return the number of a worker that holds these devices."""
        wanted = (resources, self._machine.gpus, self._machine.cores, self._folder)
        while not self._stopped:
            self._pool = self._pool or self._new_pool()
            try:
                pid = self._result(self._pool.schedule(worker.devices, wanted))
            except (ProcessExpired, BrokenProcessPool):
                pid = None  # killed while it held or awaited nothing but devices
            if pid is not None:
                return pid
            self._end_pool()
        raise CancelledError

    def _result(self, future: ProcessFuture[T], pid: int | None = None) -> T:
        """Wait for a worker, which the pool would await for ever if it left with exit code 0.

        Raises:
            CancelledError: The slot was told to stop.
        """
        while True:
            try:
                return future.result(timeout=_LOOK_SECONDS)
            except TimeoutError:
                if future.done():
                    return future.result()
                if self._stopped:
                    raise CancelledError from None
                if pid is not None and not state.exists(pid) and not future.done():
                    raise ProcessExpired("gone", 0, pid) from None  # type: ignore[no-untyped-call]

    def _end_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()


def _death(code: int | None) -> str:
    """Return how a process ended, in words."""
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == _SERVER_GONE:
        return "killed, or the server that had forked it"
    return f"gone, with exit code {code}"


def _interrupted(job: Job) -> None:
    """Write down that a run was ended for no fault of its own."""
    for run in job.runs:
        before = state.read(run.folder)
        if before is not None and before.state == "running":
            with contextlib.suppress(OSError):
                dataclasses.replace(before, state="stopped", seconds_left=None).write(run.folder)


def _killed(job: Job, reason: str) -> Outcome:
    """Write down what the run itself could not."""
    error = f"{reason}; the same command goes on from its last checkpoint"
    for run in job.runs:
        before = state.read(run.folder) or state.State("waiting")
        if before.state == "finished":
            continue
        with contextlib.suppress(OSError):
            dataclasses.replace(before, state="failed", reason=error, seconds_left=None).write(
                run.folder
            )
    return Outcome(job, error=error)
