"""What the looks at the layer groups say, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The ratio of update to weight of a net that learns well (Karpathy, CS231n, "Ratio of weights:
# updates"): much above it, steps overshoot; much below it, nothing happens in the time there is.
USUAL = 1e-3
# A healthy start from scratch has ten times that in the first steps, so half of all looks count.
TOO_LARGE = 10 * USUAL
# A new head starts from small weights and learns the most: ratios of 0.01 to 0.04 were seen in runs
# that learned well.
HEAD, TOO_LARGE_HEAD = "head", 100 * USUAL
# An update as large as the weights replaces them. Behind BatchNorm blown-up weights do no harm that
# later looks could see: their ratios are small by then.
REPLACED, START = 1.0, 10
# Rates end near 0 by schedule, and a task that is learned has small gradients: only a group whose
# largest update is a hundredth of the usual never had its turn.
TOO_SMALL = USUAL / 100
# float32 keeps 7 digits: a group that has come less far is where it began.
MOVED = 1e-6
# Half of the units is what random weights make negative for one image; for a whole batch, and at
# the last looks too, it is no accident.
DEAD = 0.5
# Between quiet and hard batches, gradients differ tenfold.
EXPLODED = 100
# Fewer looks than this are an accident; of those at a run's start, and at its end, so many count.
LEAST_LOOKS = 5
_SOME = 3

Points = Sequence[tuple[int, float]]
"""Steps and values at the looks at which a group trained."""

Found = tuple[float, str] | None
"""How far a group is beyond a threshold, and what to say, with {group} for its name."""


def flags(curves: Mapping[str, Any]) -> list[str]:
    """Return what is unusual in a run's looks, the most important first; often nothing.

    A sentence names the group that is farthest from what is usual, and how many others are too.

    Args:
        curves: Of a record; without ``watch`` there is nothing to say.
    """
    watch = curves.get("watch") or {}
    rules: list[tuple[str, Callable[[Points], Found]]] = [
        ("gradient_norm", _exploded),
        ("update_ratio", _replaced),
        ("update_ratio", _too_large),
        ("distance", _not_moved),
        ("update_ratio", _too_small),
        ("dead_relus", _dead),
    ]
    sentences, unmoved = [], set[str]()
    for name, rule in rules:
        found = {group: rule(points) for group, points in _points(watch, name).items()}
        if rule is _too_large and (found.get(HEAD) or (1.0,))[0] < TOO_LARGE_HEAD:
            found.pop(HEAD, None)
        known = {group: one for group, one in found.items() if one is not None}
        if rule is _too_small:  # which says less than that a group has not moved at all
            known = {group: one for group, one in known.items() if group not in unmoved}
        if rule is _not_moved:
            unmoved = set(known)
        if known:
            group = max(known, key=lambda group: known[group][0])
            others = len(known) - 1
            more = f" (and {others} other group{'s' if others > 1 else ''})" if others else ""
            sentences.append(known[group][1].replace("{group}", group + more))
    return sentences


def _points(watch: Mapping[str, Any], name: str) -> dict[str, Points]:
    """Return for each group the looks that have a number in a column, where they are enough."""
    steps, prefix = watch.get("step", []), f"{name}/"
    found = {
        column.removeprefix(prefix): [
            (step, value) for step, value in zip(steps, values, strict=True) if value is not None
        ]
        for column, values in watch.items()
        if column.startswith(prefix)
    }
    return {group: points for group, points in found.items() if len(points) >= LEAST_LOOKS}


def _replaced(points: Points) -> Found:
    step, ratio = max(points, key=lambda point: point[1] if point[0] <= START else 0.0)
    # Weights that are all 0 have no ratio at the first look; there was nothing to replace.
    if ratio < REPLACED or step > START or points[0][0] > 1:
        return None
    return ratio, (
        f"updates of group {{group}} replaced its weights at the start (ratio {ratio:.2g} at step "
        f"{step}; about {USUAL:g} is usual): lower its rate, or add scheduler.warmup_steps"
    )


def _too_large(points: Points) -> Found:
    # One in the middle of all that were seen, as it is typical.
    step, ratio = sorted(points, key=lambda point: point[1])[len(points) // 2]
    if ratio < TOO_LARGE:
        return None
    return ratio, (
        f"updates of group {{group}} are {_times(ratio / USUAL)} too large (ratio {ratio:.2g} to "
        f"the weights at step {step}; about {USUAL:g} is usual): lower its rate"
    )


def _too_small(points: Points) -> Found:
    step, ratio = max(points, key=lambda point: point[1])
    if ratio > TOO_SMALL or not ratio:
        return None
    return 1 / ratio, (
        f"updates of group {{group}} are {_times(USUAL / ratio)} too small (ratio {ratio:.2g} to "
        f"the weights at most, at step {step}; about {USUAL:g} is usual): raise its rate, or "
        "freeze it"
    )


def _not_moved(points: Points) -> Found:
    step, distance = points[-1]
    if distance > MOVED:
        return None
    return -distance, (
        f"group {{group}} has not moved by step {step}, though it trains: its rate is too small, "
        "or no gradient reaches it"
    )


def _dead(points: Points) -> Found:
    step, share = points[-1]
    if min(share for _, share in points[-_SOME:]) <= DEAD:
        return None
    return share, (
        f"{100 * share:.0f} % of the ReLUs of group {{group}} gave 0 for a whole batch at step "
        f"{step}: lower its rate, or use another initialization"
    )


def _exploded(points: Points) -> Found:
    first = max(norm for _, norm in points[:_SOME])
    step, norm = max(points, key=lambda point: point[1])
    if not norm > EXPLODED * first:
        return None
    return norm, (
        f"gradients of group {{group}} exploded (norm {norm:.2g} at step {step}, and {first:.2g} "
        "in the first steps): lower its rate, or clip them"
    )


def _times(factor: float) -> str:
    return f"{factor:,.0f}x" if factor < 1e5 else f"{factor:.0e}x"
