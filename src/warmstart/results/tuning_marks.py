"""How a trial is drawn: the same in every plot of its tuning.

The colour of a trial is its value, from the lower quarter of its arm's search to the best of it: on
the scale of the worst trial, which may have diverged, all good ones would look alike. The final
round, which is longer, does not count for it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from warmstart.results.figures import safe
from warmstart.results.metric import Metric
from warmstart.results.tuning import Trial, Tuning
from warmstart.results.tuning_axis import text

# From grey to vermilion: each is visible on a light and on a dark page, and to the colour-blind.
LOW, HIGH = (139, 152, 166), (213, 94, 0)
SYMBOLS = {"coarse": "circle", "refine": "diamond", "final": "star"}


@dataclasses.dataclass(frozen=True)
class Shade:
    """From the value of a trial to its colour, within an arm.

    Attributes:
        low: The value of the dullest colour, and of all below it.
        high: The value of the brightest one, and of all above it.
    """

    low: float
    high: float

    def color(self, value: float | None) -> str:
        """Return a value's colour; the dullest for a trial that has none."""
        span = self.high - self.low
        share = 0.0 if value is None else (value - self.low) / span if span else 1.0
        share = min(max(share, 0.0), 1.0)
        parts = (round(a + share * (b - a)) for a, b in zip(LOW, HIGH, strict=True))
        return f"rgb({','.join(map(str, parts))})"


def shade(tuning: Tuning, arm: str) -> Shade | None:
    """Return the colours of an arm's trials, or None where none has a value."""
    values = [trial.value for trial in searched(tuning, arm) if trial.value is not None]
    if not values:
        return None
    quantile = 0.25 if tuning.metric.higher_is_better else 0.75
    return Shade(float(np.quantile(values, quantile)), values[0])


def identifier(tuning: Tuning, trial: Trial) -> str:
    """Return what tells a trial from all others on its page."""
    return f"{tuning.arms.index(trial.arm)}-{trial.number}"


def searched(tuning: Tuning, arm: str) -> list[Trial]:
    """Return the trials with a value of the rounds that search, the best first."""
    return [trial for trial in tuning.ranked(arm) if trial.round != "final"]


def worst_first(tuning: Tuning, arm: str) -> list[Trial]:
    """Return an arm's trials such that the better ones are drawn above the others."""
    ranked = tuning.ranked(arm)
    return [*(t for t in tuning.by_arm[arm] if t.value is None), *reversed(ranked)]


def words(tuning: Tuning, trial: Trial) -> str:
    """Return what a trial is, as the label that a pointer shows."""
    metric = tuning.metric
    value = "no value" if trial.value is None else f"{metric.value(trial.value)}{metric.unit}"
    lines = [f"<b>{value}</b>, trial {trial.number} ({trial.round}), seed {trial.seed}"]
    lines += [f"{safe(key)}={safe(text(found))}" for key, found in trial.values.items()]
    if trial.state == "pruned":
        lines.append(f"pruned at step {trial.pruned_at:,}" if trial.pruned_at else "pruned")
    elif trial.state != "finished":
        lines.append(trial.state)
    # Plotly reads %{...} in a template as a variable.
    return "<br>".join(lines).replace("%{", "%&#123;")


def scaled(metric: Metric, value: float | None) -> float | None:
    """Return a value as it is drawn, for example in percent."""
    return None if value is None else round(value * metric.factor, 4)
