"""The two stages of a run besides its training: up to step 0, and from the trained model on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from warmstart import configs, environment
from warmstart.callbacks import checkpoint
from warmstart.callbacks.phases import check_statistics
from warmstart.callbacks.recorder import Logger
from warmstart.data.batches import TrainBatches
from warmstart.data.images import openings
from warmstart.digests import tensors_digest
from warmstart.errors import RunError
from warmstart.models import layers
from warmstart.models.weights import save
from warmstart.predict import OPENINGS
from warmstart.ranks import ALONE, Ranks
from warmstart.results.record import Record
from warmstart.run.beat import Progress, Report
from warmstart.run.caching import decide, decide_like
from warmstart.run.evaluation import evaluation
from warmstart.run.feed import train_batches
from warmstart.run.fit import fit
from warmstart.run.identity import identity
from warmstart.run.initial import Initial, initial_model
from warmstart.run.labels import labels, title
from warmstart.run.plan import Run
from warmstart.run.probing import FittedModel, fit_head
from warmstart.run.shortcuts import Shortcuts

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Ready:
    """A run whose model stands before step 0.

    Attributes:
        run: Which.
        model: Its model; runs that differ in the head alone may share it, see `ready`.
        head: The tensors of the last layer group before step 0, by name.
        initial: What the record says of the model, with the digest of all its tensors.
        fitted: The layer groups and where features are.
        batches: Of the training images.
        shortcuts: Know what the batches hold.
        loggers: Mirrors of the curves.
        started: When the run began, by the monotonic clock.
    """

    run: Run
    model: nn.Module
    head: Mapping[str, Tensor]
    initial: tuple[dict[str, Any], str]
    fitted: FittedModel
    batches: TrainBatches
    shortcuts: Shortcuts
    loggers: Sequence[Logger]
    started: float


def ready(run: Run, report: Report, *, ranks: Ranks = ALONE, like: Ready | None = None) -> Ready:
    """Make the model of a run, and what its batches hold.

    Args:
        run: Which.
        report: Is told how far it is.
        ranks: This process among those of the run.
        like: A run of the same config but for what concerns the head and the training images. If
            its model is the same but for the head, both share it: it is in memory once.
    """
    started = time.monotonic()
    run.hardware.apply()
    initial = _initial(run, report.step)
    model, digest = initial.model, tensors_digest(initial.model.state_dict())
    _check_equal(digest, ranks)
    batches = train_batches(run.config, run.images, run.augment, part=ranks.part)
    head = {name: tensor.detach() for name, tensor in initial.groups[-1].parameters.items()}
    fitted = None if like is None else _shared(run, like, model, head)
    if fitted is not None and like is not None:
        model = like.model
    else:
        like, fitted = None, fit_head(run, initial, decide(run, model, initial.groups), report)
    return Ready(
        run,
        model,
        head,
        (initial.as_dict(), digest),
        fitted,
        batches,
        Shortcuts(
            *(run, model, batches, fitted.decisions, report, ranks),
            known=None if like is None else like.shortcuts.known,
        ),
        [_logger(run)] if ranks.leads else [],
        started,
    )


def conclude(
    ready: Ready,
    report: Report,
    *,
    accumulated: int = 0,
    ranks: Ranks = ALONE,
    trained: dict[str, Any] | None = None,
    waited: float = 0.0,
) -> Record | None:
    """Train unless that is done, and evaluate; write and return the record of a run.

    Args:
        ready: The run before step 0.
        report: Is told how far it is.
        accumulated: See `fit`.
        ranks: This process among those of the run; only the first one returns a record.
        trained: The state after the last step, where something else has trained.
        waited: Seconds since the start that went to other runs.
    """
    run, model, fitted, shortcuts = ready.run, ready.model, ready.fitted, ready.shortcuts
    task, recorder, divergence = fit(
        *(run, model, fitted.groups, shortcuts, ready.loggers, report),
        accumulated=accumulated,
        ranks=ranks,
        trained=trained,
        fresh=ready.initial[0].get("fresh", ()),
    )
    timing = {"train_seconds": recorder.seconds + fitted.seconds, "curves": _seconds(recorder.rows)}
    if recorder.best is not None:
        model.load_state_dict(recorder.best["model"])
    weights = tensors_digest(model.state_dict())
    report.stage("evaluating")
    metrics = evaluation(run, task, recorder, shortcuts, weights, ranks)
    if not ranks.leads:
        return None
    if run.config["keep"] == "best":
        save(run.weights_file, model.state_dict(), run.input, run.images.classes)
    views = run.config["features"]["views"]
    options = json.dumps({**run.config["augment"], "views": views}, sort_keys=True)
    order = ready.batches.digests(options)
    counts = {name: len(split) for name, split in run.images.splits.items()}
    timing["total_seconds"] = time.monotonic() - ready.started - waited
    record = dataclasses.replace(
        description(run, "finished", timing),
        digests={"data": run.dataset.digest, "split": run.images.digest, **order}
        | {"init": ready.initial[1], "weights": weights},
        test_opened=openings(run.folder / OPENINGS),
        data={**run.dataset.notes(), "counts": counts, "classes": len(run.images.classes)},
        metrics=metrics,
        curves=columns(recorder.rows),
        groups=layers.table(fitted.groups),
        input=json.loads(json.dumps(dataclasses.asdict(run.input))),
        init={"weights": run.origins, **ready.initial[0]},
        freeze_proof=recorder.proof.entries,
        accumulated=recorder.accumulated,
        stopped_at=recorder.stopped_at,
        rank_divergence=divergence,
        features=[decision.as_dict() for decision in shortcuts.decisions],
        probe=fitted.notes,
    )
    # After all other files: where it stands, the run is finished and nothing is done again.
    record.write(run.folder)
    checkpoint.remove(run.folder)
    # Mirrors come after the record, and a disk that is full by now cannot undo it.
    with contextlib.suppress(OSError):
        ready.loggers[0].finish(recorder.rows, metrics)
    return record


def description(run: Run, status: str, timing: dict[str, Any]) -> Record:
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


def _shared(
    run: Run, like: Ready, model: nn.Module, head: Mapping[str, Tensor]
) -> FittedModel | None:
    """Return how a run stands on the model of another one; None where it needs its own."""
    known, groups = like.fitted.decisions, like.fitted.groups
    if any(decision.cut is None for decision in known) or not _same_body(like.model, model, head):
        return None
    decisions = decide_like(run, groups, known)
    if any(decision.cut is None for decision in decisions):
        return None
    return FittedModel(groups, decisions, {}, 0.0)


def _same_body(one: nn.Module, two: nn.Module, head: Mapping[str, Tensor]) -> bool:
    """Return whether two models are equal, bit for bit, but for the tensors of the head."""
    tensors, others = one.state_dict(), two.state_dict()
    return tensors.keys() == others.keys() and all(
        name in head or torch.equal(tensor.cpu(), others[name]) for name, tensor in tensors.items()
    )


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


def _seconds(rows: Mapping[str, list[dict[str, float]]]) -> dict[str, list[float]]:
    return {split: [row["seconds"] for row in part] for split, part in rows.items()}


def columns(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, list[Any]]]:
    """Return rows as columns, without the seconds, which are no part of the result.

    A row that lacks a column, as that of a group that was frozen, has None there.
    """
    names = {
        split: dict.fromkeys(name for row in part for name in row if name != "seconds")
        for split, part in rows.items()
    }
    return {
        split: {name: [row.get(name) for row in part] for name in names[split]}
        for split, part in rows.items()
    }
