"""One run, from its config to its record."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

from warmstart import configs, environment, store
from warmstart.callbacks import checkpoint
from warmstart.callbacks.phases import PhaseSchedule, check_statistics
from warmstart.callbacks.proof import FreezeProof
from warmstart.callbacks.recorder import Logger, Recorder
from warmstart.data.batches import TrainBatches, eval_loader, train_loader
from warmstart.data.images import openings
from warmstart.data.preprocess import Preprocess
from warmstart.digests import tensors_digest
from warmstart.errors import ConfigError, RunError
from warmstart.feed import train_batches
from warmstart.identity import identity
from warmstart.initial import Initial, initial_model
from warmstart.models import layers
from warmstart.models.weights import save
from warmstart.plan import Run
from warmstart.predict import OPENINGS, evaluate
from warmstart.results.metric import Size, size_label, size_phrase, training_size
from warmstart.results.record import Record
from warmstart.task import Classification, class_weights

Progress = Callable[[int, int], None]

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
    """
    with store.lock(run.folder):
        record = run.finished()
        if record is not None:
            checkpoint.remove(run.folder)  # of a run that was killed right after its record
            _log.debug("finished before; delete %s to run it again", run.folder)
            return record
        run.folder.mkdir(exist_ok=True)
        try:
            if run.source is not None and run.source.finished() is None:
                _log.info("the source run comes first, once: %s", run.source.folder)
                execute(run.source, progress=progress)
            return _train(run, progress or (lambda step, steps: None))
        except Exception as error:
            _record_failure(run, error)
            if isinstance(error, (ConfigError, RunError)):
                raise
            reason = " ".join(str(error).split())
            raise RunError(f"{type(error).__name__}: {reason}") from error


def _train(run: Run, progress: Progress) -> Record:
    started = time.monotonic()
    run.hardware.apply()
    initial = _initial(run, progress)
    model, groups = initial.model, initial.groups
    initial_digest = tensors_digest(model.state_dict())
    batches = train_batches(run.config, run.images, run.augment)
    logger = configs.build(
        "logger", run.config["logger"], folder=run.folder, name=_name(run), labels=_labels(run)
    )
    task, recorder = _fit(run, model, groups, batches, logger, progress)
    timing = {"train_seconds": recorder.seconds, "curves": _seconds(recorder.rows)}
    if recorder.best is not None:
        model.load_state_dict(recorder.best["model"])
    weights = tensors_digest(model.state_dict())
    metrics = _evaluate(run, task, weights)
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
    )
    # After all other files: where it stands, the run is finished and nothing is done again.
    record.write(run.folder)
    checkpoint.remove(run.folder)
    # Mirrors come after the record, and a disk that is full by now cannot undo it.
    with contextlib.suppress(OSError):
        logger.finish(recorder.rows, metrics)
    return record


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
    return initial


def _task(
    run: Run,
    model: torch.nn.Module,
    groups: list[layers.LayerGroup],
    resume: dict[str, Any] | None,
) -> Classification:
    if resume is not None:
        model.load_state_dict(resume["model"])
    channels_last = run.config["trainer"]["channels_last"]
    classes, weighted = len(run.images.classes), run.config["balance"] == "loss"
    return Classification(
        model,
        Preprocess(run.input, augment=run.augment, channels_last=channels_last),
        optimizer=functools.partial(configs.build, "optimizer", run.config["optimizer"], groups),
        seed=run.config["seed"],
        classes=classes,
        mix=run.augment.mix,
        class_weights=class_weights(run.images.train.labels, classes) if weighted else None,
        auxiliary_weight=run.architecture.auxiliary_weight,
        first_step=resume["step"] if resume else 0,
        optimizer_state=resume["optimizer"] if resume else None,
    )


def _fit(
    run: Run,
    model: torch.nn.Module,
    groups: list[layers.LayerGroup],
    batches: TrainBatches,
    logger: Logger,
    progress: Progress,
) -> tuple[Classification, Recorder]:
    """Train from the newest checkpoint, or from the start, to the last step."""
    resume = checkpoint.load_newest(run.folder)
    if resume is not None:
        _log.info("going on after step %d of %d", resume["step"], run.steps)
    task = _task(run, model, groups, resume)
    state = resume["proof"] if resume else None
    proof = FreezeProof(run.phases, groups, steps=run.steps, resume=state)
    recorder = Recorder(
        run.folder,
        steps=run.steps,
        proof=proof,
        log_every=run.config["log_every_steps"],
        checkpoint_seconds=run.config["checkpoint_seconds"],
        loggers=[logger],
        progress=lambda step: progress(step, run.steps),
        resume=resume,
    )
    left = run.steps - task.first_step
    if left <= 0:
        return task, recorder
    schedule = PhaseSchedule(run.phases, run.schedule, groups, lr=run.config["optimizer"]["lr"])
    trainer = run.hardware.trainer(
        steps=left,
        val_every=run.config["val_every_steps"],
        callbacks=[proof, schedule, recorder],
    )
    cuts = run.augment.needs_originals and run.images.train.originals is not None
    busy = run.dataset.streamed or run.augment.draws or cuts
    workers = run.hardware.loaders(busy=busy)
    loader = train_loader(batches, first=task.first_step, steps=run.steps, workers=workers)
    try:
        trainer.fit(
            task,
            loader,
            eval_loader(run.images.val, workers=workers if run.dataset.streamed else 0),
        )
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit with code 1, which would look like a failed run.
        raise KeyboardInterrupt from error
    return task, recorder


def _evaluate(run: Run, task: Classification, weights: str) -> dict[str, float]:
    names = ("val", "test") if run.config["test"] else ("val",)
    return evaluate(
        task,
        {name: run.images.splits[name] for name in names},
        trainer=run.hardware.trainer(steps=0, val_every=1, callbacks=[]),
        classes=run.images.classes,
        weights=weights,
        path=run.folder / "predictions.npz",
        crops=run.crops,
        workers=run.hardware.loaders(busy=run.dataset.streamed or run.crops is not None),
    )


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


def _arm(run: Run) -> str:
    choices = run.config["choices"]
    return str(run.config["arm"] or f"{choices['init']}/{choices['strategy']}")


def _place(run: Run) -> tuple[Size, int, int | None]:
    """Return training size, seed and fold."""
    data = run.config["data"]
    size = training_size(data.get("per_class"), data.get("fraction"))
    return size, run.config["seed"], data.get("fold")


def _name(run: Run) -> str:
    size, seed, fold = _place(run)
    part = "" if fold is None else f", fold {fold}"
    return f"{_arm(run)}, {size_phrase(size)}, seed {seed}{part}"


def _labels(run: Run) -> dict[str, Any]:
    """Return how a dashboard groups and finds the run."""
    arm, (images, seed, fold) = _arm(run), _place(run)
    size = size_label(images)
    folds = [] if fold is None else [f"fold:{fold}"]
    comparison = run.config["comparison"] or {}
    return {
        "group": comparison.get("name"),
        "tags": [f"arm:{arm}"[:64], f"size:{size}", f"seed:{seed}", *folds],
        "config": {**identity(run.config), "arm": arm, "size": size, "key": run.key},
    }
