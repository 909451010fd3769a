"""One run, from its config to its record."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from warmstart import stopping, store
from warmstart.callbacks import checkpoint
from warmstart.callbacks.divergence import Diverged
from warmstart.errors import ConfigError, RunError
from warmstart.ranks import ALONE, Ranks
from warmstart.results.record import Record
from warmstart.run import multiprocess, stack
from warmstart.run.beat import Beat, Progress, Report, place
from warmstart.run.out_of_memory import (
    OutOfMemory,
    free_memory,
    smaller_micro_batches,
)
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare
from warmstart.run.stages import columns, conclude, description, ready
from warmstart.trainer import Hardware

_log = logging.getLogger(__name__)


def execute(run: Run, *, progress: Progress | None = None) -> Record:
    """Return the record of a run, running it unless it is finished.

    A run that was killed goes on from its last checkpoint and ends as if it had not been. Two
    processes that ask for one run make it once.

    Args:
        run: As `warmstart.run.preparing.prepare` returns it.
        progress: Called with the finished steps and all steps.

    Raises:
        ConfigError: The weights are wrong, or do not fit the strategy.
        RunError: The run failed; its record says why too.
        Stopped: It was asked to; after a checkpoint, where training had begun.
    """
    with store.lock(run.folder):
        record = run.finished()
        if record is not None:
            checkpoint.remove(run.folder)  # of a run that was killed right after its record
            _log.debug("finished before; delete %s to run it again", run.folder)
            return record
        run.folder.mkdir(exist_ok=True)
        devices, device = place(run.config, run.hardware.device)
        with Beat(
            run.folder, steps=run.steps, devices=devices, device=device, progress=progress
        ) as beat:
            return _alone(run, beat, progress)


def _alone(run: Run, beat: Beat, progress: Progress | None) -> Record:
    """Run what no other process runs; write down why it failed."""
    try:
        stopping.check()
        if run.source is not None and run.source.finished() is None:
            _log.info("the source run comes first, once: %s", run.source.folder)
            execute(run.source, progress=progress)
        if run.hardware.devices > 1:
            record = _in_processes(run, beat)
        else:
            record = with_enough_memory(run, beat)
        assert record is not None
        return record
    except stopping.Stopped:
        raise
    except Exception as error:
        record_failure(run, error)
        if isinstance(error, (ConfigError, RunError)):
            raise
        reason = " ".join(str(error).split())
        raise RunError(f"{type(error).__name__}: {reason}") from error


def with_enough_memory(run: Run, report: Report) -> Record | None:
    """Train; where memory runs out, once more from the start with smaller micro-batches."""
    try:
        return _train(run, report)
    except OutOfMemory as error:
        accumulated, step = smaller_micro_batches(run.config, error), error.step
        if not accumulated:
            raise
    # Not in the handler: what it handles refers to all that filled the memory.
    free_memory()
    _log.warning(
        "out of memory after step %d of %d: once more from the start, with accumulate=%d",
        *(step, run.steps, accumulated),
    )
    checkpoint.remove(run.folder)
    report.stage("preparing")
    return _train(run, report, accumulated=accumulated)


def _in_processes(run: Run, report: Report) -> Record | None:
    """Train in one process per device, of which the first writes the record."""
    cpu = run.hardware.device == "cpu"
    target = f"{Hardware.__module__}.{Hardware.__qualname__}"  # which a run's config has no more
    config = {**run.config, "trainer": {"_target_": target, **run.config["trainer"]}}
    multiprocess.together(
        _be_rank,
        *(config, run.key),
        world=run.hardware.devices,
        device=run.hardware.device,
        # Neither a GPU nor a pool of threads survives a fork.
        fork=cpu and run.hardware.threads == 1 and sys.platform == "linux",
        report=report,
    )
    return run.finished()


def _be_rank(config: Mapping[str, Any], key: str, ranks: Ranks, report: Report) -> None:
    """Train in one of several processes."""
    run = prepare(config)
    if run.key != key:
        raise RunError("the data or the weights have changed while the run started; start it again")
    _train(run, report, ranks=ranks)


def _train(
    run: Run, report: Report, *, accumulated: int = 0, ranks: Ranks = ALONE
) -> Record | None:
    """Train and evaluate; write and return the record, if this process is the one that does."""
    started = ready(run, report, ranks=ranks)
    # Smaller micro-batches are a matter of the way that every run can go.
    trained = None if accumulated else stack.train_alone(started, report)
    return conclude(started, report, accumulated=accumulated, ranks=ranks, trained=trained)


def record_failure(run: Run, error: Exception) -> None:
    """Write down why a run failed."""
    message = str(error) if isinstance(error, (ConfigError, RunError)) else repr(error)
    record = description(run, "failed", {})
    record.environment["traceback"] = traceback.format_exc()
    curves = columns(error.rows) if isinstance(error, Diverged) else {}
    record = dataclasses.replace(record, error=" ".join(message.split()), curves=curves)
    # On a full disk, the message on the screen has to do.
    with contextlib.suppress(OSError):
        record.write(run.folder)
