"""Devices of one machine, shared by all sweeps on it: a run leases what it was promised."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from warmstart.errors import ConfigError
from warmstart.launch import claims
from warmstart.launch.jobs import Resources
from warmstart.launch.placement import Claim, place, wanted

_POLL_SECONDS = 0.05
# Each look opens all files of the folder.
_LONG_QUEUE = 16
_LONG_POLL_SECONDS = 0.2

_GPU_NAME = re.compile(r"\d+|(GPU|MIG)-\S+")


class Lease:
    """Devices that one run has for itself until `release`, or until the process dies.

    Attributes:
        gpus: Their names, for CUDA_VISIBLE_DEVICES. A run with a share shares it with others.
        cores: Their numbers; nobody else's.
    """

    def __init__(self, file: claims.ClaimFile) -> None:
        self.gpus: tuple[str, ...] = file.claim.gpus or ()
        self.cores: tuple[int, ...] = file.claim.cores
        self._file = file

    def release(self) -> None:
        """Give the devices back; nothing happens the second time, or in a forked child."""
        self._file.remove()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lease(
    resources: Resources,
    *,
    gpus: Sequence[str],
    cores: Sequence[int],
    folder: Path | None = None,
    timeout: float | None = None,
) -> Lease:
    """Wait until what a run needs is free, and return it.

    Who asked first is served first; others go ahead only with what he cannot use. So a run on all
    GPUs is not starved by small ones, and a slot is taken again within a second of its owner's
    death.

    Args:
        resources: What is needed.
        gpus: Names of all that may be given out. All sweeps on a machine name them alike.
        cores: Numbers of all that may be given out.
        folder: On a local disk, the same for all who share the devices; by default `shared_folder`.
        timeout: In seconds; 0 looks once, None waits for ever.

    Raises:
        ConfigError: More is asked for than there is.
        TimeoutError: It was not free in time.
    """
    check(resources, gpus, cores)
    deadline = None if timeout is None else time.monotonic() + timeout
    folder = folder or shared_folder()
    with claims.mutex(folder):
        file = claims.ClaimFile(folder, _wish(resources, gpus, cores))
    try:
        while (queue := _take(file, folder)) > 0:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{resources} is not free after {timeout} s")
            time.sleep(_LONG_POLL_SECONDS if queue > _LONG_QUEUE else _POLL_SECONDS)
    except BaseException:  # also the interrupt: nobody may wait behind a request that is given up
        file.remove()
        raise
    return Lease(file)


def contended(folder: Path) -> bool:
    """Return whether others wait in `folder` for devices that this process holds."""
    with claims.mutex(folder):
        living, own = claims.living(folder), claims.own(folder)
    return any(wanted(claim, living) for claim in living if claim.number in own)


def shared_folder() -> Path:
    """Return the folder of all sweeps of this user on this machine, or in this Slurm job.

    Slurm gives the devices of a job to nobody else, and may number them from 0 in every job.

    Raises:
        ConfigError: The folder is somebody else's.
    """
    job = os.environ.get("SLURM_JOB_ID")
    folder = Path(f"/tmp/warmstart-{os.getuid()}{f'-{job}' if job else ''}")
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = folder.stat().st_uid
    if owner != os.getuid():
        raise ConfigError(
            f"{folder} belongs to user {owner}, but leases of devices need a folder of one's own; "
            "have it removed"
        )
    return folder


def detect_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without starting CUDA.

    They are those in CUDA_VISIBLE_DEVICES, as they stand there, else the driver's: their numbers,
    or the names of their parts where a GPU is divided (MIG).
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = (name.strip() for name in visible.split(","))
        # As CUDA does: "-1", "NoDevFiles" or nothing at all end the list.
        return list(dict.fromkeys(itertools.takewhile(_GPU_NAME.fullmatch, names)))
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return _listed(answer.stdout)


def _listed(text: str) -> list[str]:
    """Return the names in what ``nvidia-smi -L`` prints."""
    names: list[str] = []
    for line in text.splitlines():
        if part := re.search(r"MIG .*UUID: (MIG-[^)\s]+)", line):
            if names and not names[-1].startswith("MIG"):
                names.pop()  # the GPU of the parts
            names.append(part[1])
        elif gpu := re.match(r"GPU (\d+):", line):
            names.append(gpu[1])
    return names


def _wish(resources: Resources, gpus: Sequence[str], cores: Sequence[int]) -> Claim:
    return Claim(
        number=0,
        devices=resources.gpus,
        cpus=resources.cpus,
        from_gpus=tuple(dict.fromkeys(gpus)),
        from_cores=tuple(dict.fromkeys(cores)),
    )


def _take(file: claims.ClaimFile, folder: Path) -> int:
    """Take the devices if it is this claim's turn; return how many wait, itself among them."""
    with claims.mutex(folder):
        living = claims.living(folder)
        found = place(file.claim, living)
        if found is None:
            return sum(claim.gpus is None for claim in living)
        file.write(dataclasses.replace(file.claim, gpus=found[0], cores=found[1]))
    return 0


def check(resources: Resources, gpus: Sequence[str], cores: Sequence[int]) -> None:
    """Raise a ConfigError where more is asked for than there is."""
    count = len(set(gpus))
    if resources.gpus < 0 or (resources.gpus > 1 and resources.gpus % 1):
        raise ConfigError(
            f"resources.gpus is {resources.gpus:g}, but must be 0, a share below 1 of one GPU, or "
            "a whole number; round it"
        )
    if resources.gpus > count:
        there = f"are {count} ({', '.join(dict.fromkeys(gpus))})" if count else "is none"
        raise ConfigError(
            f"resources.gpus is {resources.gpus:g}, but there {there} to be given out; ask for "
            "fewer, or make more visible with CUDA_VISIBLE_DEVICES"
        )
    if not 1 <= resources.cpus <= len(set(cores)):
        raise ConfigError(
            f"resources.cpus is {resources.cpus}, but must be from 1 to the {len(set(cores))} "
            "cores that may be given out; change it"
        )
