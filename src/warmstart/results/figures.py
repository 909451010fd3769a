"""The plots of a report, as Plotly figures."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from warmstart.results.comparison import Cell, Comparison
from warmstart.results.metric import Metric, Size, size_axis, size_label, size_phrase
from warmstart.results.record import Record

# Okabe and Ito (2008), "Color Universal Design"; without black and yellow, which one of the light
# and the dark page would swallow.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
DASHES = ("solid", "dash", "dot", "dashdot")
GRID = "rgba(128,128,128,0.22)"
POINTS_PER_CURVE = 80
THIN_LINES = 100  # of an arm at a size: more of them are one dark area
STEP_METRIC = Metric("val/accuracy")


@dataclasses.dataclass(frozen=True)
class Style:
    """How an arm is drawn in every figure."""

    color: str
    symbol: str
    dash: str

    def faint(self, opacity: float) -> str:
        """Return the color with an opacity."""
        red, green, blue = (int(self.color[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


def styles(arms: Sequence[str]) -> dict[str, Style]:
    """Return one style per arm, told apart by color, then also by dash."""
    return {
        arm: Style(
            COLORS[i % len(COLORS)],
            SYMBOLS[i % len(SYMBOLS)],
            DASHES[i // len(COLORS) % len(DASHES)],
        )
        for i, arm in enumerate(arms)
    }


def sample_efficiency(comparison: Comparison) -> go.Figure:
    """Plot the metric over sizes: means, 95 % intervals, and one dot per seed (or fold)."""
    metric, figure = comparison.metric, go.Figure()
    places = _places(comparison.sizes)
    for rank, (arm, style) in enumerate(styles(comparison.arms).items()):
        shift = _shift(rank, len(comparison.arms))
        rows = [
            (places[size] * shift, size, interval)
            for size in comparison.sizes
            if (interval := comparison.interval(arm, size))
        ]
        dots = [
            (places[size] * shift, value * metric.factor)
            for size in comparison.sizes
            for value in comparison.values(arm, size)
        ]
        _scatter_runs(figure, dots, style)
        half = [(i.high - i.mean) * metric.factor if i.high is not None else 0 for _, _, i in rows]
        figure.add_scatter(
            x=[x for x, _, _ in rows],
            y=[i.mean * metric.factor for _, _, i in rows],
            error_y={"type": "data", "array": half, "thickness": 1.6, "width": 4},
            mode="lines+markers",
            name=safe(arm),
            line={"color": style.color, "width": 2.2, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 9},
            text=[
                f"{safe(arm)}, {size_phrase(size)}<br>{metric.value(i.mean)}"
                f"{metric.unit} {metric.ends(i)}<br>{i.n} {comparison.repeated}"
                for _, size, i in rows
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    lay_out(figure, height=430)
    _size_axis(figure, places)
    figure.update_yaxes(title_text=axis_title(metric))
    return figure


def learning_curves(comparison: Comparison, size: Size, *, over: str) -> go.Figure:
    """Plot validation accuracy of one size over ``steps`` or ``seconds`` of training.

    Thin lines are runs, at most `THIN_LINES` of an arm. The thick line is the mean over runs at the
    steps that all of them share; over seconds it stands at the mean time at which these steps were
    reached.
    """
    figure = go.Figure()
    for arm, style in styles(comparison.arms).items():
        runs = [c.record for c in comparison.finished(arm, size) if c.record]
        curves = [curve for run in runs if (curve := _curve(run)) is not None]
        if not curves:
            continue
        column = 0 if over == "steps" else 1
        gap = np.full((1, 3), np.nan)
        drawn = curves[:THIN_LINES]
        thin = np.concatenate([part for curve in drawn for part in (_thinned(curve), gap)])
        figure.add_scatter(
            x=_numbers(thin[:, column]),
            y=_numbers(thin[:, 2]),
            mode="lines",
            line={"color": style.faint(0.28), "width": 1},
            hoverinfo="skip",
        )
        shared = set.intersection(*(set(curve[:, 0]) for curve in curves))
        kept = [curve[[step in shared for step in curve[:, 0]]] for curve in curves]
        mean = _thinned(np.mean(kept, axis=0))
        figure.add_scatter(
            x=_numbers(mean[:, column]),
            y=_numbers(mean[:, 2]),
            mode="lines",
            name=safe(arm),
            line={"color": style.color, "width": 2.2, "dash": style.dash},
            hovertemplate=f"{safe(arm)}: %{{y:.1f}}% at %{{x:,.4~g}} {over}<extra></extra>",
        )
    lay_out(figure, height=230)
    figure.update_xaxes(title_text="Step" if over == "steps" else "Seconds of training")
    figure.update_yaxes(title_text=axis_title(STEP_METRIC), nticks=6)
    return figure


def run_time(comparison: Comparison) -> go.Figure:
    """Plot seconds of training over sizes: means, and one dot per run."""
    figure, places = go.Figure(), _places(comparison.sizes)
    for rank, (arm, style) in enumerate(styles(comparison.arms).items()):
        shift = _shift(rank, len(comparison.arms))
        times = {size: train_seconds(comparison, arm, size) for size in comparison.sizes}
        dots = [(places[size] * shift, t) for size, found in times.items() for t in found]
        means = [(places[s] * shift, float(np.mean(t))) for s, t in times.items() if t]
        _scatter_runs(figure, dots, style)
        figure.add_scatter(
            x=[x for x, _ in means],
            y=[y for _, y in means],
            mode="lines+markers",
            name=safe(arm),
            line={"color": style.color, "width": 2, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 8},
            hovertemplate=f"{safe(arm)}: %{{y:.3~g}} s<extra></extra>",
        )
    lay_out(figure, height=300)
    _size_axis(figure, places)
    figure.update_yaxes(title_text="Training time per run (s)", rangemode="tozero")
    return figure


def train_seconds(comparison: Comparison, arm: str, size: Size) -> list[float]:
    """Return the seconds of training of the finished runs of an arm at a size."""
    records = [cell.record for cell in comparison.finished(arm, size) if cell.record]
    return [float(r.timing["train_seconds"]) for r in records if "train_seconds" in r.timing]


def has_curves(cells: Sequence[Cell]) -> bool:
    """Return whether any of the cells has a learning curve to draw."""
    return any(cell.record and _curve(cell.record) is not None for cell in cells)


def _curve(run: Record) -> np.ndarray | None:
    """Return step, seconds and validation accuracy in %, shape [n, 3]; None without them."""
    curve = run.curves.get("val", {})
    steps, values = curve.get("step", []), curve.get("accuracy", [])
    if not steps or len(steps) != len(values):
        return None
    seconds = run.timing.get("curves", {}).get("val", [])
    if len(seconds) != len(steps):
        seconds = [float("nan")] * len(steps)
    return np.array([steps, seconds, np.multiply(values, STEP_METRIC.factor)], dtype=float).T


def _thinned(curve: np.ndarray) -> np.ndarray:
    """Return at most about `POINTS_PER_CURVE` rows, evenly, with the first and the last."""
    if len(curve) <= POINTS_PER_CURVE:
        return curve
    rows = np.linspace(0, len(curve) - 1, POINTS_PER_CURVE).round().astype(int)
    return np.asarray(curve[rows])


def _numbers(column: np.ndarray) -> list[float | None]:
    """Return plain numbers of four decimals, which take less room than binary arrays as text."""
    return [None if np.isnan(value) else round(float(value), 4) for value in column]


def _places(sizes: Sequence[Size]) -> dict[Size, float]:
    """Return each size's place on the log axis.

    All images stand at a share of 1, or one doubling to the right of the largest number.
    """
    largest = max((size for size in sizes if size is not None), default=1)
    everything = 1.0 if isinstance(largest, float) and largest < 1 else 2.0 * largest
    return {size: everything if size is None else float(size) for size in sizes}


def _shift(rank: int, arms: int) -> float:
    """Return a factor that sets arms beside each other, so that none hides another's interval."""
    return 1 + 0.035 * (rank - (arms - 1) / 2)


def _scatter_runs(figure: go.Figure, dots: Sequence[tuple[float, float]], style: Style) -> None:
    figure.add_scatter(
        x=[x for x, _ in dots],
        y=[y for _, y in dots],
        mode="markers",
        marker={"color": style.faint(0.4), "size": 5},
        hoverinfo="skip",
    )


def _size_axis(figure: go.Figure, places: dict[Size, float]) -> None:
    ends = np.log10([min(places.values()), max(places.values())])
    margin = 0.06 + 0.03 * (ends[1] - ends[0])
    figure.update_xaxes(
        type="log",
        range=[float(ends[0] - margin), float(ends[1] + margin)],
        tickvals=list(places.values()),
        ticktext=[size_label(size) for size in places],
        title_text=size_axis(list(places)).capitalize(),
        showgrid=False,
    )


def axis_title(metric: Metric) -> str:
    unit = f" ({metric.unit})" if metric.unit else ""
    return safe(metric.label[0].upper() + metric.label[1:] + unit)


def lay_out(figure: go.Figure, *, height: int) -> None:
    """Leave color of text, font and background to the page, which knows light from dark."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 12, "t": 10, "b": 46},
        showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
    )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    figure.update_xaxes(showline=True, ticks="outside", tickcolor=GRID, **axis)
    figure.update_yaxes(**axis)


def safe(name: str) -> str:
    """Escape a name for Plotly, whose labels are a little HTML."""
    return html.escape(name, quote=False)
