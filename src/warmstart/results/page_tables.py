"""The tables of the report: their rows, with numbers as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from warmstart.results import figures
from warmstart.results.comparison import Cell, Comparison
from warmstart.results.differences import Difference
from warmstart.results.metric import Metric, Size, size_label
from warmstart.results.statistics import Interval
from warmstart.results.verdict import data_notes, outcome_label, p_label

# Width of a drawn interval in the table of differences, in pixels.
DRAWN_WIDTH = 160
LISTED = 50  # of the images that were left out, and of the runs without a result


def results(
    comparison: Comparison, beside: Metric | None
) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Return for each arm its entries at all sizes; `beside` is shown below the metric."""
    metric = comparison.metric

    def entry(arm: str, size: Size) -> dict[str, Any] | None:
        interval = comparison.interval(arm, size)
        if interval is None:
            return None
        other = comparison.interval(arm, size, metric=beside.name) if beside else None
        return {
            "mean": metric.value(interval.mean),
            "ends": "" if interval.low is None else metric.ends(interval),
            "n": interval.n,
            "macro": metric.value(other.mean) if other else "",
            "macro_ends": "" if other is None or other.low is None else metric.ends(other),
        }

    return [(arm, [entry(arm, size) for size in comparison.sizes]) for arm in comparison.arms]


def difference_rows(
    comparison: Comparison, found: Sequence[Difference], styles: dict[str, figures.Style]
) -> list[dict[str, Any]]:
    """Return one row per difference, with the places of its drawn interval in pixels."""
    metric = comparison.metric
    ends = [0.0] + [
        end
        for d in found
        for i in (d.interval, d.simultaneous)
        for end in (i.mean, i.low, i.high)
        if end is not None
    ]
    low, span = min(ends), max(max(ends) - min(ends), 1e-9)

    def place(value: float) -> float:
        return round(6 + (value - low) / span * (DRAWN_WIDTH - 12), 1)

    def line(interval: Interval) -> tuple[float, float] | None:
        if interval.low is None or interval.high is None:
            return None
        return place(interval.low), place(interval.high)

    return [
        {
            "arm": d.arm,
            "first": i == 0 or found[i - 1].arm != d.arm,
            "rows": sum(other.arm == d.arm for other in found),
            "size": size_label(d.size),
            "n": d.interval.n,
            "mean": metric.value(d.interval.mean, sign=True),
            "interval": metric.ends(d.interval, sign=True),
            "simultaneous": metric.ends(d.simultaneous, sign=True),
            "over_images": metric.ends(d.over_images, sign=True) if d.over_images else "-",
            "p": p_label(d),
            "unpaired": d.unpaired_because,
            "preprocessing": d.preprocessing,
            "outcome": outcome_label(d),
            "kind": d.outcome,
            "color": styles[d.arm].color,
            "width": DRAWN_WIDTH,
            "zero": place(0.0),
            "dot": place(d.interval.mean),
            "thick": line(d.interval),
            "thin": line(d.simultaneous),
        }
        for i, d in enumerate(found)
    ]


def other_metrics(comparison: Comparison) -> dict[str, Any]:
    """Return the metrics of the split besides the compared one, by size and arm."""
    split = comparison.metric.name.partition("/")[0]
    names = sorted({name for c in comparison.cells if c.record for name in c.record.metrics})
    shown = [Metric(n) for n in names if n.startswith(f"{split}/") and n != comparison.metric.name]
    rows = []
    for size in comparison.sizes:
        for arm in comparison.arms:
            entries = [(m, comparison.interval(arm, size, metric=m.name)) for m in shown]
            if any(interval for _, interval in entries):
                rows.append((size_label(size), arm, [_plus_minus(m, i) for m, i in entries]))
    return {"metrics": shown, "rows": rows}


def _plus_minus(metric: Metric, interval: Interval | None) -> tuple[str, str]:
    if interval is None:
        return "-", ""
    half = "" if interval.high is None else metric.value(interval.high - interval.mean)
    return metric.value(interval.mean), half


def times(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the seconds of training of each arm."""
    rows = []
    for arm in comparison.arms:
        times = [t for s in comparison.sizes for t in figures.train_seconds(comparison, arm, s)]
        if times:
            rows.append(
                {
                    "arm": arm,
                    "runs": len(times),
                    "mean": _seconds(sum(times) / len(times)),
                    "range": f"{_seconds(min(times))} to {_seconds(max(times))}",
                    "sum": _seconds(sum(times)),
                }
            )
    return rows


def data(comparison: Comparison) -> dict[str, Any]:
    """Return the images of each split, and what was left out of them and why."""
    counts: dict[str, list[str]] = {}
    for size in comparison.sizes:
        runs = [c.record.data for c in comparison.cells if c.size == size and c.record]
        if found := [data["counts"] for data in runs if "counts" in data]:
            splits = ("train", "val", "test")
            counts[size_label(size)] = [_span([count[s] for count in found]) for s in splits]
    if len(set(map(tuple, counts.values()))) == 1 < len(counts):
        counts = {"all sizes": next(iter(counts.values()))}
    lists = {"Damaged images, skipped": "skipped", "Duplicates, dropped": "dropped"}
    images = {title: list(comparison.noted(name).items()) for title, name in lists.items()}
    return {
        "counts": counts,
        "notes": data_notes(comparison),
        "warnings": list(comparison.noted("warnings")),
        "lists": [(title, len(rows), rows[:LISTED]) for title, rows in images.items() if rows],
    }


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def run_row(cell: Cell, metric: Metric) -> dict[str, Any]:
    """Return the row of one run."""
    value, run = cell.value(metric.name), cell.record
    seconds = run.timing.get("train_seconds") if run else None
    stopped = f", stopped early at step {run.stopped_at:,}" if run and run.stopped_at else ""
    return {
        "cell": cell,
        "status": f"{cell.status}{stopped}",
        "size": size_label(cell.size),
        "value": "-" if value is None else metric.value(value),
        "opened": run.test_opened if run else "-",
        "seconds": "-" if seconds is None else _seconds(seconds),
    }


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def environment(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what is said about the machines, where few enough values can be listed."""
    found = gathered(c.record.environment for c in comparison.cells if c.record)
    return [
        (name, ", ".join(values) if len(values) <= 3 else f"{len(values)} different values")
        for name, values in found.items()
        if name not in ("command", "traceback")
    ]


def gathered(mappings: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return every key with its different values in the order of their appearance."""
    found: dict[str, dict[str, None]] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            if value not in (None, ""):
                found.setdefault(name, {})[str(value)] = None
    return {name: list(values) for name, values in found.items()}
