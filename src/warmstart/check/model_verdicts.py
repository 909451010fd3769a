"""Verdicts about what a run starts with: images, labels, weights, modes; plain data in and out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from warmstart.check.finding import LOOK, OK, WRONG, Finding
from warmstart.check.measured import Modes, Neighbours, Start

# A head of gain 1 on features of mean square 1 puts out logits of variance 1, and normal logits of
# variance s cost s / 2 more than log(C): so much is no sign of anything.
_FREE = 0.5
_ERRORS = 3.0  # standard errors within which a loss is what was expected
_TINY = 0.01  # nats: a head of zeros has a standard error of none
# Pixels in [0, 1] by the mean and deviation of ImageNet lie in [-2.2, 2.7], and those of a data
# set by its own have 0 and 1: so this is unusual, and that is another scale of pixels.
_ODD_MEAN, _ODD_STD = 2.0, (0.3, 2.5)
_WRONG_MEAN, _WRONG_STD = 5.0, (0.02, 6.0)
# Layers that keep their signal have a deviation about 1; in float32 the gradient through several
# of these is nothing.
_FADED, _BLOWN = 1e-4, 1e4
_SMALL_BATCH = 8  # images whose mean and variance BatchNorm takes: fewer are noise
_SURE = 0.001  # chance of as many right guesses; the labels of a hundred sets are sane
_FEW = 100  # images of validation with which a set that can be learned is told from chance


def input_scale(start: Start) -> Finding:
    """Judge the normalization of the model's input."""
    means, stds = zip(*start.input, strict=True)
    off = max(means, key=abs)
    low, high = min(stds), max(stds)
    numbers = f"mean {_list(means)}, deviation {_list(stds)}"
    if abs(off) > _WRONG_MEAN or low < _WRONG_STD[0] or high > _WRONG_STD[1]:
        return Finding(
            "input",
            WRONG,
            f"the channels have {numbers}, but should have about 0 and 1: normalization is "
            "missing or of another scale of pixels; look at the mean and std that the weights, or "
            "the model, carry",
        )
    if abs(off) > _ODD_MEAN or low < _ODD_STD[0] or high > _ODD_STD[1]:
        return Finding(
            "input",
            LOOK,
            f"the channels have {numbers}, about 0 and 1 is usual: the images are unlike those of "
            "the weights, or very even; `warmstart look` shows them",
        )
    return Finding("input", OK, f"the channels have {numbers}")


def first_loss(start: Start) -> Finding:
    """Judge the loss before step 0, which is log(C) for a model that knows nothing."""
    name, expected = "loss at step 0", math.log(start.classes)
    faded = bad_outputs(start)
    if faded:
        return Finding(name, WRONG, f"bad initialization: {faded}")
    error = max(_ERRORS * start.error, _TINY)
    said = (
        f"{start.loss:.3f}, where log({start.classes}) = {expected:.3f} is chance (sampling error "
        f"{start.error:.3f} over {start.images} images)"
    )
    if not math.isfinite(start.loss) or start.loss > 2 * expected + error:
        return Finding(
            name,
            WRONG,
            f"{said}: the model is sure of wrong answers before it has learned any; bad "
            "initialization of the head (init.head=zero starts at chance), or an input without "
            "normalization",
        )
    if start.informed:
        return Finding(name, OK, f"{said}; the head is made from labels, and may know them")
    if start.loss > expected + error + _FREE:
        return Finding(
            name,
            LOOK,
            f"{said}: the outputs of the head vary too much, and the first steps go into making "
            "them small; init.head=zero starts at chance",
        )
    if start.loss < expected - error - _FREE / 2:
        return Finding(name, LOOK, f"{said}: do the weights know these labels already?")
    return Finding(name, OK, said)


def label_sanity(found: Sequence[Neighbours]) -> Finding:
    """Judge whether labels go with images."""
    best = max(found, key=lambda one: one.right / one.val - one.chance)
    said = (
        f"the nearest training images in {best.what} are right for {best.right / best.val:.1%} of "
        f"validation, where chance is {best.chance:.1%}, and for "
        f"{best.train_right / best.train:.1%} of each other, where it is {best.train_chance:.1%}"
    )
    if any(map(beats_chance, found)):
        return Finding("labels", OK, said)
    if min(best.val, best.train) < _FEW:
        few = min(best.val, best.train)
        return Finding("labels", LOOK, f"{said}; {few} images are too few to tell more")
    return Finding(
        "labels",
        WRONG,
        f"{said}: labels look shuffled, as they say nothing about images (or the classes differ in "
        "details alone); look at them with `warmstart look`",
    )


def beats_chance(found: Neighbours) -> bool:
    """Return whether images that are alike have the same label more often than by chance.

    Of validation by training images, and of these by one another, where there are enough.
    """
    others = _clear(found.right, found.val, found.chance)
    own = _clear(found.train_right, found.train, found.train_chance)
    return others and (own or found.train < _FEW)


def _clear(right: int, count: int, chance: float) -> bool:
    test = stats.binomtest(right, count, min(1.0, chance), alternative="greater")
    return bool(test.pvalue < _SURE)


def batchnorm(modes: Sequence[Modes], batch: int) -> Finding:
    """Describe how BatchNorm normalizes in each phase."""
    name = "BatchNorm"
    if all(mode is None for phase in modes for mode in phase.groups.values()):
        return Finding(name, OK, "the model has none")
    said = "; ".join(
        (f"from step {phase.first_step} on " if len(modes) > 1 else "") + _modes(phase)
        for phase in modes
    )
    trains = any(mode == "train" for phase in modes for mode in phase.groups.values())
    if trains and batch < _SMALL_BATCH:
        return Finding(
            name,
            LOOK,
            f"{said}; {batch} images at once are too few for mean and variance: give a larger "
            "batch_size or a smaller accumulate, or strategy.batchnorm=eval",
        )
    return Finding(name, OK, said)


def _modes(phase: Modes) -> str:
    by: dict[str, list[str]] = {}
    for group, mode in phase.groups.items():
        if mode is not None:
            by.setdefault(mode, []).append(group)
    return ", ".join(f"{mode} in {' '.join(names)}" for mode, names in by.items())


def bad_outputs(start: Start) -> str:
    """Return which group puts out nothing, or far too much; empty where all is well."""
    head = start.outputs[-1][0]
    for group, _, std in start.outputs:
        # A head of zeros puts out zeros, on purpose.
        if (std < _FADED and group != head) or std > _BLOWN:
            return f"the outputs of group {group} have a deviation of {std:.2g}, about 1 is usual"
    return ""


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
