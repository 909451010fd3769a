"""The plots of a tuning over trials and steps.

A trial has one trace in a figure, whose ``meta`` is the trial's identifier: by that the page shows
it in all figures at once.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from warmstart.results.best_of_k import best_of_k
from warmstart.results.figures import axis_title, lay_out, safe, styles
from warmstart.results.tuning import Tuning
from warmstart.results.tuning_marks import identifier, scaled, shade, words, worst_first

MOST_POINTS = 80  # of a learning curve


def best_curves(tuning: Tuning) -> go.Figure | None:
    """Plot of each arm the expected best value over the number of trials; None without values."""
    figure, metric = go.Figure(), tuning.metric
    for arm, style in styles(tuning.arms).items():
        values = best_of_k(tuning, arm)
        if not values:
            continue
        figure.add_scatter(
            x=list(range(1, len(values) + 1)),
            y=[scaled(metric, value) for value in values],
            mode="lines+markers",
            name=safe(arm),
            line={"color": style.color, "width": 2.2, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 7},
            hovertemplate=f"{safe(arm)}<br>best of %{{x}}: %{{y:.4~g}}{metric.unit}<extra></extra>",
        )
    if not figure.data:
        return None
    unit = f" ({metric.unit})" if metric.unit else ""
    lay_out(figure, height=320)
    figure.update_xaxes(title_text="Coarse trials (k)")
    figure.update_yaxes(title_text=f"Expected best {safe(metric.label)}{unit}")
    return figure


def learning_curves(tuning: Tuning, arm: str) -> go.Figure | None:
    """Plot the validation curves of an arm's trials; a cross ends one that was given up."""
    figure, colors = go.Figure(), shade(tuning, arm)
    metric = tuning.metric
    column = metric.name.rpartition("/")[2]
    for trial in worst_first(tuning, arm):
        steps, values = trial.curve.get("step", []), trial.curve.get(column, [])
        if not steps or len(steps) != len(values) or colors is None:
            continue
        rows = np.unique(np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int))
        ended, color = trial.state in ("pruned", "failed"), colors.color(trial.value)
        figure.add_scatter(
            x=[steps[row] for row in rows],
            y=[scaled(metric, values[row]) for row in rows],
            mode="lines+markers" if ended or len(rows) == 1 else "lines",
            line={
                "color": colors.color(trial.value),
                "width": 2.4 if trial.round == "final" else 1.4,
            },
            marker={
                "symbol": "x-thin" if ended else "circle",
                "size": [0] * (len(rows) - 1) + [7],
                "line": {"width": 1.6, "color": color},
            },
            meta=identifier(tuning, trial),
            hovertemplate=f"%{{y:.4~g}}{metric.unit} at step %{{x:,}}<br>{words(tuning, trial)}"
            "<extra></extra>",
        )
    if not figure.data:
        return None
    lay_out(figure, height=280)
    figure.update_xaxes(title_text="Step")
    figure.update_yaxes(title_text=axis_title(metric), nticks=6)
    return figure
