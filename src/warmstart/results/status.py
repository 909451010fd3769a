"""What has become of runs, from the files on disk alone. Imports no torch.

Ten thousand runs take a second: a folder is listed once, a run's small ``state.json`` is read
where there is one, and of a record no more than its first and its last bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import time
from pathlib import Path

from warmstart.results import record as records
from warmstart.results import state as states
from warmstart.results.planned import RunStatus, Status, names, plans
from warmstart.results.state import State

_HEAD, _TAIL = 4096, 256  # bytes
_STATUS = re.compile(rb'"status": "(\w+)"')
_SECONDS = re.compile(rb'"total_seconds": ([0-9.e+-]+)')


class Follower:
    """Reads the same runs again and again; a finished one is read once.

    Args:
        planned: The runs, none of them looked at yet.
    """

    def __init__(self, planned: Status) -> None:
        self.planned = planned
        runs = (*planned.cells, *planned.stages)
        # Taken apart once: paths are slow, and the view reads twice a second.
        self._runs = [(run, os.path.split(run.folder)) for run in runs]
        self._parents = {parent for _, (parent, _) in self._runs}
        self._done: dict[int, RunStatus] = {}

    def read(self) -> Status:
        """Return what is true now."""
        present = {parent: names(Path(parent)) for parent in self._parents}
        runs = [
            self._look(place, run) if name in present[parent] else run
            for place, (run, (parent, name)) in enumerate(self._runs)
        ]
        split = len(self.planned.cells)
        return dataclasses.replace(
            self.planned, cells=tuple(runs[:split]), stages=tuple(runs[split:])
        )

    def _look(self, place: int, run: RunStatus) -> RunStatus:
        found = self._done.get(place) or _look(run)
        if found.status == "done":
            self._done[place] = found
        return found


def status(folder: Path) -> list[Status]:
    """Return what `folder` holds: an output folder, a comparison or a run.

    Runs of an output folder that belong to none of its comparisons come last, as one entry.

    Raises:
        ConfigError: It is none of these, or its plan is damaged.
    """
    return [Follower(planned).read() for planned in plans(folder)]


def _look(run: RunStatus) -> RunStatus:
    """Return what the files in the run's folder say."""
    state = states.read(run.folder)
    if state is not None and state.state == "finished":
        # A record that somebody deleted is to be made again.
        done = (run.folder / records.FILE).exists()
        cost = state.device_seconds
        return dataclasses.replace(run, state=state, status=_done(done), device_seconds=cost)
    ended, cost, reason = _glance(run.folder)
    if state is None:
        status = {"finished": "done", "failed": "failed"}.get(ended, "planned")
        return dataclasses.replace(run, status=status, device_seconds=cost, reason=reason)
    status, cost = state.state, state.device_seconds or cost
    if ended == "finished":  # its process ended right after its record
        status = "done"
    elif status == "running" and not states.alive(state, run.folder):
        status, reason = "died", _silence(state, run.folder)
    elif status == "failed":
        reason = state.reason or reason
    return dataclasses.replace(
        run,
        status=status,
        state=state,
        device_seconds=cost,
        reason=reason if status in ("failed", "died") else "",
    )


def _done(done: bool) -> str:
    return "done" if done else "planned"


def _glance(folder: Path) -> tuple[str, float, str]:
    """Return status, seconds and error of a record, without reading all of it; "" without one."""
    try:
        with (folder / records.FILE).open("rb") as file:
            head = file.read(_HEAD)
            found = _STATUS.search(head)
            if found is None:
                return "", 0.0, ""
            if found[1] == b"failed":
                error = json.loads(head + file.read()).get("error")
                return "failed", 0.0, str(error or "")
            # The seconds of the whole run are the record's last entry.
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            seconds = _SECONDS.search(file.read())
            return found[1].decode(), float(seconds[1]) if seconds else 0.0, ""
    except (OSError, ValueError):
        return "", 0.0, ""


def _silence(state: State, folder: Path) -> str:
    if state.host == socket.gethostname():
        return f"its process {state.pid} has ended without a word"
    try:
        silent = time.time() - (folder / states.FILE).stat().st_mtime
    except OSError:
        silent = states.SILENT_SECONDS
    return f"no sign of life from {state.host or 'its machine'} for {silent:.0f} s"
