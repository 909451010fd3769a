"""The training of one run, from its newest checkpoint to its last step."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback

from warmstart import configs
from warmstart.callbacks import checkpoint
from warmstart.callbacks.averaging import Averaging
from warmstart.callbacks.proof import FreezeProof
from warmstart.callbacks.ranks import RankSync
from warmstart.callbacks.recorder import Logger, Recorder
from warmstart.callbacks.watch import Watch, copies, look_interval
from warmstart.data.batches import EvalBatches
from warmstart.models import layers
from warmstart.optim.penalties import GradientRegularizer
from warmstart.ranks import ALONE, Ranks
from warmstart.run.beat import Report
from warmstart.run.out_of_memory import OutOfMemory, is_out_of_memory
from warmstart.run.plan import Run
from warmstart.run.regularizing import gradients_of
from warmstart.run.shortcuts import Shortcuts
from warmstart.task import Classification, TailAt, class_weights
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
    fresh: Collection[str] = (),
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
        fresh: Names of the tensors that did not come from pretrained weights.

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
    # Before the weights of a checkpoint stand in the place of those before step 0.
    gradients = gradients_of(run.config, groups, fresh=fresh)
    watched = _watched(run, groups) if ranks.leads else []
    initial = copies(watched)
    task = task_of(run, model, gradients, groups, shortcuts.tail_at, resume, micro, ranks)
    recorder = Recorder(
        run.folder,
        steps=run.steps,
        proof=FreezeProof(
            run.phases, groups, steps=run.steps, resume=resume["proof"] if resume else None
        ),
        log_every=run.config["log_every_steps"],
        checkpoint_seconds=run.config["checkpoint_seconds"],
        loggers=loggers,
        averaging=_averaging(run, resume),
        early=run.keeping.early,
        snapshots_at=run.keeping.snapshots,
        progress=lambda step: report.step(step, run.steps),
        accumulated=accumulated,
        writes=ranks.leads,
        limits=run.config.get("prune") or (),
        resume=resume,
    )
    if task.first_step >= run.steps or recorder.stopped_at is not None:
        # What was checked before the checkpoint was written.
        checked = [0.0] * len(run.phases) if ranks.world > 1 and run.steps else []
        return task, recorder, checked
    report.stage("training", step=task.first_step)
    callbacks: list[Callback] = [recorder.proof, run.phase_schedule(groups)]
    if watched:
        interval = look_interval(run.steps, run.config["watch_every_steps"])
        callbacks.append(Watch(watched, initial, recorder, interval=interval))
    if recorder.averaging is not None:
        callbacks.append(recorder.averaging)
    try:
        divergence = _train(run, groups, shortcuts, task, [*callbacks, recorder], ranks)
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
    callbacks: list[Callback],
    ranks: Ranks,
) -> list[float]:
    """Let Lightning do the steps that are left; return the divergence of the ranks."""
    first = task.first_step
    together, divergence = None, list[float]()
    if ranks.world > 1:
        count = len(EvalBatches(run.images.val))
        sync = RankSync(ranks, run.phases, val_batches=count, first_step=first)
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


def _averaging(run: Run, resume: dict[str, Any] | None) -> Averaging | None:
    average = run.keeping.average
    if average is None:
        return None
    return Averaging(average, resume=resume["average"] if resume else None)


def _watched(run: Run, groups: Sequence[layers.LayerGroup]) -> list[layers.LayerGroup]:
    """Return the groups that train at any step, where the run looks at them."""
    if not look_interval(run.steps, run.config["watch_every_steps"]):
        return []
    frozen = len(groups) - max(phase.groups for phase in run.phases)
    return list(groups[frozen:])


def task_of(
    run: Run,
    model: torch.nn.Module,
    gradients: GradientRegularizer | None,
    groups: list[layers.LayerGroup],
    tail_at: TailAt,
    resume: dict[str, Any] | None,
    accumulate: int,
    ranks: Ranks = ALONE,
) -> Classification:
    """Return what trains the model of a run; see `fit` and `Classification`."""
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
        label_smoothing=run.regularization.label_smoothing,
        gradients=gradients,
        tail_at=tail_at,
        accumulate=accumulate,
        ranks=ranks,
        first_step=resume["step"] if resume else 0,
        optimizer_state=resume["optimizer"] if resume else None,
    )
