"""The training of one run, from its newest checkpoint to its last step."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch

from warmstart import configs
from warmstart.callbacks import checkpoint
from warmstart.callbacks.proof import FreezeProof
from warmstart.callbacks.ranks import RankSync
from warmstart.callbacks.recorder import Logger, Recorder
from warmstart.data.batches import EvalBatches
from warmstart.models import layers
from warmstart.ranks import ALONE, Ranks
from warmstart.run.beat import Report
from warmstart.run.out_of_memory import OutOfMemory, is_out_of_memory
from warmstart.run.plan import Run
from warmstart.run.shortcuts import Shortcuts
from warmstart.task import Classification, class_weights
from warmstart.trainer import ddp

_log = logging.getLogger(__name__)


def fit(
    run: Run,
    model: torch.nn.Module,
    groups: list[layers.LayerGroup],
    shortcuts: Shortcuts,
    loggers: Sequence[Logger],
    report: Report,
    *,
    accumulated: int = 0,
    ranks: Ranks = ALONE,
    trained: dict[str, Any] | None = None,
) -> tuple[Classification, Recorder, list[float]]:
    """Train from the newest checkpoint, or from the start, to the last step.

    Args:
        run: Which.
        model: As it is before step 0.
        groups: Its layer groups.
        shortcuts: Know what the batches hold, and what takes them.
        loggers: Mirrors of the curves.
        report: Is told the stage and the steps.
        accumulated: Micro-batches of a step that a lack of memory forces; 0 takes the config's. A
            checkpoint knows those of its run.
        ranks: This process among those of the run.
        trained: The state after the last step, as a checkpoint holds it, where something else has
            trained.

    Returns:
        The task, with the weights after the last step; what was recorded; and the divergence of
        the ranks, see `RankSync`.

    Raises:
        OutOfMemory: More memory is needed than there is.
        RunError: The loss is no number any more.
        Stopped: On request; a checkpoint is written.
    """
    resume = trained or checkpoint.load_newest(run.folder)
    if resume is not None and trained is None:
        _log.info("going on after step %d of %d", resume["step"], run.steps)
        accumulated = resume.get("accumulated", 0)  # a checkpoint of an older version has none
    micro = accumulated or run.config["accumulate"]
    task = _task(run, model, groups, shortcuts, resume, micro, ranks)
    recorder = Recorder(
        run.folder,
        steps=run.steps,
        proof=FreezeProof(
            run.phases, groups, steps=run.steps, resume=resume["proof"] if resume else None
        ),
        log_every=run.config["log_every_steps"],
        checkpoint_seconds=run.config["checkpoint_seconds"],
        loggers=loggers,
        progress=lambda step: report.step(step, run.steps),
        accumulated=accumulated,
        writes=ranks.leads,
        limits=run.config.get("prune") or (),
        resume=resume,
    )
    if task.first_step >= run.steps:
        # What was checked before the checkpoint was written.
        checked = [0.0] * len(run.phases) if ranks.world > 1 and run.steps else []
        return task, recorder, checked
    report.stage("training", step=task.first_step)
    try:
        divergence = _train(run, groups, shortcuts, task, recorder, ranks)
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit with code 1, which would look like a failed run.
        raise KeyboardInterrupt from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(error, run.config, accumulated=accumulated, step=recorder.done) from error
    return task, recorder, divergence


def _train(
    run: Run,
    groups: list[layers.LayerGroup],
    shortcuts: Shortcuts,
    task: Classification,
    recorder: Recorder,
    ranks: Ranks,
) -> list[float]:
    """Let Lightning do the steps that are left; return the divergence of the ranks."""
    first = task.first_step
    callbacks = [recorder.proof, run.phase_schedule(groups), recorder]
    together, divergence = None, list[float]()
    if ranks.world > 1:
        count = len(EvalBatches(run.images.val))
        sync = RankSync(ranks, run.phases, steps=run.steps, val_batches=count, first_step=first)
        callbacks, divergence = [sync, *callbacks], sync.divergence
        freezes = any(phase.groups < len(groups) for phase in run.phases)
        together = ddp(unused=freezes or bool(run.architecture.auxiliary))
    trainer = run.hardware.trainer(
        steps=run.steps - first,
        val_every=run.config["val_every_steps"],
        callbacks=callbacks,
        ranks=ranks,
        ddp=together,
    )
    val = shortcuts.validation(lambda: task.last_step)
    trainer.fit(task, shortcuts.training(first), val)
    return divergence


def _task(
    run: Run,
    model: torch.nn.Module,
    groups: list[layers.LayerGroup],
    shortcuts: Shortcuts,
    resume: dict[str, Any] | None,
    accumulate: int,
    ranks: Ranks,
) -> Classification:
    if resume is not None:
        model.load_state_dict(resume["model"])
    classes, weighted = len(run.images.classes), run.config["balance"] == "loss"
    return Classification(
        model,
        run.preprocess(run.augment),
        optimizer=functools.partial(configs.build, "optimizer", run.config["optimizer"], groups),
        seed=run.config["seed"],
        classes=classes,
        mix=run.augment.mix,
        class_weights=class_weights(run.images.train.labels, classes) if weighted else None,
        auxiliary_weight=run.architecture.auxiliary_weight,
        tail_at=shortcuts.tail_at,
        accumulate=accumulate,
        ranks=ranks,
        first_step=resume["step"] if resume else 0,
        optimizer_state=resume["optimizer"] if resume else None,
    )
