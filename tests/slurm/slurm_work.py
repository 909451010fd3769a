"""What the jobs of these tests do in place of a training run, quickly and without torch.

A job's config says what becomes of it, in its word ``do``.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from warmstart import stopping
from warmstart.launch.jobs import Job, Outcome, Resources
from warmstart.results.record import Record
from warmstart.results.state import State


def job(out: Path, key: str, do: str = "finish", **options: Any) -> Job:
    """Return a job whose folder is ``out/runs/KEY``."""
    resources = Resources(gpus=options.pop("gpus", 0), cpus=1, timeout=options.pop("timeout", None))
    needs = options.pop("needs", ())
    config = {"do": do, **options}
    return Job(key, f"run {key}", out / "runs" / key, config, resources, needs=needs)


def play(job: Job) -> Outcome:
    """Do what the job says: ``finish``, ``fail``, ``kill``, ``exit``, ``hang`` or ``wait``.

    Every start of it leaves a line in ``started`` of the run's folder: Slurm's name of the job,
    its GPUs, its cores.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic_ns()
    with (job.folder / "started").open("a") as file:
        file.write(f"{os.environ['SLURM_JOB_ID']}\n")
    _state(job, "running")
    do = job.config["do"]
    if do == "kill":
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "exit":
        sys.exit(3)
    if do == "hang":
        time.sleep(600)
    if do == "fail":
        _state(job, "failed", "the loss is not a number")
        return Outcome(job, error="the loss is not a number")
    if do == "wait":
        _wait(job)
    time.sleep(float(job.config.get("seconds", 0)))
    (job.folder / "interval").write_text(
        f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')} {began} {time.monotonic_ns()}"
    )
    record = Record(
        job.key, "finished", 0, {}, {}, metrics={"val/accuracy": 0.5}, timing={"total_seconds": 1.0}
    )
    record.write(job.folder)
    _state(job, "finished")
    return Outcome(job)


def _wait(job: Job) -> None:
    """Wait until there is a file ``go``; stop when asked to."""
    while not (job.folder / "go").exists():
        if stopping.requested():
            _state(job, "stopped")
        stopping.check()
        time.sleep(0.05)


def _state(job: Job, word: str, reason: str = "") -> None:
    State(word, step=1, reason=reason, host=socket.gethostname(), pid=os.getpid()).write(job.folder)
