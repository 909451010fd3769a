"""The plot of what the looks at the layer groups saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from warmstart.results.comparison import Comparison
from warmstart.results.figures import lay_out, safe
from warmstart.results.metric import Size
from warmstart.results.watching import USUAL

_RATIO = "update_ratio/"
_DOTTED = {"color": "rgba(128,128,128,0.8)", "width": 1.2, "dash": "dot"}


def update_ratios(comparison: Comparison, arm: str, size: Size) -> go.Figure | None:
    """Plot the ratio of update to weight of each layer group, as medians over an arm's runs.

    Colors go from the input's group to the head's; the dotted line is what is usual.

    Returns:
        None where no run was looked at.
    """
    runs = [cell.record for cell in comparison.finished(arm, size) if cell.record]
    looks = [run.curves["watch"] for run in runs if run.curves.get("watch")]
    known = {name for look in looks for name in look}
    rows = [row for run in runs for row in run.groups]  # input first
    names = dict.fromkeys(n for row in rows if (n := f"{_RATIO}{row['group']}") in known)
    steps = sorted(set.intersection(*(set(look["step"]) for look in looks))) if looks else []
    if not steps or not names:
        return None
    figure = go.Figure()
    for rank, name in enumerate(names):
        group = safe(name.removeprefix(_RATIO))
        figure.add_scatter(
            x=steps,
            y=_medians(looks, name, steps),
            mode="lines+markers",
            name=group,
            line={"color": _color(rank, len(names)), "width": 1.8},
            marker={"size": 4},
            hovertemplate=f"{group}: %{{y:.2~g}} at step %{{x:,}}<extra></extra>",
        )
    figure.add_hline(y=USUAL, line=_DOTTED)
    lay_out(figure, height=260)
    legend = {"orientation": "h", "yanchor": "top", "y": -0.24, "font": {"size": 11}}
    figure.update_layout(showlegend=True, legend=legend)
    figure.update_xaxes(title={"text": "Step", "standoff": 4})
    figure.update_yaxes(type="log", dtick=1, exponentformat="power", title_text="Update / weight")
    return figure


def _medians(
    looks: Sequence[Mapping[str, Any]], name: str, steps: Sequence[float]
) -> list[float | None]:
    """Return a column's medians over runs; no number where none trained, or has moved."""
    tables = [dict(zip(look["step"], look.get(name) or (), strict=False)) for look in looks]
    found = [[value for table in tables if (value := table.get(step))] for step in steps]
    return [float(f"{np.median(values):.4g}") if values else None for values in found]


def _color(rank: int, groups: int) -> str:
    """Return a group's color; neither end of the scale would do on both a light and a dark page."""
    place = 0.3 + 0.52 * rank / max(1, groups - 1)
    return str(sample_colorscale("Viridis", [place])[0])
