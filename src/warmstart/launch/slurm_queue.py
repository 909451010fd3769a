"""What Slurm knows of jobs, asked by its commands: squeue, and for the past scontrol and sacct."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from warmstart.errors import ConfigError

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "srun")

_FIELDS = ("ArrayJobID:32", "ArrayTaskID:32", "State:32", "Name:128", "exit_code:16", "Reason:128")
_ANSWER_SECONDS = 60
# States after which Slurm does nothing more with a job.
_ENDED = ("COMPLETED", "FAILED", "OUT_OF_MEMORY", "TIMEOUT", "DEADLINE")
_DEADLY = (signal.SIGABRT, signal.SIGBUS, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
_LOST = ("BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED")


class Place(NamedTuple):
    """Where a task is in the queue: the number of its array, and its own within it.

    A job that is no array has no such number.
    """

    array: str
    task: int | None = None

    @property
    def name(self) -> str:
        """What Slurm calls it, ``12_3`` or ``12``."""
        return self.array if self.task is None else f"{self.array}_{self.task}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What Slurm says of one task.

    Attributes:
        state: ``PENDING``, ``RUNNING``, ``OUT_OF_MEMORY``, ... as Slurm spells it.
        name: Of its array.
        code: How the batch script ended: 0, an exit code, or minus the signal's number.
        reason: Why it waits, in Slurm's words.
    """

    state: str
    name: str = ""
    code: int = 0
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether Slurm does nothing more with it."""
        return self.state in (*_ENDED, *_LOST)

    @property
    def started(self) -> bool:
        """Whether it does not wait any more."""
        return self.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING")


def check_commands() -> None:
    """Refuse a machine that has no Slurm.

    Raises:
        ConfigError: A command is missing, or knows of no cluster.
    """
    for name in COMMANDS:
        if shutil.which(name) is None:
            raise ConfigError(
                f"hydra/launcher=slurm needs Slurm's command {name}, which this machine has not; "
                "start it on a login node of the cluster, or use hydra/launcher=local"
            )
    done = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=False)
    if done.returncode != 0 and "configuration source" in done.stderr:
        raise ConfigError(
            "hydra/launcher=slurm finds no configuration of Slurm on this machine; start it on a "
            "login node of the cluster, set SLURM_CONF, or use hydra/launcher=local"
        )


def listing() -> dict[Place, Entry] | None:
    """Return all jobs of this user that Slurm still knows; None while it does not answer."""
    # All states: for some minutes those that have ended are there too, with the reason.
    layout = ",".join(f"{field}|" for field in _FIELDS)
    words = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}"]
    text = _ask([*words, f"--Format={layout}"])
    if text is None:
        return None
    entries = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) >= len(_FIELDS):
            array, index, state, name, code, reason = parts[: len(_FIELDS)]
            place = Place(array, int(index) if index.isdigit() else None)
            entries[place] = Entry(state, name, exit_code(code), reason)
    return entries


def past(place: Place) -> Entry | None:
    """Return how a task ended that the queue has forgotten, if the accounting or anybody knows."""
    text = _ask(["scontrol", "show", "job", "--oneliner", place.name])
    found = dict(re.findall(r"\b(JobState|ExitCode)=(\S+)", text or ""))
    if "JobState" in found:
        return Entry(found["JobState"], code=exit_code(found.get("ExitCode", "0")))
    # Without accounting it fails or prints nothing.
    fields = ["--format=State,ExitCode", "--allocations", "--noheader", "--parsable2"]
    text = _ask(["sacct", f"--jobs={place.name}", *fields])
    state, _, code_text = (text or "").strip().partition("\n")[0].partition("|")
    code = exit_code(code_text)
    # It takes 128 from what a shell says of a signal; no run of ours ends with these codes itself.
    return Entry(state.split(" ")[0], code=-code if code in _DEADLY else code) if state else None


def exit_code(text: str) -> int:
    """Return an exit code as Slurm prints it: minus the signal's number where one ended it.

    `squeue` prints the number of wait(2), the others ``CODE:SIGNAL``. A shell says 128 plus the
    signal of the command that it has run.
    """
    numbers = [int(number) for number in re.findall(r"\d+", text)] or [0]
    code, by = numbers if len(numbers) == 2 else (numbers[0] >> 8, numbers[0] & 0x7F)
    return -by if by else 128 - code if 128 < code < 192 else code


def cause(entry: Entry | None) -> str:
    """Return in words why a task left no result, and what to do about it."""
    state = entry.state if entry is not None else ""
    known = {
        "OUT_OF_MEMORY": "ran out of memory; give hydra.launcher.mem_gb or a smaller batch_size",
        "TIMEOUT": "hit its time limit; give more with hydra.launcher.time_minutes or "
        "resources.timeout",
        "NODE_FAIL": "was lost with its node",
        "BOOT_FAIL": "was lost with its node",
        "CANCELLED": "was cancelled",
        "PREEMPTED": "was preempted, and its queue does not start such jobs again",
        "DEADLINE": "hit its deadline",
        "COMPLETED": "ended without a result",
        "": "left the queue without a result",
    }
    if state in known:
        return known[state]
    code = entry.code if entry is not None else 0
    if code < 0:
        return f"was killed by signal {-code} ({_signal_name(-code)})"
    return f"ended with exit code {code} and without a result"


def requeue(job: str) -> str | None:
    """Put the job back into its queue, and return why that failed; None where it did not."""
    words = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() or "scontrol failed" if done.returncode else None


def preempted(job: str) -> bool:
    """Return whether a job that got SIGTERM is being preempted, and not cancelled by somebody."""
    text = _ask(["scontrol", "show", "job", "--oneliner", job]) or ""
    found = dict(re.findall(r"\b(JobState|PreemptTime)=(\S+)", text))
    return found.get("JobState") == "RUNNING" and found.get("PreemptTime", "None") != "None"


def cancel_named(name: str) -> None:
    """Cancel the jobs of this name, if there are any."""
    _ask(["scancel", "--quiet", f"--name={name}"])


def largest_array() -> int:
    """Return how many tasks an array may have on this cluster."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]) or "")
    # The largest index is one below, and 1001 is Slurm's own default.
    return max(1, int(found[1]) - 1) if found else 1000


def environment(around: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what a job around this process would pass on to new ones."""
    keep = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    foreign = ("SLURM", "SRUN_", "SQUEUE_", "SACCT_", "SUBMITIT_")
    return {k: v for k, v in around.items() if k in keep or not k.startswith(foreign)}


def _ask(words: Sequence[str]) -> str | None:
    """Return what a command prints; None where it fails or does not answer."""
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            env=environment(os.environ),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
