"""How far a run is: the file ``state.json`` in its folder. Imports no torch.

It is what ``warmstart status`` and the live display read, on this machine or on another one that
sees the same folder. The run itself writes it, at most once in a second; a launcher writes it for
a run that waits or that was killed. A finished run's truth is its record alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from pathlib import Path

FILE = "state.json"
BEAT_SECONDS = 5.0
"""A run that is under way touches its file at least so often, also while it evaluates."""
SILENT_SECONDS = 30.0
"""A run that has not touched its file for so long is dead, for a reader on another machine."""


@dataclasses.dataclass(frozen=True)
class State:
    """What is known of a run besides its record.

    Attributes:
        state: ``waiting`` (given to a launcher), ``running``, ``stopped`` (after a checkpoint, on
            a signal, or pruned), ``failed`` or ``finished``.
        stage: Of a running one: ``preparing``, ``features of train`` (or val, test: frozen layers
            run over the images), ``training``, ``evaluating``.
        step: Finished training steps.
        steps: Of the whole run; 0 while it is not known.
        seconds_left: Predicted by the run itself; None while it cannot say.
        device_seconds: What all attempts have cost so far: seconds times `devices`.
        devices: GPUs of the run (1 for a share of one); on a CPU its processes.
        device: Where it runs, for a person: ``gpu 3``, ``gpu 0,1``, ``cpu 5``.
        host: Name of the machine.
        pid: Of the process that trains.
        job: Slurm's name of the job, ``123_4``; empty elsewhere.
        reason: Why it failed, in one sentence; of a pruned trial, where it ended.
        attempts: How often it was started.
        updated: When this was written, in seconds since 1970.
    """

    state: str
    stage: str = ""
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    device_seconds: float = 0.0
    devices: int = 1
    device: str = ""
    host: str = ""
    pid: int = 0
    job: str = ""
    reason: str = ""
    attempts: int = 0
    updated: float = 0.0

    def write(self, folder: Path) -> None:
        """Write ``folder/state.json`` in one piece; the folder is made where it lacks.

        Not flushed to the disk: after a power cut an older state, or none, does no harm.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(dataclasses.replace(self, updated=time.time())))
        part = folder / f".{FILE}.{os.getpid()}.part"
        part.write_text(text)
        os.replace(part, folder / FILE)


def read(folder: Path) -> State | None:
    """Return the state of the run in `folder`; None where there is none, or it is unreadable."""
    try:
        return State(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def alive(state: State, folder: Path) -> bool:
    """Return whether the process of a ``running`` state is still there.

    On its own machine a process that is gone is known at once; everywhere the time of its file
    says the rest.
    """
    if state.host == socket.gethostname() and not exists(state.pid):
        return False
    try:
        return time.time() - (folder / FILE).stat().st_mtime < SILENT_SECONDS
    except OSError:
        return False


def exists(pid: int) -> bool:
    """Return whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
