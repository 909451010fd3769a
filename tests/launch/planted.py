"""What workers do in tests of the launcher: short runs, and all ways in which one can go wrong."""

import json
import os
import signal
import sys
import time

from warmstart.errors import RunError
from warmstart.launch.jobs import Job, Outcome
from warmstart.launch.work import run_job


def mark_interval(job: Job) -> Outcome:
    """Hold the device for some milliseconds, and write down which one and when."""
    start = time.monotonic_ns()
    time.sleep(job.seconds)
    entry = [os.environ["CUDA_VISIBLE_DEVICES"], start, time.monotonic_ns(), os.getpid()]
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "interval.json").write_text(json.dumps(entry))
    return Outcome(job, text="done")


def go_wrong(job: Job) -> Outcome:
    """Do what the label says, or run the job: ``seed=3`` raises, 6 is killed, 8 exits, 9 hangs."""
    seed = int(job.label.rpartition("seed=")[2])
    if seed < 5:
        return Outcome(job, error=str(RunError(f"planted {seed}")))
    if seed < 8:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 8:
        sys.exit(3)
    if seed == 9:
        time.sleep(3600)
    return run_job(job)


def leave(job: Job) -> Outcome:
    """Be gone with exit code 0, without a word."""
    os._exit(0)
