"""What a comparison shows, in sentences that its numbers support."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.results import selection
from warmstart.results.comparison import Cell, Comparison
from warmstart.results.differences import Difference, differences
from warmstart.results.metric import Metric, size_label

N_TOO_SMALL = "n too small to say"
OUTCOMES = {
    "ahead": "ahead",
    "behind": "behind",
    "none": "no difference shown",
    "unknown": "too few seeds",
}


def verdict(comparison: Comparison) -> str:
    """Return which arm is ahead where, by how much, and on what ground.

    An arm is called ahead or behind only where the interval of its difference to the reference,
    widened for all differences of the comparison (Bonferroni), excludes 0.
    """
    return " ".join(sentences(comparison, differences(comparison)))


def sentences(comparison: Comparison, found: Sequence[Difference]) -> list[str]:
    """Return the verdict as one sentence per arm, and a last one that says what it rests on.

    Args:
        comparison: What was planned and run.
        found: Its differences, as `differences` returns them.
    """
    return [*findings(comparison, found), *grounds(comparison, found)]


def findings(comparison: Comparison, found: Sequence[Difference]) -> list[str]:
    """Return one sentence per arm other than the reference."""
    reference = comparison.reference
    if not any(comparison.finished(a, s) for a in comparison.arms for s in comparison.sizes):
        return ["No run has finished yet, so there is nothing to compare."]
    if not reference:
        return selection.sentences(comparison)
    others = [arm for arm in comparison.arms if comparison.reference_of(arm)]
    if not others and comparison.is_reference(comparison.arms[0]):
        return [_alone(comparison)]
    if not others:
        return [f"The reference arm {reference} is not among the arms, so nothing is compared."]
    return [_finding(arm, [d for d in found if d.arm == arm], comparison) for arm in others]


def grounds(comparison: Comparison, found: Sequence[Difference]) -> list[str]:
    """Return what the findings rest on: seeds, pairing, correction, and what is missing."""
    known = [d for d in found if d.outcome != "unknown"]
    parts = []
    if known:
        counts = sorted({d.interval.n for d in known})
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        paired = "paired by seed, " if all(d.paired for d in found) else ""
        text = (
            f"This rests on 95 % Student t intervals over {seeds} seeds, {paired}"
            f"with a fixed {comparison.metric.split} set"
        )
        if len(known) > 1:
            text += f", widened so that all {len(known)} differences hold at once (Bonferroni)"
        parts.append(text + ".")
    if any(d.outcome == "none" for d in known):
        parts.append("No difference shown does not mean that the arms are equal.")
    reasons = sorted({d.unpaired_because for d in found if not d.paired})
    if reasons:
        count = sum(not d.paired for d in found)
        parts.append(f"NOT PAIRED ({count} of {len(found)}), because {'; '.join(reasons)}.")
    if any(cell.record and cell.record.init.get("weights") for cell in comparison.cells):
        parts.append("Pretrained runs share one set of weights, whose own chance is not counted.")
    unfinished, total = len(comparison.unfinished), len(comparison.cells)
    if 0 < unfinished < total:
        parts.append(f"Partial: {unfinished} of {total} runs have no result.")
    return parts


def outcome_label(difference: Difference) -> str:
    """Return the outcome of one difference in words."""
    alone = _kind(difference).endswith("alone")
    return "not after correction" if alone else OUTCOMES[difference.outcome]


def p_label(difference: Difference) -> str:
    """Return the corrected p-value, or why there is none."""
    if difference.p is not None:
        return f"{difference.p:.3f}" if difference.p >= 0.001 else "< 0.001"
    return N_TOO_SMALL if difference.paired else "-"


def pairing_label(difference: Difference) -> str:
    """Return ``paired``, or loudly that it is not, and why."""
    return "paired" if difference.paired else f"NOT PAIRED: {difference.unpaired_because}"


def problem(cell: Cell, metric: Metric) -> str:
    """Return what became of a run without a result: ``failed: scratch, seed 0``."""
    size = "all images" if cell.size is None else f"{cell.size} per class"
    place = f"{cell.arm}, {size}, seed {cell.seed}"
    if cell.record is None:
        return f"missing: {place}"
    if cell.status == "finished":
        return f"no result: {place}: finished without a {metric.label}"
    return f"{cell.status}: {place}: {cell.record.error or 'no message'}"


def _kind(difference: Difference) -> str:
    """Return the outcome, and where only the uncorrected interval excludes 0, which side it is."""
    if difference.outcome != "none":
        return difference.outcome
    if difference.interval.above_zero:
        return "ahead alone"
    return "behind alone" if difference.interval.below_zero else "none"


def _finding(arm: str, mine: Sequence[Difference], comparison: Comparison) -> str:
    metric, reference = comparison.metric, comparison.reference_of(arm)
    sizes: dict[str, list[int | None]] = {}
    for difference in mine:
        sizes.setdefault(_kind(difference), []).append(difference.size)
    if "unknown" in sizes and len(sizes) == 1:
        return f"Too few seeds to compare {arm} with {reference}."
    # The unit is said once, at the first list of sizes.
    units = iter([" images per class"])

    def where(outcome: str) -> str:
        return _listed(sizes[outcome], next(units, ""))

    leads: list[str] = []
    for outcome, words in (("ahead", "ahead of"), ("behind", "behind")):
        if outcome in sizes:
            amounts = [metric.value(abs(d.interval.mean)) for d in mine if d.outcome == outcome]
            by = f"{_joined(amounts)} {metric.difference_unit}".strip()
            start = outcome if leads else f"{arm} is {words} {reference}"
            leads.append(f"{start} by {by} at {where(outcome)}")
        if f"{outcome} alone" in sizes:
            start = outcome if leads else f"{arm} is {words} {reference}"
            leads.append(f"{start} at {where(f'{outcome} alone')} only if each is taken alone")
    clauses = [" and ".join(leads)] if leads else []
    if "none" in sizes:
        between = "" if leads else f" between {arm} and {reference}"
        clauses.append(f"no difference{between} is shown at {where('none')}")
    if "unknown" in sizes:
        clauses.append(f"too few seeds to say at {where('unknown')}")
    sizes["open"] = [size for size in comparison.sizes if size not in [d.size for d in mine]]
    if sizes["open"]:
        pair = "" if clauses else f" of {arm} and {reference}"
        clauses.append(f"no runs{pair} to compare yet at {where('open')}")
    text = "; ".join(clauses)
    return (text if leads else text[0].upper() + text[1:]) + "."


def _alone(comparison: Comparison) -> str:
    arm, metric = comparison.arms[0], comparison.metric
    results = [
        f"{metric.value(interval.mean)}{' %' if metric.unit else ''} at "
        f"{_listed([size], ' images per class')} (n = {interval.n})"
        for size in comparison.sizes
        if (interval := comparison.interval(arm, size))
    ]
    reached = f"{arm} reaches a {metric.label} of {', '.join(results)}"
    return f"{reached}; there is no other arm to compare it with."


def _listed(sizes: Sequence[int | None], unit: str) -> str:
    numbers = [size_label(size) for size in sizes if size is not None]
    if numbers == ["1"]:
        unit = unit.replace("images", "image")
    parts = [_joined(numbers) + unit] if numbers else []
    return " and ".join([*parts, "all images"] if None in sizes else parts)


def _joined(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
