"""Real processes that run the command and can die at a chosen moment.

They are forks of a server that has imported everything once: starting one costs a fraction of a
second, where a fresh interpreter imports torch for many.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["pytest", "warmstart.app", "warmstart.cells", "warmstart.run.execution"]


def start(
    arguments: Sequence[str], log: Path, *, die_at_save: int | None = None, when: str = "after"
) -> ForkServerProcess:
    """Start ``warmstart ARGUMENTS`` in a process of its own and return it.

    Args:
        arguments: Of the command.
        log: Takes what it prints. The keys of the runs that it trains go to the same name with
            the suffix ``.trained``.
        die_at_save: It ends itself with SIGKILL at this many checkpoints, counted from 1.
        when: ``before`` or ``after`` that checkpoint is written.
    """
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    target = (list(arguments), log, die_at_save, when)
    process = _CONTEXT.Process(target=_main, args=target)
    process.start()
    return process


def run(arguments: Sequence[str], log: Path, **death: Any) -> int:
    """Run the command to its end and return its exit code; -9 when SIGKILL ended it."""
    process = start(arguments, log, **death)
    process.join(timeout=300)
    assert process.exitcode is not None, "the command does not end"
    return process.exitcode


def trained(log: Path) -> list[str]:
    """Return the keys of the runs that processes with this log have trained, oldest first."""
    path = log.with_suffix(".trained")
    return path.read_text().split() if path.exists() else []


def _main(arguments: list[str], log: Path, die_at_save: int | None, when: str) -> None:
    from warmstart.callbacks import checkpoint
    from warmstart.cli import main
    from warmstart.run import execution as run

    # As in a process that was started by hand: loader workers would come from a second server, and
    # a suite that runs in the background has the interrupt ignored, for its children too.
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    save, train, saves = checkpoint.save, run._train, 0

    def save_or_die(*args: Any, **kwargs: Any) -> Path:
        nonlocal saves
        saves += 1
        if saves == die_at_save and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        path = save(*args, **kwargs)
        if saves == die_at_save:
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    def count(task: run.Run, *args: Any, **options: Any) -> Any:
        with log.with_suffix(".trained").open("a") as file:
            file.write(f"{task.key}\n")
        return train(task, *args, **options)

    checkpoint.save, run._train = save_or_die, count
    sys.exit(main(arguments))
