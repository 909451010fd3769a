"""What happens in a worker process of one machine: it leases devices, then runs jobs on them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import connection, parent_process
from pathlib import Path

from warmstart.launch import leases
from warmstart.launch.jobs import Job, Outcome, Resources

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_held: tuple[Resources, leases.Lease] | None = None


def begin() -> None:
    """Tie this process to its parents: it must not hold devices that nobody asks for any more.

    The parent by the system is the server that forks workers; the driver is known by a pipe.
    """
    # What a terminal's Ctrl-C means, the driver decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    driver = parent_process()
    assert driver is not None

    def follow() -> None:
        connection.wait([driver.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, name="follows its driver", daemon=True).start()


def devices(
    resources: Resources, gpus: Sequence[str], cores: Sequence[int], folder: Path
) -> int | None:
    """Wait for devices and set this process up for them, once in its life.

    Returns:
        The process's number; None when it holds other devices than these, or somebody else waits
        for them: then another process has to take its place.
    """
    global _held
    if _held is not None:
        return os.getpid() if _held[0] == resources and not leases.contended(folder) else None
    lease = leases.lease(resources, gpus=gpus, cores=cores, folder=folder)
    _held = resources, lease
    if gpus or "CUDA_VISIBLE_DEVICES" in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease.gpus)
    with contextlib.suppress(AttributeError, OSError):  # other systems; a container forbids it
        os.sched_setaffinity(0, lease.cores)
    return os.getpid()


def work(job: Job, bring: Callable[[Job], Outcome]) -> Outcome | None:
    """Let `bring` run one job on the devices that this process holds; None where it holds none."""
    if _held is None:  # the process that had leased them died in between
        return None
    try:
        return bring(job)
    except (SystemExit, KeyboardInterrupt) as error:  # Lightning turns one into the other
        return Outcome(job, error=f"the run ended its process ({type(error).__name__})")
