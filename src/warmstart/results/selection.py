"""Settings that tell arms and runs apart: their labels, their table, and which of them is best.

Where a comparison has no reference, each arm has candidates: its name followed by the settings that
were swept, as in ``digits/scratch optimizer.lr=0.1 steps=150``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from warmstart.results.comparison import Cell, Comparison
from warmstart.results.record import Record

# What tells the cells of a comparison apart anyway; no difference between arms.
CELL_KEYS = ("seed", "data.per_class", "data.fraction", "data.fold")
_PLACES = {key.removeprefix("data.") for key in CELL_KEYS[1:]}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One setting of an arm.

    Attributes:
        arm: Its name without the swept settings.
        settings: Key to value, as they were given.
        mean: The metric, averaged over seeds (and folds), then over sizes.
    """

    arm: str
    settings: dict[str, str]
    mean: float

    @property
    def label(self) -> str:
        """The settings as one text."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items())


def settings(run: Record | None) -> dict[str, str]:
    """Return a run's flattened config without seed, size and fold; empty without a run.

    The weights' name is no part of the config (a path must not change a key), but it is what a
    reader asks for first.
    """
    if run is None:
        return {}
    flat = _flatten("", run.config) | _flatten("input", run.input)
    if run.init.get("weights"):
        flat["init.weights"] = str(run.init["weights"])
    return {key: text for key, text in flat.items() if key not in CELL_KEYS}


def labels(runs: Sequence[Record], places: Sequence[Hashable]) -> list[str]:
    """Return init/strategy per run, with more words where that leaves two runs in one place.

    Args:
        runs: To be labelled.
        places: Of each run, what tells it from others of its label: size, seed and fold.
    """
    plain = [f"{run.choices.get('init', '?')}/{run.choices.get('strategy', '?')}" for run in runs]
    found = list(plain)
    known = [settings(run) for run in runs]
    for name in sorted(set(plain)):
        members = [i for i, label in enumerate(plain) if label == name]
        # What the models see follows from the seed, too, so that it is no part of the first try.
        for seen in (False, True):
            if len({(found[i], places[i]) for i in members}) == len(members):
                break
            parts = _words([runs[i] for i in members], [known[i] for i in members], seen=seen)
            for i, words in zip(members, parts, strict=True):
                found[i] = f"{name} {words}"
    counts = Counter(zip(found, places, strict=True))
    return [
        f"{label} {run.key[:8]}" if counts[label, place] > 1 else label
        for label, run, place in zip(found, runs, places, strict=True)
    ]


def _words(runs: Sequence[Record], known: Sequence[dict[str, str]], *, seen: bool) -> list[str]:
    """Return what tells each run from the others: its options, and among equal ones its values."""
    keys = {key for own in known for key in own if seen or not key.startswith("input.")}
    groups = {key.partition(".")[0] for key in _varied(keys, known)}
    options = [{key: text for key, text in run.choices.items() if key in groups} for run in runs]
    differing = sorted(_varied(groups, options))
    result = []
    for own, chosen in zip(known, options, strict=True):
        words = {group: chosen[group] for group in differing if group in chosen}
        alike = [k for k, other in zip(known, options, strict=True) if other == chosen]
        words |= {key: own[key] for key in sorted(_varied(keys, alike)) if key in own}
        # A value that a run lacks is one that changes nothing.
        result.append(" ".join(f"{key}={text}" for key, text in words.items()) or "default")
    return result


def _varied(keys: Iterable[str], known: Sequence[dict[str, str]]) -> list[str]:
    """Return the keys in which not all are equal."""
    return [key for key in keys if len({own.get(key) for own in known}) > 1]


def config_differences(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Return the config keys in which arms differ, each with one text per arm.

    Seed, size and fold are left out. Where a key varies within an arm, its values are listed.
    """
    known = {arm: _different(comparison.by_arm[arm]) for arm in comparison.arms}
    keys = sorted({key for runs in known.values() for found in runs for key in found})
    rows = []
    for key in keys:
        texts = [
            ", ".join(dict.fromkeys(run.get(key, "not set") for run in known[arm])) or "no run yet"
            for arm in comparison.arms
        ]
        if len({text for text in texts if text != "no run yet"}) > 1:
            rows.append((key, texts))
    return rows


def ranked(comparison: Comparison) -> dict[str, list[Candidate]]:
    """Return the candidates of each arm, the best first.

    Only those count whose runs are all finished: an average over other sizes or seeds would not
    be comparable.
    """
    result: dict[str, list[Candidate]] = {}
    for label in comparison.arms:
        cells = comparison.by_arm[label]
        values = [cell.value(comparison.metric.name) for cell in cells]
        known = [value for value in values if value is not None]
        if len(known) < len(cells):
            continue
        # Every size has the same seeds and folds in a grid, so the plain mean is the mean of means.
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


def _different(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """Return the different settings of an arm's runs; thousands of runs mostly share theirs."""
    found: dict[str, Record] = {}
    for cell in cells:
        if (run := cell.record) is not None:
            data = {k: v for k, v in run.config.get("data", {}).items() if k not in _PLACES}
            config = {**run.config, "seed": None, "data": data}
            text = json.dumps([config, run.input, run.init.get("weights")])
            found.setdefault(text, run)
    return [settings(run) for run in found.values()]


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


def _flatten(prefix: str, value: Any) -> dict[str, str]:
    # A list of plain values is one setting.
    nested = isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
    if value and (isinstance(value, dict) or nested):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        parts = [_flatten(f"{prefix}.{key}" if prefix else str(key), item) for key, item in pairs]
        return {key: text for part in parts for key, text in part.items()}
    return {prefix: value if isinstance(value, str) else json.dumps(value)}
