"""The measurements of a check, in their order."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import torch

from warmstart.callbacks.phases import batchnorm_eval
from warmstart.check import labels, rates
from warmstart.check.measured import Measurements, Modes, Neighbours, Overfit, RangeTest
from warmstart.check.model_verdicts import beats_chance
from warmstart.check.start import start
from warmstart.check.trials import Stage, without_regularization
from warmstart.errors import ConfigError
from warmstart.models.cuts import NoCut
from warmstart.optim.schedules import Schedule
from warmstart.run.plan import Run
from warmstart.strategies.phases import Phase

BATCHES, STEPS = 2, 120
"""Batches to learn by heart, and the steps that this may take."""
_MOST_PHASES = 3  # that get a range test: a minute is not enough for each of ten
_FAR = 3.0  # a rate that many times another one is worth a try of its own

Say = Callable[[str], Callable[[int, int], None]]
"""Announces a part of the check; returns what takes its finished steps and all steps."""


def measure(run: Run, say: Say) -> Measurements:
    """Return what a check of `run` measures. Test is not opened, and nothing is kept.

    Args:
        run: As `warmstart.run.preparing.prepare` returns it.
        say: Is told how far it is.

    Raises:
        ConfigError: The run takes no steps.
        OutOfMemory: More memory is needed than there is.
        RunError: The source run, from which the model starts, failed.
    """
    _check_steps(run)
    say("the model before step 0")
    plain, whole = Stage(without_regularization(run.config), dropout=False), Stage(run)
    before = start(plain)
    tested, untested = chosen(run.phases)
    ranges = [_range(whole, phase, say) for phase in tested]
    widest = max(run.phases, key=lambda phase: phase.groups)
    rate = _rate(run, run.phases.index(widest))
    overfit = _overfit(plain, widest, rate, say)
    retry = None
    suggested = _suggested(ranges, run.phases.index(widest))
    if overfit.fitted is None and suggested is not None and _differ(suggested, rate):
        retry = _overfit(plain, widest, suggested, say)
    say("labels")
    return Measurements(
        key=run.key,
        start=before,
        overfit=overfit,
        retry=retry,
        ranges=ranges,
        untested=untested,
        neighbours=_neighbours(plain),
        modes=[_modes(whole, index) for index in range(len(run.phases))],
        batch=whole.batches.batch_size // (run.hardware.devices * run.config["accumulate"]),
        order=whole.batches.digests("")["order"],
    )


def _check_steps(run: Run) -> None:
    if run.probe is not None:
        raise ConfigError(
            f"check looks at training steps, but strategy={run.config['choices']['strategy']} "
            "takes none; check strategy=linear_probe, or look at the data with `warmstart look`"
        )
    if not run.steps:
        raise ConfigError(
            "check looks at training steps, but the run has 0 of them; give it steps or epochs"
        )


def chosen(phases: Sequence[Phase]) -> tuple[list[Phase], list[int]]:
    """Return the phases to test, and the indices of those that differ from them but are left out.

    Phases that differ in their start alone are one. Of more than three the first, the middle and
    the last one are taken.
    """
    alike: dict[Phase, int] = {}
    for index, phase in enumerate(phases):
        alike.setdefault(dataclasses.replace(phase, start=0), index)
    indices = list(alike.values())
    last = len(indices) - 1
    places = range(len(indices)) if last < _MOST_PHASES else (0, last // 2, last)
    taken = [indices[place] for place in places]
    return [phases[index] for index in taken], [index for index in indices if index not in taken]


def peak(run: Run, index: int) -> float:
    """Return the highest factor of the schedule in a phase."""
    ends = [phase.start for phase in run.phases[1:]] + [run.steps]
    return max(map(run.schedule, range(run.phases[index].start, ends[index])))


def _rate(run: Run, index: int) -> float:
    """Return the highest base rate of a phase."""
    return float(run.config["optimizer"]["lr"]) * peak(run, index)


def _range(stage: Stage, phase: Phase, say: Say) -> RangeTest:
    run = stage.run
    index = run.phases.index(phase)
    more = f" of phase {index}" if len(run.phases) > 1 else ""

    trial = stage.train(
        phase,
        rates.growing_rate,
        lr=rates.LOW,
        steps=rates.STEPS,
        stop=lambda losses, accuracies: rates.hopeless(losses),
        progress=say(f"learning rates{more}"),
    )
    names = tuple(group.name for group in stage.groups[-phase.groups :])
    return RangeTest(index, phase.start, names, trial, _rate(run, index))


def _overfit(stage: Stage, phase: Phase, rate: float, say: Say) -> Overfit:
    constant: Schedule = lambda step: 1.0  # noqa: E731 - a schedule as all others

    def learned(losses: Sequence[float], accuracies: Sequence[float]) -> bool:
        return len(losses) >= BATCHES and min(accuracies[-BATCHES:]) == 1.0

    trial = stage.train(
        phase,
        constant,
        lr=rate,
        steps=STEPS,
        only=BATCHES,
        stop=learned,
        progress=say(f"{BATCHES} batches by heart, at rate {rate:.2g}"),
    )
    kept = [stage.batches[step] for step in range(BATCHES)]
    pixels, of = torch.cat([batch[0] for batch in kept]), torch.cat([batch[1] for batch in kept])
    return Overfit(
        trial=trial,
        batches=BATCHES,
        images=len(of),
        fitted=len(trial.losses) if learned(trial.losses, trial.accuracies) else None,
        rate=rate,
        peak=peak(stage.run, stage.run.phases.index(phase)),
        trains=phase.groups,
        groups=len(stage.groups),
        contradictions=contradictions(pixels, of),
    )


def contradictions(pixels: torch.Tensor, labels: torch.Tensor) -> int:
    """Return how many images are equal to one that has another label.

    Args:
        pixels: uint8 [n, h, w, c].
        labels: int64 [n].
    """
    found: dict[bytes, set[int]] = {}
    content = [image.numpy().tobytes() for image in pixels]
    for image, label in zip(content, labels.tolist(), strict=True):
        found.setdefault(image, set()).add(label)
    return sum(len(found[image]) > 1 for image in content)


def _suggested(ranges: Sequence[RangeTest], phase: int) -> float | None:
    """Return the rate that the range test of a phase suggests, or that of the last one."""
    test = next((test for test in ranges if test.phase == phase), ranges[-1])
    return rates.reading(test).suggested


def _differ(one: float, other: float) -> bool:
    return not other / _FAR < one < other * _FAR


def _neighbours(stage: Stage) -> list[Neighbours]:
    """Return what pixels say, and what features say where that is nothing."""
    found = [labels.of_pixels(stage)]
    if not beats_chance(found[0]):
        with contextlib.suppress(NoCut):  # more than one tensor reaches the head
            found.append(labels.of_features(stage))
    return found


def _modes(stage: Stage, index: int) -> Modes:
    """Return the modes of a phase, read from the model."""
    phase = stage.run.phases[index]
    stage.set_phase(phase)
    modes = {}
    for group, expected in zip(stage.groups, batchnorm_eval(phase, len(stage.groups)), strict=True):
        found = {norm.training for norm in group.batch_norms()}
        assert found <= {not expected}
        modes[group.name] = ("train" if True in found else "eval") if found else None
    return Modes(index, phase.start, modes)
