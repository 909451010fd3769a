"""The sign of life of a run: it writes ``state.json`` while the run goes on."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from warmstart import stopping
from warmstart.results import state
from warmstart.results.state import State

Progress = Callable[[int, int], None]
"""Takes the finished steps and all steps."""

_LEAST_SECONDS = 1.0  # between two states that differ in the step alone


class Report(Protocol):
    """What a run tells of its way."""

    def stage(self, name: str, *, step: int = 0) -> None:
        """Say what comes now: ``preparing``, ``features of train``, ``training`` (after `step`
        steps), ``evaluating``, ...
        """
        ...

    def step(self, done: int, steps: int) -> None:
        """Say how many steps are done; while features are computed, images."""
        ...


class Beat:
    """While it is entered, a run's ``state.json`` says how far the run is.

    The state is written at once, at every change of the stage, at most once in a second while the
    steps go by, and every few seconds by a thread, so that a long evaluation is known to be alive.
    What cannot be written (the disk is full, the folder gone) is left: a run does not end for it.

    Args:
        folder: Of the run, whose lock is held.
        steps: Of the whole run.
        devices: What the cost counts: GPUs, or on a CPU processes.
        device: Where it runs, for a person.
        progress: Called with the finished steps and all steps, also those of a pretraining.
        share: Of what the devices cost; others that run at the same time take the rest.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        devices: int,
        device: str,
        progress: Progress | None = None,
        share: float = 1.0,
    ) -> None:
        self.share = share
        self.folder = folder
        self.steps = steps
        self.devices = devices
        self.device = device
        self._progress = progress
        self._stage, self._step, self._said = "preparing", 0, False
        self._job = _job()
        self._before = State("waiting")
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._started = self._written = time.monotonic()
        self._pace: tuple[int, float] | None = None  # a step of this stage, and its time

    def __enter__(self) -> Beat:
        self._before = state.read(self.folder) or self._before
        self._started = time.monotonic()
        self._write("running")
        name = f"state of {self.folder.name[:8]}"
        self._thread = threading.Thread(target=self._keep_beating, name=name, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            self._stage, self._step = "", self.steps
            self._write("finished")
        elif isinstance(error, Exception) and not isinstance(error, stopping.Stopped):
            self._write("failed", " ".join(str(error).split()) or type(error).__name__)
        else:  # Ctrl-C and the like too
            self._write("stopped", str(error) if isinstance(error, stopping.Pruned) else "")

    def stage(self, name: str, *, step: int = 0) -> None:
        """Say what comes now: ``preparing``, ``training`` (after `step` steps), ``evaluating``."""
        self._stage, self._pace = name, None
        self._step = step if name == "training" else self._step
        self._write("running")

    def step(self, done: int, steps: int) -> None:
        """Say how many steps are done, of a pretraining too; while features are computed, images.

        Raises:
            Stopped: What is no training was asked to stop; in training the recorder does it.
        """
        if self._stage == "training":
            now = time.monotonic()
            self._step, self._pace = done, self._pace or (done, now)
            if now - self._written >= _LEAST_SECONDS:
                self._write("running")
        else:
            stopping.check()
        if self._progress is not None:
            self._progress(done, steps)

    def _keep_beating(self) -> None:
        while not self._ended.wait(state.BEAT_SECONDS):
            self._write("running")

    def _write(self, word: str, reason: str = "") -> None:
        if self._said and not self.folder.is_dir():  # somebody has deleted it, which holds
            return
        running, self._said = word == "running", True
        with self._writing, contextlib.suppress(OSError):
            now = self._written = time.monotonic()
            cost = (now - self._started) * self.devices * self.share
            State(
                word,
                stage=self._stage if running else "",
                step=self._step,
                steps=self.steps,
                seconds_left=self._seconds_left(now) if running else None,
                device_seconds=self._before.device_seconds + cost,
                devices=self.devices,
                device=self.device,
                host=socket.gethostname(),
                pid=os.getpid(),
                job=self._job,
                reason=reason,
                attempts=self._before.attempts + 1,
            ).write(self.folder)

    def _seconds_left(self, now: float) -> float | None:
        """Return the seconds that the steps left will take; the first one, of a kind, is not it."""
        first, since = self._pace or (0, 0.0)
        if self._stage != "training" or self._pace is None or self._step <= first:
            return None
        return (self.steps - self._step) * (now - since) / (self._step - first)


def place(config: Mapping[str, Any], device: str) -> tuple[int, str]:
    """Return how many devices a run occupies, and their names for a person.

    Args:
        config: Of the run. GPUs that are reserved count, also where the run computes on a CPU.
        device: On what it computes, ``cpu`` or ``gpu``.
    """
    processes = int(config["trainer"].get("devices", 1))
    gpus = config["resources"]["gpus"]
    if not gpus and device == "cpu":
        return processes, _cores()
    count = math.ceil(gpus) if gpus else processes
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if visible is None else visible.split(",")
    return count, f"gpu {','.join(name.strip() for name in names[:count])}".strip()


def _cores() -> str:
    """Return ``cpu 5`` or ``cpu 0-2,7`` for a process that is held to some cores, else ``cpu``."""
    if not hasattr(os, "sched_getaffinity"):
        return "cpu"
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == os.cpu_count():
        return "cpu"
    parts: list[list[int]] = []
    for core in cores:
        if parts and core == parts[-1][-1] + 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    words = [str(part[0]) + (f"-{part[-1]}" if len(part) > 1 else "") for part in parts]
    return f"cpu {','.join(words)}"


def _job() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
