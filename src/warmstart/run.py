"""One run, from its config to its record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import torch

from warmstart import configs, environment, multiprocess, stopping, store
from warmstart.beat import Beat, Progress, Report, place
from warmstart.callbacks import checkpoint
from warmstart.callbacks.phases import check_statistics
from warmstart.callbacks.recorder import Logger
from warmstart.data.images import openings
from warmstart.digests import tensors_digest
from warmstart.errors import ConfigError, RunError
from warmstart.evaluation import evaluation
from warmstart.feed import train_batches
from warmstart.fit import fit
from warmstart.identity import identity
from warmstart.initial import Initial, initial_model
from warmstart.labels import labels, title
from warmstart.models import layers
from warmstart.models.weights import save
from warmstart.out_of_memory import (
    OutOfMemory,
    free_memory,
    smaller_micro_batches,
)
from warmstart.plan import Run, prepare
from warmstart.predict import OPENINGS
from warmstart.ranks import ALONE, Ranks
from warmstart.results.record import Record
from warmstart.trainer import Hardware

_log = logging.getLogger(__name__)


def execute(run: Run, *, progress: Progress | None = None) -> Record:
    """Return the record of a run, running it unless it is finished.

    A run that was killed goes on from its last checkpoint and ends as if it had not been. Two
    processes that ask for one run make it once.

    Args:
        run: As `warmstart.plan.prepare` returns it.
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
            record = _with_enough_memory(run, beat)
        assert record is not None
        return record
    except stopping.Stopped:
        raise
    except Exception as error:
        _record_failure(run, error)
        if isinstance(error, (ConfigError, RunError)):
            raise
        reason = " ".join(str(error).split())
        raise RunError(f"{type(error).__name__}: {reason}") from error


def _with_enough_memory(run: Run, report: Report) -> Record | None:
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
    started = time.monotonic()
    run.hardware.apply()
    initial = _initial(run, report.step)
    model, groups = initial.model, initial.groups
    initial_digest = tensors_digest(model.state_dict())
    _check_equal(initial_digest, ranks)
    batches = train_batches(run.config, run.images, run.augment, part=ranks.part)
    loggers = [_logger(run)] if ranks.leads else []
    task, recorder, divergence = fit(
        *(run, model, groups, batches, loggers, report), accumulated=accumulated, ranks=ranks
    )
    timing = {"train_seconds": recorder.seconds, "curves": _seconds(recorder.rows)}
    if recorder.best is not None:
        model.load_state_dict(recorder.best["model"])
    weights = tensors_digest(model.state_dict())
    report.stage("evaluating")
    metrics = evaluation(run, task, recorder, weights, ranks)
    if not ranks.leads:
        return None
    if run.config["keep"] == "best":
        save(run.weights_file, model.state_dict(), run.input, run.images.classes)
    options = json.dumps(run.config["augment"], sort_keys=True)
    order = batches.digests(options)
    counts = {name: len(split) for name, split in run.images.splits.items()}
    timing["total_seconds"] = time.monotonic() - started
    record = dataclasses.replace(
        _description(run, "finished", timing),
        digests={"data": run.dataset.digest, "split": run.images.digest, **order}
        | {"init": initial_digest, "weights": weights},
        test_opened=openings(run.folder / OPENINGS),
        data={**run.dataset.notes(), "counts": counts},
        metrics=metrics,
        curves=_curves(recorder.rows),
        groups=layers.table(groups),
        input=json.loads(json.dumps(dataclasses.asdict(run.input))),
        init={"weights": run.origins, **initial.as_dict()},
        freeze_proof=recorder.proof.entries,
        accumulated=recorder.accumulated,
        rank_divergence=divergence,
    )
    # After all other files: where it stands, the run is finished and nothing is done again.
    record.write(run.folder)
    checkpoint.remove(run.folder)
    # Mirrors come after the record, and a disk that is full by now cannot undo it.
    with contextlib.suppress(OSError):
        loggers[0].finish(recorder.rows, metrics)
    return record


def _logger(run: Run) -> Logger:
    logger: Logger = configs.build(
        "logger", run.config["logger"], folder=run.folder, name=title(run), labels=labels(run)
    )
    return logger


def _check_equal(digest: str, ranks: Ranks) -> None:
    if len(set(ranks.all_values(digest))) > 1:
        raise RunError(
            "the processes of the run begin with different models, though all make theirs from the "
            "same seed and data; is a part of the initialization not deterministic on this device?"
        )


def _description(run: Run, status: str, timing: dict[str, Any]) -> Record:
    """Return the part of the record that does not depend on what the training gave."""
    return Record(
        key=run.key,
        status=status,
        seed=run.config["seed"],
        config=identity(run.config),
        choices=run.config["choices"],
        versions=environment.versions(),
        environment=environment.describe(run.hardware.device, run.config),
        timing=timing,
    )


def _initial(run: Run, progress: Progress) -> Initial:
    """Return the model as it is before step 0."""
    initial = initial_model(run, progress=progress)
    check_statistics(run.phases, initial.groups, initial.statistics)
    rows = layers.table(initial.groups)
    sizes = ", ".join(f"{row['group']} {row['parameters']:,}" for row in rows)
    _log.debug("layer groups and their parameters: %s", sizes)
    if initial.report is not None:
        _log.debug("weights %s: %s", " <- ".join(run.origins), initial.report)
    if run.config["trainer"]["channels_last"]:
        initial.model.to(memory_format=torch.channels_last)
    if run.hardware.sync_batchnorm:
        convert: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm
        model = convert(initial.model)
        groups = layers.layer_groups(model, run.architecture.layout)  # of the new layers
        initial = dataclasses.replace(initial, model=model, groups=groups)
    return initial


def _record_failure(run: Run, error: Exception) -> None:
    message = str(error) if isinstance(error, (ConfigError, RunError)) else repr(error)
    record = _description(run, "failed", {})
    record.environment["traceback"] = traceback.format_exc()
    record = dataclasses.replace(record, error=" ".join(message.split()))
    # On a full disk, the message on the screen has to do.
    with contextlib.suppress(OSError):
        record.write(run.folder)


def _seconds(rows: Mapping[str, list[dict[str, float]]]) -> dict[str, list[float]]:
    return {split: [row["seconds"] for row in part] for split, part in rows.items()}


def _curves(rows: Mapping[str, list[dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Return rows as columns, without the seconds, which are no part of the result."""
    return {
        split: {
            column: [row[column] for row in part]
            for column in (part[0] if part else ())
            if column != "seconds"
        }
        for split, part in rows.items()
    }
