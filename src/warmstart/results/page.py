"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from warmstart.results import figures, tuning_page
from warmstart.results import page_tables as tables
from warmstart.results.advice import by_arm as advice_by_arm
from warmstart.results.comparison import Comparison
from warmstart.results.differences import Difference, differences
from warmstart.results.features import by_arm
from warmstart.results.metric import size_axis, size_label, size_phrase
from warmstart.results.selection import config_differences
from warmstart.results.verdict import (
    basis,
    findings,
    grounds,
    macro,
    problem,
    vault,
)
from warmstart.results.watch_figures import update_ratios
from warmstart.store import publish

Found = Sequence[Sequence[Difference]] | None
TEMPLATE = "page.html.j2"
_SAID = 3  # of an arm, at a glance


def write(comparisons: Sequence[Comparison], path: Path, found: Found = None) -> None:
    """Write the report of comparisons atomically to `path`; `found`: their differences, if known.

    Raises:
        ConfigError: A file of predictions is damaged.
    """
    text = render(comparisons, found, folder=path.parent)
    publish(path, lambda part: _write_text(part, text))


def render(comparisons: Sequence[Comparison], found: Found = None, *, folder: Path = Path()) -> str:
    """Return the report as HTML, with the plots' library inside.

    Args:
        comparisons: What it is about.
        found: As for `write`.
        folder: Where the page will lie, for its links.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["minus"] = _minus
    environment.filters["capital"] = lambda text: text[:1].upper() + text[1:]
    environment.globals.update(said=_SAID)
    environment.globals.update(thin_lines=figures.THIN_LINES, listed=tables.LISTED, cached=by_arm)
    environment.filters["tuned_in"] = lambda one: tuning_page.link(one, folder)
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
        "table": tables.results(comparison, beside),
        "macro": beside,
        "vault": vault(comparison),
        "data": tables.data(comparison),
        "differences": tables.difference_rows(comparison, found, styles),
        "family": sum(d.interval.low is not None for d in found),
        "figures": {name: _json(figure) for name, figure in drawn.items()},
        "curve_sizes": [
            (size_phrase(size), f"c{index}-steps-{i}", f"c{index}-seconds-{i}")
            for i, size in enumerate(comparison.sizes)
            if f"c{index}-steps-{i}" in drawn
        ],
        "largest": size_phrase(comparison.sizes[-1]),
        "advice": advice_by_arm(comparison),
        "watched": [
            (arm, f"c{index}-watch-{i}")
            for i, arm in enumerate(comparison.arms)
            if f"c{index}-watch-{i}" in drawn
        ],
        "others": tables.other_metrics(comparison),
        "times": tables.times(comparison),
        "config": config_differences(comparison),
        "runs": [tables.run_row(cell, comparison.metric) for cell in comparison.cells],
        "versions": tables.gathered(c.record.versions for c in comparison.cells if c.record),
        "environment": tables.environment(comparison),
    }


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
    for i, arm in enumerate(comparison.arms):
        watched = update_ratios(comparison, arm, comparison.sizes[-1])
        if watched is not None:
            drawn[f"c{index}-watch-{i}"] = watched
    return drawn


def _json(figure: Any) -> str:
    """Return a figure as JSON that cannot end the script element it stands in."""
    text: str = figure.to_json()
    return text.replace("<", "\\u003c")


def _minus(text: object) -> Markup:
    """Return numbers with a true minus sign, and a dash for what is not there."""
    return Markup("&ndash;" if text == "-" else html.escape(str(text)).replace("-", "&minus;"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
