"""What keeps a phase of a run from training on stored features, as far as its config tells."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from warmstart.callbacks.phases import batchnorm_eval
from warmstart.models.layers import LayerGroup
from warmstart.run.plan import Run


def standing_reason(run: Run, groups: Sequence[LayerGroup], number: int) -> str | None:
    """Return why a phase cannot train on stored features, whatever its model is like inside.

    Args:
        run: Which.
        groups: Of its model, which need no numbers.
        number: Of the phase.

    Returns:
        A clause; None where nothing is in the way.
    """
    return None if run.probe is not None else _in_the_way(run, groups, number)


def _in_the_way(run: Run, groups: Sequence[LayerGroup], number: int) -> str | None:
    phase, trained = run.phases[number], len(run.images.train)
    ends = [later.start for later in run.phases[number + 1 :]] + [run.steps]
    views = run.config["features"]["views"]
    shown = (ends[0] - phase.start) * run.config["batch_size"]
    if run.config["features"]["cache"] == "off":
        return "features.cache=off"
    if phase.groups == len(groups):
        return "every layer trains"
    if _by_batch(groups, batchnorm_eval(phase, len(groups)), phase.groups):
        return "frozen BatchNorm normalizes by the batch"
    if run.augment.mix is not None:
        return "mixup or CutMix blends each batch anew"
    if run.augment.columns and views is None:
        return "the augmentation draws anew in every pass"
    if _changed_before(run, groups, number):
        return "its frozen layers were trained in an earlier phase"
    if shown < trained * (views or 1):
        return f"it sees fewer images than {'one pass over them' if views is None else 'views'}"
    if run.hardware.devices > 1:
        return "several processes share the run"
    if run.architecture.auxiliary:
        return "the model has auxiliary classifiers"
    return None


def _by_batch(groups: Sequence[LayerGroup], evaluates: Sequence[bool], trains: int) -> bool:
    """Return whether BatchNorm in a frozen group depends on which images a batch holds."""
    return any(
        not (evaluates[group.index] and part.track_running_stats)
        for group in groups[: len(groups) - trains]
        for module in group.modules
        for part in module.modules()
        if isinstance(part, BatchNorm)
    )


def _changed_before(run: Run, groups: Sequence[LayerGroup], number: int) -> bool:
    """Return whether groups that are frozen in a phase are not what they were at step 0."""
    frozen = len(groups) - run.phases[number].groups
    return any(
        len(groups) - phase.groups < frozen
        # Statistics move in frozen groups too.
        or _by_batch(groups[:frozen], batchnorm_eval(phase, len(groups)), trains=0)
        for phase in run.phases[:number]
    )
