"""What a comparison shows, in sentences that its numbers support."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.results import predictions, selection
from warmstart.results.comparison import Cell, Comparison
from warmstart.results.differences import Difference, differences
from warmstart.results.metric import Metric, Size, joined, size_phrase, sizes_phrase

N_TOO_SMALL = "n too small to say"
NOT_OVER_FOLDS = "not over folds, whose training images overlap"
# The kill came between the opening and the file of predictions.
KILLED = "A run that is killed while it tests opens test again."
# From this ratio of the largest to the smallest class on, classes count as unbalanced.
UNBALANCED = 1.5
NAMED = 3  # runs or images that a sentence names
OUTCOMES = {
    "ahead": "ahead",
    "behind": "behind",
    "none": "no difference shown",
}


def verdict(comparison: Comparison) -> str:
    """Return which arm is ahead where, by how much, and on what ground.

    An arm is called ahead or behind only where the interval of its difference to the reference,
    widened for all differences of the comparison (Bonferroni), excludes 0.
    """
    found = differences(comparison)
    return " ".join([*findings(comparison, found), *grounds(comparison, found)])


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
    parts, split = [], comparison.metric.split
    if known:
        counts = sorted({d.interval.n for d in known})
        n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        rests = [f"This rests on 95 % Student t intervals over {basis(comparison, n)}"]
        if all(d.paired for d in found):
            over_both = comparison.folds and comparison.correction is None
            rests.append(f"paired by {'seed and fold' if over_both else comparison.repeated[:-1]}")
        if comparison.correction is None:
            many = len(comparison.folds) > 1
            rests.append("with fixed folds" if many else f"with a fixed {split} set")
        if len(known) > 1:
            rests.append(f"widened so that all {len(known)} differences hold at once (Bonferroni)")
        parts.append(", ".join(rests) + ".")
    if known and comparison.correction:
        parts.append(f"All runs have seed {comparison.cells[0].seed}, whose chance is not counted.")
    parts += _left_out(comparison)
    if any(d.outcome == "none" for d in known):
        parts.append("No difference shown does not mean that the arms are equal.")
    parts += _pairing(found)
    if any(cell.record and cell.record.init.get("weights") for cell in comparison.cells):
        parts.append("Pretrained runs share one set of weights, whose own chance is not counted.")
    unfinished, total = len(comparison.unfinished), len(comparison.cells)
    if 0 < unfinished < total:
        parts.append(f"Partial: {unfinished} of {total} runs have no result.")
    return parts


def basis(comparison: Comparison, n: str = "") -> str:
    """Return what n repetitions are: ``5 seeds, each the mean of 5 folds``."""
    folds = comparison.folds
    words = comparison.repeated
    if comparison.correction is not None:
        words += ", corrected for their shared training images"
    elif folds:
        words += (
            f", each the mean of {len(folds)} folds" if len(folds) > 1 else f", fold {folds[0]}"
        )
    return f"{n} {words}".strip()


def vault(comparison: Comparison) -> str:
    """Return how often the test split was opened, with the names of runs that did it again."""
    opened = [(cell, cell.record.test_opened) for cell in comparison.cells if cell.record]
    if not opened:
        return ""
    start = "" if comparison.metric.split == "test" else f"Compared on {comparison.metric.split}; "
    again = [f"{cell.place} ({count} times)" for cell, count in opened if count > 1]
    once, never = (sum(count == n for _, count in opened) for n in (1, 0))
    if never == len(opened):
        text = "test was never opened."
    elif once == len(opened):
        text = f"test was opened once in {_each_of(once)}."
    else:
        parts = [f"once in {once}"] if once else []
        parts += [f"never in {never}"] if never else []
        parts += [f"more than once in {len(again)}"] if again else []
        text = f"of {len(opened)} runs, test was opened {joined(parts)}"
        text += f": {_named(again)}. {KILLED}" if again else "."
    text = start + text
    return text[0].upper() + text[1:]


def data_notes(comparison: Comparison) -> list[str]:
    """Return what was left out of the data or is doubtful about it, one phrase each."""
    skipped, dropped, warnings = map(comparison.noted, ("skipped", "dropped", "warnings"))
    runs = [cell.record for cell in comparison.cells if cell.record]
    near = max((int(run.data.get("near_duplicates", 0)) for run in runs), default=0)
    notes = [
        (skipped, f"{_counted(len(skipped), 'damaged image')} skipped ({_named(list(skipped))})"),
        (dropped, f"{_counted(len(dropped), 'duplicate')} dropped ({_named(list(dropped))})"),
        (near, f"{_counted(near, 'pair')} of near duplicates in different splits"),
        (warnings, f"{_counted(len(warnings), 'warning')}"),
    ]
    return [text for found, text in notes if found]


def macro(comparison: Comparison) -> Metric | None:
    """Return the macro accuracy that belongs beside the compared accuracy; None where it need not.

    It does where the split is unbalanced (by the predictions of one run per fold), or where a run
    balanced its classes in training (``balance=loss`` or ``sampling``).

    Raises:
        ConfigError: A file of predictions is damaged.
    """
    split, _, name = comparison.metric.name.partition("/")
    beside = Metric(f"{split}/macro_accuracy")
    known = [cell for cell in comparison.cells if cell.value(beside.name) is not None]
    if name != "accuracy" or not known:
        return None
    configs = [cell.record.config for cell in known if cell.record]
    balanced = any(config.get("balance", "none") != "none" for config in configs)
    return beside if balanced or _unbalanced(known, split) else None


def _too_little(mine: Sequence[Difference]) -> str:
    """Return why there is no interval."""
    unknown = [d for d in mine if d.outcome == "unknown"]
    equal = all(d.interval.n > 1 for d in unknown)
    return "all equal, which is too little" if equal else f"too few {unknown[0].over}"


def outcome_label(difference: Difference) -> str:
    """Return the outcome of one difference in words."""
    if difference.outcome == "unknown":
        return "all equal" if difference.interval.n > 1 else f"too few {difference.over}"
    alone = _kind(difference).endswith("alone")
    return "not after correction" if alone else OUTCOMES[difference.outcome]


def p_label(difference: Difference) -> str:
    """Return the corrected p-value, or why there is none."""
    if difference.p is not None:
        return f"{difference.p:.3f}" if difference.p >= 0.001 else "< 0.001"
    if difference.over == "folds":
        return "not over folds"
    return N_TOO_SMALL if difference.paired else "-"


def pairing_label(difference: Difference) -> str:
    """Return ``paired``, or loudly that it is not, and why; and how the preprocessing differs."""
    pairing = "paired" if difference.paired else f"NOT PAIRED: {difference.unpaired_because}"
    if not difference.preprocessing:
        return pairing
    return f"{pairing}; OTHER PREPROCESSING: {difference.preprocessing}"


def problem(cell: Cell, metric: Metric) -> str:
    """Return what became of a run without a result: ``failed: scratch, 5 per class, seed 0``."""
    if cell.record is None:
        return f"missing: {cell.place}"
    if cell.status == "finished":
        return f"no result: {cell.place}: finished without a {metric.label}"
    return f"{cell.status}: {cell.place}: {cell.record.error or 'no message'}"


def _kind(difference: Difference) -> str:
    """Return the outcome, and where only the uncorrected interval excludes 0, which side it is."""
    if difference.outcome != "none":
        return difference.outcome
    if difference.interval.above_zero:
        return "ahead alone"
    return "behind alone" if difference.interval.below_zero else "none"


def _finding(arm: str, mine: Sequence[Difference], comparison: Comparison) -> str:
    metric, reference = comparison.metric, comparison.reference_of(arm)
    sizes: dict[str, list[Size]] = {}
    for difference in mine:
        sizes.setdefault(_kind(difference), []).append(difference.size)
    if set(sizes) == {"unknown"}:
        return f"{_too_little(mine).capitalize()} to compare {arm} with {reference}."
    # The unit is said once, at the first list of sizes.
    units = iter([True])

    def where(outcome: str) -> str:
        return sizes_phrase(sizes[outcome], unit=next(units, False))

    leads: list[str] = []
    for outcome, words in (("ahead", "ahead of"), ("behind", "behind")):
        if outcome in sizes:
            amounts = [metric.value(abs(d.interval.mean)) for d in mine if d.outcome == outcome]
            by = f"{joined(amounts)} {metric.difference_unit}".strip()
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
        clauses.append(f"{_too_little(mine)} to say at {where('unknown')}")
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
        f"{sizes_phrase([size])} (n = {interval.n})"
        for size in comparison.sizes
        if (interval := comparison.interval(arm, size))
    ]
    reached = f"{arm} reaches a {metric.label} of {', '.join(results)}"
    return f"{reached}; there is no other arm to compare it with."


def _pairing(found: Sequence[Difference]) -> list[str]:
    """Return loudly which differences are not taken between runs of the same circumstances."""
    parts = []
    reasons = sorted({d.unpaired_because for d in found if not d.paired})
    if reasons:
        count = sum(not d.paired for d in found)
        parts.append(f"NOT PAIRED ({count} of {len(found)}), because {'; '.join(reasons)}.")
    inputs = sorted({d.preprocessing for d in found if d.preprocessing})
    if inputs:
        count = sum(bool(d.preprocessing) for d in found)
        parts.append(
            f"THE PREPROCESSING DIFFERS ({count} of {len(found)}: {'; '.join(inputs)}): these arms "
            "see other pixels than the reference."
        )
    return parts


def _left_out(comparison: Comparison) -> list[str]:
    """Return which seeds do not count as they lack folds that others have."""
    found = []
    for arm in comparison.arms:
        for size in comparison.sizes:
            seeds = {cell.seed for cell in comparison.finished(arm, size)}
            if comparison.correction is None:
                open_seeds = sorted(seeds - set(comparison.repetitions(arm, size)))
                found += [f"{arm}, {size_phrase(size)}, seed {seed}" for seed in open_seeds]
    if not found:
        return []
    return [f"Left out, as they lack folds that others have: {_named(found)}."]


def _unbalanced(cells: Sequence[Cell], split: str) -> bool:
    counts: dict[int | None, np.ndarray] = {}
    for cell in cells:
        if cell.fold not in counts and (found := predictions.read(cell.folder, split)):
            counts[cell.fold] = np.unique(found.labels, return_counts=True)[1]
    return any(count.max() > UNBALANCED * count.min() for count in counts.values())


def _each_of(count: int) -> str:
    return "the one run" if count == 1 else f"each of {count} runs"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _named(texts: Sequence[str]) -> str:
    more = [f"{len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return "; ".join([*texts[:NAMED], *more])
