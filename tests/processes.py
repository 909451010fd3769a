"""Real processes that run the command and can die at a chosen moment.

They are forks of a server that has imported everything once: starting one costs a fraction of a
second, where a fresh interpreter imports torch for many.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import resource_tracker, util
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["pytest", "warmstart.app", "warmstart.cells", "warmstart.run.execution"]
_PRELOAD += ["warmstart.run.together"]


def start(
    arguments: Sequence[str],
    log: Path,
    *,
    die_at_save: int | None = None,
    when: str = "after",
    warm: bool = False,
) -> ForkServerProcess:
    """Start ``warmstart ARGUMENTS`` in a process of its own and return it.

    Args:
        arguments: Of the command.
        log: Takes what it prints. The keys of the runs that it trains go to the same name with
            the suffix ``.trained``.
        die_at_save: It ends itself with SIGKILL at this many checkpoints, counted from 1.
        when: ``before`` or ``after`` that checkpoint is written.
        warm: The server from which ``hydra/launcher=local`` forks its workers has imported
            everything too: it is a process of its own as ever, but a fork of the command.
    """
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    target = (list(arguments), log, die_at_save, when, warm)
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


def _fork_the_server() -> None:
    spawn = util.spawnv_passfds

    def fork(path: bytes, args: list[str], passfds: Sequence[int]) -> int:
        if "multiprocessing.forkserver" not in args[-1]:
            return spawn(path, args, passfds)
        pid = os.fork()
        if pid:
            return pid
        # As in a new interpreter: it would not see the end of a pipe that it holds itself.
        gc.freeze()
        for path in list(Path("/proc/self/fd").iterdir()):
            if int(path.name) > 2 and int(path.name) not in passfds:
                with contextlib.suppress(OSError):  # that of the listing
                    os.close(int(path.name))
        try:
            exec(args[-1])
        finally:
            os._exit(1)

    util.spawnv_passfds = fork
    resource_tracker._resource_tracker.__init__()  # type: ignore[misc] # has one of its own


def _main(arguments: list[str], log: Path, die_at_save: int | None, when: str, warm: bool) -> None:
    from warmstart.callbacks import checkpoint
    from warmstart.cli import main
    from warmstart.run import execution as run

    # As in a process that was started by hand: loader workers would come from a second server, and
    # a suite that runs in the background has the interrupt ignored, for its children too.
    multiprocessing.set_start_method("fork", force=True)
    if warm:
        _fork_the_server()
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
