"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from warmstart.results import figures
from warmstart.results.comparison import Cell, Comparison
from warmstart.results.differences import Difference, differences
from warmstart.results.features import by_arm
from warmstart.results.metric import Metric, Size, size_axis, size_label, size_phrase
from warmstart.results.selection import config_differences
from warmstart.results.statistics import Interval
from warmstart.results.verdict import (
    basis,
    data_notes,
    findings,
    grounds,
    macro,
    outcome_label,
    p_label,
    problem,
    vault,
)
from warmstart.store import publish

Found = Sequence[Sequence[Difference]] | None
TEMPLATE = "page.html.j2"
# Width of a drawn interval in the table of differences, in pixels.
DRAWN_WIDTH = 160
LISTED = 50  # of the images that were left out, and of the runs without a result


def write(comparisons: Sequence[Comparison], path: Path, found: Found = None) -> None:
    """Write the report of comparisons atomically to `path`; `found`: their differences, if known.

    Raises:
        ConfigError: A file of predictions is damaged.
    """
    text = render(comparisons, found)
    publish(path, lambda part: _write_text(part, text))


def render(comparisons: Sequence[Comparison], found: Found = None) -> str:
    """Return the report as HTML, with the plots' library inside; `found` as for `write`."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["minus"] = _minus
    environment.globals.update(thin_lines=figures.THIN_LINES, listed=LISTED, cached=by_arm)
    known = found or map(differences, comparisons)
    sections = [_section(*pair, i) for i, pair in enumerate(zip(comparisons, known, strict=True))]
    drawn = {name: text for section in sections for name, text in section["figures"].items()}
    return environment.get_template(TEMPLATE).render(
        title=", ".join(comparison.name for comparison in comparisons),
        sections=sections,
        figures=Markup(",\n".join(f'"{name}": {text}' for name, text in drawn.items())),
        plotly=Markup(get_plotlyjs()),
    )


def _section(comparison: Comparison, found: Sequence[Difference], index: int) -> dict[str, Any]:
    styles = figures.styles(comparison.arms)
    drawn = _figures(comparison, index)
    beside = macro(comparison)
    return {
        "id": f"c{index}",
        "comparison": comparison,
        "metric": comparison.metric,
        "styles": styles,
        "problems": [problem(cell, comparison.metric) for cell in comparison.unfinished],
        "findings": findings(comparison, found),
        "grounds": grounds(comparison, found),
        "size_axis": size_axis(comparison.sizes),
        "sizes": [size_label(size) for size in comparison.sizes],
        "basis": basis(comparison, "n"),
        "table": _table(comparison, beside),
        "macro": beside,
        "vault": vault(comparison),
        "data": _data(comparison),
        "differences": _differences(comparison, found, styles),
        "family": sum(d.interval.low is not None for d in found),
        "figures": {name: _json(figure) for name, figure in drawn.items()},
        "curve_sizes": [
            (size_phrase(size), f"c{index}-steps-{i}", f"c{index}-seconds-{i}")
            for i, size in enumerate(comparison.sizes)
            if f"c{index}-steps-{i}" in drawn
        ],
        "others": _other_metrics(comparison),
        "times": _times(comparison),
        "config": config_differences(comparison),
        "runs": [_row(cell, comparison.metric) for cell in comparison.cells],
        "versions": _gathered(c.record.versions for c in comparison.cells if c.record),
        "environment": _environment(comparison),
    }


def _table(
    comparison: Comparison, beside: Metric | None
) -> list[tuple[str, list[dict[str, Any] | None]]]:
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


def _differences(
    comparison: Comparison, found: Sequence[Difference], styles: dict[str, figures.Style]
) -> list[dict[str, Any]]:
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


def _figures(comparison: Comparison, index: int) -> dict[str, Any]:
    if all(cell.value(comparison.metric.name) is None for cell in comparison.cells):
        return {}
    drawn = {
        f"c{index}-efficiency": figures.sample_efficiency(comparison),
        f"c{index}-time": figures.run_time(comparison),
    }
    for i, size in enumerate(comparison.sizes):
        if figures.has_curves([cell for cell in comparison.cells if cell.size == size]):
            for over in ("steps", "seconds"):
                drawn[f"c{index}-{over}-{i}"] = figures.learning_curves(comparison, size, over=over)
    return drawn


def _json(figure: Any) -> str:
    """Return a figure as JSON that cannot end the script element it stands in."""
    text: str = figure.to_json()
    return text.replace("<", "\\u003c")


def _other_metrics(comparison: Comparison) -> dict[str, Any]:
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


def _times(comparison: Comparison) -> list[dict[str, Any]]:
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


def _data(comparison: Comparison) -> dict[str, Any]:
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


def _row(cell: Cell, metric: Metric) -> dict[str, Any]:
    value, run = cell.value(metric.name), cell.record
    seconds = run.timing.get("train_seconds") if run else None
    return {
        "cell": cell,
        "size": size_label(cell.size),
        "value": "-" if value is None else metric.value(value),
        "opened": run.test_opened if run else "-",
        "seconds": "-" if seconds is None else _seconds(seconds),
    }


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _environment(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what is said about the machines, where few enough values can be listed."""
    found = _gathered(c.record.environment for c in comparison.cells if c.record)
    return [
        (name, ", ".join(values) if len(values) <= 3 else f"{len(values)} different values")
        for name, values in found.items()
        if name not in ("command", "traceback")
    ]


def _gathered(mappings: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return every key with its different values in the order of their appearance."""
    found: dict[str, dict[str, None]] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            if value not in (None, ""):
                found.setdefault(name, {})[str(value)] = None
    return {name: list(values) for name, values in found.items()}


def _minus(text: object) -> Markup:
    """Return numbers with a true minus sign, and a dash for what is not there."""
    return Markup("&ndash;" if text == "-" else html.escape(str(text)).replace("-", "&minus;"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
