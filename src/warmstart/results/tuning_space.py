"""The plots of a tuning over its searched keys; traces are as in `tuning_figures`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from warmstart.results.figures import axis_title, lay_out, safe
from warmstart.results.tuning import ENDED, Tuning
from warmstart.results.tuning_axis import Axis, text
from warmstart.results.tuning_marks import (
    SYMBOLS,
    identifier,
    scaled,
    searched,
    shade,
    words,
    worst_first,
)

MOST_TICKS = 6  # of an axis
_MARGIN = 0.06  # beside the range of a searched key, as a share of it
_MARK = 0.03  # length of the mark of a tried value, as a share of the plot


def parallel_coordinates(tuning: Tuning, arm: str) -> go.Figure | None:
    """Plot each trial of the search as a line over the searched keys and the value it reached.

    Those of the final round are longer, and would seem better than they are. The lines are plain,
    since Plotly's own trace needs WebGL and compiles code, which the page's security policy
    forbids.
    """
    colors, trials = shade(tuning, arm), searched(tuning, arm)
    if colors is None:
        return None
    figure, name = go.Figure(), tuning.metric.label
    known = [trial.value for trial in trials if trial.value is not None]
    low, high = min(known), max(known)
    reached = Axis(name, low=low, high=high) if low < high else Axis(name, (low,))
    for trial in reversed(trials):
        places = [axis.place(trial.values.get(axis.key)) for axis in tuning.axes]
        color = colors.color(trial.value)
        figure.add_scatter(
            x=list(range(len(places) + 1)),
            y=[*places, reached.place(trial.value)],
            mode="lines+markers",
            line={"color": color, "width": 1.6},
            marker={"size": 5, "symbol": SYMBOLS[trial.round]},
            meta=identifier(tuning, trial),
            hovertemplate=f"{words(tuning, trial)}<extra></extra>",
        )
    lay_out(figure, height=300)
    _draw_axes(figure, tuning, reached)
    return figure


def _draw_axes(figure: go.Figure, tuning: Tuning, reached: Axis) -> None:
    """Draw the upright axes of the parallel coordinates, the last one for the value reached."""
    metric = tuning.metric
    figure.update_layout(margin={"l": 58, "r": 26, "t": 12, "b": 40})
    names = [*(_short(axis.key, tuning.axes) for axis in tuning.axes), metric.quantity]
    figure.update_xaxes(
        tickvals=list(range(len(names))),
        ticktext=[safe(name) for name in names],
        range=[-0.05, len(names) - 0.95],
        showgrid=False,
        showline=False,
        ticks="",
    )
    figure.update_yaxes(visible=False, range=[-0.06, 1.06])
    labels = [[(text(value), place) for value, place in _ticks(axis)] for axis in tuning.axes]
    labels.append([(metric.value(value), place) for value, place in _ticks(reached)])
    # All at once: the library copies what is there for each that is added.
    figure.update_layout(
        shapes=[_line("x", number, 1.0, "y") for number in range(len(names))],
        annotations=[
            _beside(number, place, label)
            for number, axis in enumerate(labels)
            for label, place in axis
        ],
    )


def _line(name: str, place: float, length: float, other: str) -> dict[str, Any]:
    """Return a grey line across the axis `name` at `place`, long as a share of the other axis.

    Args:
        name: ``x`` or ``y``.
        place: On that axis.
        length: From 0 on.
        other: What the length refers to: the other axis, or ``paper`` for the plot's whole side.
    """
    across = "y" if name == "x" else "x"
    return {
        **{"type": "line", f"{name}ref": name, f"{across}ref": other, "layer": "below"},
        **{f"{name}0": place, f"{name}1": place, f"{across}0": 0, f"{across}1": length},
        "line": {"color": "rgba(128,128,128,0.8)", "width": 1.2},
    }


def _beside(x: float, y: float, label: str) -> dict[str, Any]:
    """Return a label to the left of a point."""
    place = {"x": x, "y": y, "xanchor": "right", "xshift": -5, "showarrow": False}
    return {**place, "text": safe(label), "font": {"size": 10.5}}


def search_places(tuning: Tuning, arm: str) -> go.Figure | None:
    """Plot where an arm was searched: the first key against the second, or against the value.

    The marks along the axes are the different values tried of each key, after Bergstra and Bengio
    (2012), "Random Search for Hyper-Parameter Optimization", JMLR 13, figure 1.
    """
    figure, colors, metric = go.Figure(), shade(tuning, arm), tuning.metric
    if not tuning.axes or colors is None:
        return None
    across, up = tuning.axes[0], tuning.axes[1] if len(tuning.axes) > 1 else None
    for trial in worst_first(tuning, arm):
        failed, color = trial.state == "failed", colors.color(trial.value)
        x = across.place(trial.values.get(across.key))
        y = up.place(trial.values.get(up.key)) if up else scaled(metric, trial.value)
        if x is None or y is None or (trial.value is None and not failed):
            continue
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            marker={
                "symbol": "x-thin" if failed else SYMBOLS[trial.round],
                "size": 14 if trial.round == "final" else 9,
                "color": color,
                "line": {"width": 1.6 if failed else 0, "color": color},
            },
            meta=identifier(tuning, trial),
            hovertemplate=f"{words(tuning, trial)}<extra></extra>",
        )
    lay_out(figure, height=300)
    figure.update_xaxes(**_searched_axis(across))
    marks = _tried(tuning, arm, "x", across)
    if up:
        figure.update_yaxes(**_searched_axis(up))
        marks += _tried(tuning, arm, "y", up)
    else:
        figure.update_yaxes(title_text=axis_title(metric))
    figure.update_layout(shapes=marks)
    return figure


def _searched_axis(axis: Axis) -> dict[str, Any]:
    """Return the axis with the whole range that was to be searched, not only what was tried."""
    marks = _ticks(axis)
    return {
        "title_text": safe(axis.key),
        "tickvals": [place for _, place in marks],
        "ticktext": [safe(text(value)) for value, _ in marks],
        "range": [-_MARGIN, 1 + _MARGIN],
    }


def _tried(tuning: Tuning, arm: str, name: str, axis: Axis) -> list[dict[str, Any]]:
    """Return a mark along the axis `name` for each different value that was tried of its key."""
    ended = [trial for trial in tuning.by_arm[arm] if trial.state in ENDED]
    places = {axis.place(trial.values.get(axis.key)) for trial in ended}
    known = sorted(place for place in places if place is not None)
    return [_line(name, place, _MARK, "paper") for place in known]


def _ticks(axis: Axis) -> list[tuple[Any, float]]:
    """Return the labelled values of an axis and their places, both ends among them."""
    values: Sequence[Any] = axis.values
    if not values and axis.log:
        first, last = math.floor(math.log10(axis.low)) + 1, math.ceil(math.log10(axis.high)) - 1
        stride = max(1, math.ceil((last - first + 1) / (MOST_TICKS - 2)))
        inner = [10.0**power for power in range(first, last + 1, stride)]
        # A label next to an end would cover that of the end.
        near = [v for v in inner if 0.08 < (axis.place(v) or 0.0) < 0.92]
        values = [axis.low, *near, axis.high]
    elif not values:
        values = [float(value) for value in np.linspace(axis.low, axis.high, MOST_TICKS - 1)]
    return [(value, axis.place(value) or 0.0) for value in values]


def _short(key: str, axes: Sequence[Axis]) -> str:
    """Return the last word of a key where that tells it from the others."""
    last = key.rpartition(".")[2]
    return last if sum(axis.key.rpartition(".")[2] == last for axis in axes) == 1 else key
