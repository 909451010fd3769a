"""Verdicts about the first steps: what can be learned, at which rate; plain data in and out."""

from __future__ import annotations

from collections.abc import Iterator

from warmstart.check import rates
from warmstart.check.finding import LOOK, OK, WRONG, Finding
from warmstart.check.measured import Broken, Measurements, Overfit, RangeTest, Start
from warmstart.check.model_verdicts import bad_outputs

# The suggested rate is good to a factor of a few, and fine-tuning goes below it on purpose.
_LOW, _FAR_LOW = 10.0, 100.0
_NEARLY = 0.9  # of the images: they can be learned, if slowly
_NEAR = 2.0  # a rate so close to where training diverges: a bad batch is enough


def by_heart(
    overfit: Overfit, retry: Overfit | None, start: Start, *, scale: float = 1.0
) -> Finding:
    """Judge whether a few batches can be learned by heart; `scale` as in `learning_rate`."""
    name, at = f"{overfit.batches} batches by heart", f"at rate {overfit.rate:.3g}"
    if overfit.fitted is not None:
        return Finding(
            name,
            OK,
            f"all {overfit.images} images right after {overfit.fitted} steps {at}, without "
            "augmentation and regularization",
        )
    trial = overfit.trial
    reached = f"{max(trial.accuracies, default=0.0):.0%} of {overfit.images} images {at}"
    if trial.broken is not None:
        reached += f", then no number at step {trial.broken.step}"
    else:
        reached += f" after {len(trial.losses)} steps"
    if retry is not None and retry.fitted is not None:
        way = "too low" if overfit.rate < retry.rate else "too high"
        advice = f"; give optimizer.lr={retry.rate / scale:.2g}"
        if overfit.peak != 1:  # which other phases would get too
            advice = f" in this phase, which has {overfit.peak:.2g} x optimizer.lr"
        return Finding(
            name,
            LOOK if max(trial.accuracies, default=0.0) >= _NEARLY else WRONG,
            f"{reached}, but all of them after {retry.fitted} steps at {retry.rate:.2g}: the rate "
            f"is {way}{advice}",
        )
    causes = list(_causes(overfit, start))
    # What is frozen on purpose may be too little to tell images apart; only a person knows.
    only_frozen = overfit.trains < overfit.groups and len(causes) == 2
    verdict = LOOK if only_frozen else WRONG
    return Finding(name, verdict, f"{reached}; look at {', '.join(causes)}")


def _causes(overfit: Overfit, start: Start) -> Iterator[str]:
    """Yield what may keep a model from learning a few images, what was seen first."""
    if overfit.contradictions:
        yield (
            f"the labels ({overfit.contradictions} of these images are equal to one with another "
            "label; `warmstart look` names them)"
        )
    if bad_outputs(start):
        yield f"the initialization ({bad_outputs(start)})"
    still = [name for name, ratio in overfit.trial.moved.items() if ratio == 0]
    if still:
        yield f"the gradient, which does not reach {', '.join(still)} (dead ReLUs, or weights of 0)"
    if overfit.trains < overfit.groups:
        yield (
            f"the frozen layers (only {overfit.trains} of {overfit.groups} groups train, and their "
            "input may not tell the images apart)"
        )
    yield "the learning rate and the initialization"


def learning_rate(test: RangeTest, *, fits: bool, several: bool, scale: float = 1.0) -> Finding:
    """Judge the rate of a phase by its range test.

    Args:
        test: Of the phase.
        fits: Whether a few batches could be learned at the run's rate, which then is usable.
        several: Whether the run has other phases.
        scale: What ``lr_batch`` multiplied ``optimizer.lr`` by.
    """
    name = f"learning rate, phase {test.phase}" if several else "learning rate"
    reading, rate = rates.reading(test), test.rate
    bad = LOOK if fits else WRONG
    if reading.suggested is None:
        return Finding(
            name,
            bad,
            f"the loss falls at no rate from {rates.LOW:g} to {test.trial.rates[-1]:.2g}; look at "
            "labels, normalization and initialization first",
        )
    end = reading.diverges
    seen = f"the loss falls fastest at {reading.steepest:.2g}" + (
        f" and diverges at {end:.2g}" if end else f" and does not diverge up to {rates.HIGH:g}"
    )
    advice = f"try about {reading.suggested:.2g}"
    told = f"optimizer.lr is {rate:.3g}" if not several else f"the highest rate here is {rate:.3g}"
    if scale != 1:
        told = f"with lr_batch {told.replace('optimizer.lr is', 'the rate is')}"
        advice += f", that is {scale:g} x optimizer.lr={reading.suggested / scale:.2g}"
    if end is not None and rate >= end / _NEAR:
        verdict = bad if rate >= end else LOOK
        return Finding(name, verdict, f"{seen}; {told}, too high: {advice}")
    if rate < reading.suggested / _LOW:
        verdict = bad if rate < reading.suggested / _FAR_LOW else LOOK
        return Finding(name, verdict, f"{seen}; {told}, too low: {advice}")
    return Finding(name, OK, f"{seen}; {told}, fine (suggested: {reading.suggested:.2g})")


def numbers(found: Measurements) -> Finding:
    """Judge whether all numbers were numbers at the rates of the run."""
    name, trials = "NaN and Inf", [found.overfit.trial]
    if found.overfit.trial.broken is not None:
        return Finding(
            name, WRONG, f"at the run's own rate, {_breaking(found.overfit.trial.broken)}"
        )
    steps = sum(len(trial.losses) for trial in (*trials, *(t.trial for t in found.ranges)))
    ends = [(test, test.trial.broken) for test in found.ranges if test.trial.broken is not None]
    for test, broken in ends:
        if broken.rate <= test.rate:
            said = f"below the run's own rate of {test.rate:.3g}, {_breaking(broken)}"
            return Finding(name, WRONG, said)
    if ends:
        said = f"none at the run's rate; in the range test, {_breaking(ends[0][1])}"
        return Finding(name, OK, said)
    return Finding(name, OK, f"none in {steps} steps")


def _breaking(broken: Broken) -> str:
    size = (
        "" if broken.ratio is None else f" (its last update was {broken.ratio:.2g} of its weights)"
    )
    return (
        f"the loss or an update is no number at step {broken.step}, rate {broken.rate:.2g}; the "
        f"largest update was that of group {broken.group}{size}"
    )
