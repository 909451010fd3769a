"""From what was measured to findings, in the order of the procedure."""

from __future__ import annotations

from warmstart.check.finding import OK, Finding
from warmstart.check.measured import Measurements
from warmstart.check.model_verdicts import batchnorm, first_loss, input_scale, label_sanity
from warmstart.check.training_verdicts import by_heart, learning_rate, numbers


def judge(found: Measurements, *, scale: float = 1.0) -> list[Finding]:
    """Return the findings, in the order of the procedure.

    Args:
        found: What was measured.
        scale: What ``lr_batch`` multiplied ``optimizer.lr`` by.
    """
    fits = found.overfit.fitted is not None
    several = len(found.modes) > 1
    return [
        input_scale(found.start),
        first_loss(found.start),
        by_heart(found.overfit, found.retry, found.start, scale=scale),
        *(learning_rate(test, fits=fits, several=several, scale=scale) for test in found.ranges),
        label_sanity(found.neighbours),
        numbers(found),
        batchnorm(found.modes, found.batch),
        Finding("data order", OK, f"digest {found.order[:16]}; equal for an equal seed"),
    ]
