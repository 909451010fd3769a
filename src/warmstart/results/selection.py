"""Which candidate of each arm is best, where a comparison has no reference but candidates.

An arm's candidates are its name followed by the settings that were swept: ``digits/scratch
optimizer.lr=0.1 steps=150``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from warmstart.results.comparison import Comparison


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One setting of an arm.

    Attributes:
        arm: Its name without the swept settings.
        settings: Key to value, as they were given.
        mean: The metric, averaged over seeds, then over sizes.
    """

    arm: str
    settings: dict[str, str]
    mean: float

    @property
    def label(self) -> str:
        """The settings as one text."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items())


def ranked(comparison: Comparison) -> dict[str, list[Candidate]]:
    """Return the candidates of each arm, the best first.

    Only those count whose runs are all finished: an average over other sizes or seeds would not
    be comparable.
    """
    result: dict[str, list[Candidate]] = {}
    for label in comparison.arms:
        cells = [cell for cell in comparison.cells if cell.arm == label]
        values = [cell.value(comparison.metric.name) for cell in cells]
        known = [value for value in values if value is not None]
        if len(known) < len(cells):
            continue
        # Every size has the same seeds in a grid, so the plain mean is the mean of means.
        arm, *settings = re.split(r" (?=[^ =]+=)", label)
        pairs = dict(setting.split("=", 1) for setting in settings)
        result.setdefault(arm, []).append(Candidate(arm, pairs, sum(known) / len(known)))
    sign = -1 if comparison.metric.higher_is_better else 1
    return {arm: sorted(found, key=lambda c: sign * c.mean) for arm, found in result.items()}


def sentences(comparison: Comparison) -> list[str]:
    """Return one sentence per arm: its best candidate, the next one, and edges of the range."""
    metric = comparison.metric
    result = []
    for arm, candidates in ranked(comparison).items():
        best = candidates[0]
        unit = f" {metric.unit}" if metric.unit else ""
        text = (
            f"{arm}: the best of {len(candidates)} is {best.label or 'its own recipe'}, "
            f"with a mean {metric.label} of {metric.value(best.mean)}{unit}"
        )
        if len(candidates) > 1:
            text += f"; next is {candidates[1].label} with {metric.value(candidates[1].mean)}"
        edges = [f"{key}={best.settings[key]}" for key in _at_edge(candidates)]
        text += f". {' and '.join(edges)} lies at the edge of its range" if edges else ""
        result.append(text + ".")
    return result


def _at_edge(candidates: Sequence[Candidate]) -> list[str]:
    """Return the keys whose best value is the least or the largest of three or more numbers."""
    best = candidates[0].settings
    found = []
    for key in best:
        try:
            values = {float(c.settings[key]) for c in candidates}
        except ValueError:
            continue
        if len(values) > 2 and float(best[key]) in (min(values), max(values)):
            found.append(key)
    return found
