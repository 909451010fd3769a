"""What the runs of an arm computed once and kept, phase by phase, and why not more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.results.comparison import Comparison
from warmstart.results.metric import joined

_NAMED = 3  # arms that a sentence names


def phase_text(phase: Mapping[str, Any]) -> str:
    """Return ``cached before fc, [64] per image``, or ``not cached, because ...``.

    Args:
        phase: An entry of `Record.features`.
    """
    if not phase["cached"]:
        return f"not cached, because {phase['reason']}"
    views = f", {phase['views']} views of each training image" if phase["views"] else ""
    return f"cached before {phase['at']}, {phase['shape']} per image{views}"


def run_text(phases: Sequence[Mapping[str, Any]]) -> str:
    """Return the texts of all phases of a run, equal ones of neighbours once.

    Args:
        phases: `Record.features`.
    """
    runs: list[tuple[int, int, str]] = []  # first and last phase, from 1, of those with this text
    for number, phase in enumerate(phases, start=1):
        text = phase_text(phase)
        if runs and runs[-1][2] == text:
            runs[-1] = (runs[-1][0], number, text)
        else:
            runs.append((number, number, text))
    if len(runs) == 1:
        return runs[0][2]
    return "; ".join(
        f"phase {first}: {text}" if first == last else f"phases {first} to {last}: {text}"
        for first, last, text in runs
    )


def by_arm(comparison: Comparison) -> dict[str, str]:
    """Return what the finished runs of each arm say; arms whose records say nothing are left out.

    Where the runs of an arm differ, as they may over sizes, it is said in how many. An arm with
    swept values stands once where all of them say the same.
    """
    found = {}
    for arm in comparison.arms:
        cells = comparison.by_arm[arm]
        known = [cell.record.features for cell in cells if cell.record and cell.record.features]
        counts = Counter(map(run_text, known))
        if len(counts) == 1:
            found[arm] = next(iter(counts))
        elif counts:
            parts = [f"in {n} of {len(known)} runs {text}" for text, n in counts.most_common()]
            found[arm] = "; ".join(parts)
    texts: dict[str, set[str]] = {}
    for arm, text in found.items():
        texts.setdefault(_name(arm), set()).add(text)
    return {_name(arm) if len(texts[_name(arm)]) == 1 else arm: found[arm] for arm in found}


def _name(arm: str) -> str:
    """Return an arm's label without swept values: ``scratch`` for ``scratch optimizer.lr=0.1``."""
    return re.split(r" (?=[^ =]+=)", arm)[0]


def sentences(comparison: Comparison) -> list[str]:
    """Return a line for each text of `by_arm`, with the arms that have it."""
    arms: dict[str, list[str]] = {}
    for arm, text in by_arm(comparison).items():
        arms.setdefault(text, []).append(arm)
    return [f"features of {_named(names)}: {text}" for text, names in arms.items()]


def _named(arms: Sequence[str]) -> str:
    more = [f"{len(arms) - _NAMED} more"] if len(arms) > _NAMED else []
    return joined([*arms[:_NAMED], *more])
