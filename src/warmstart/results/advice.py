"""What to look at in the runs of each arm: what their curves and looks say, summed up."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from warmstart.results.comparison import Comparison
from warmstart.results.diagnosis import diagnose
from warmstart.results.record import Record
from warmstart.results.watching import flags

# What may differ between runs of which one thing is said: the group that shows it most, numbers.
_GROUP = re.compile(r"\bgroup \S+(?: \(and \d+ other groups?\))?")
_NUMBER = re.compile(r"(?<![\w.-])-?\d[\d.,]*(?:e[+-]?\d+)?")


def sentences(record: Record) -> tuple[str, ...]:
    """Return what to look at in one run, the most important first.

    Args:
        record: With all of its curves.
    """
    curves: Any = record.curves
    if not isinstance(curves, dict):  # a damaged file
        return ()
    classes, steps = record.data.get("classes"), record.config.get("steps")
    if record.status != "finished" or not classes or not steps:
        return tuple(flags(curves))
    diagnosed = diagnose(curves, classes=classes, steps=steps)
    return (*flags(curves), *diagnosed)


def by_arm(comparison: Comparison) -> dict[str, list[str]]:
    """Return what to look at in the runs of each arm: "3 of 5 runs: ...", the most frequent first.

    Sentences that differ in their group and numbers alone count as one, and the first of them is
    given. Arms of which nothing is said are left out.
    """
    found = {}
    for arm, cells in comparison.by_arm.items():
        runs = [cell for cell in cells if cell.record]
        first: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for cell in runs:
            for sentence in cell.sentences:
                kind = _NUMBER.sub("#", _GROUP.sub("group #", sentence))
                first.setdefault(kind, sentence)
                counts[kind] += 1
        if counts:
            found[arm] = [
                f"{_of(count, len(runs))}: {first[kind]}" for kind, count in counts.most_common()
            ]
    return {arm: found[arm] for arm in comparison.arms if arm in found}


def most_frequent(comparison: Comparison, count: int) -> list[str]:
    """Return at most `count` lines for a terminal; the last says how much more there is."""
    arms = by_arm(comparison)
    ranks = range(max(map(len, arms.values()), default=0))
    lines = [
        f"{arm}, {said[rank]}" for rank in ranks for arm, said in arms.items() if rank < len(said)
    ]
    if len(lines) <= count:
        return lines
    return [*lines[: count - 1], f"{len(lines) - count + 1} more on the page"]


def _of(count: int, runs: int) -> str:
    if count == runs:
        return "the run" if runs == 1 else f"all {runs} runs"
    return f"{count} of {runs} runs"
