"""The command center of a tuning: one HTML file with all its trials, which needs only itself."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from warmstart.results import figures, tuning_figures, tuning_marks, tuning_space
from warmstart.results.best_of_k import best_of_k
from warmstart.results.comparison import Comparison
from warmstart.results.metric import joined
from warmstart.results.tuning import (
    CONFIGS,
    FILE,
    PAGE,
    ROUNDS,
    Trial,
    Tuning,
    arm_name,
    recipe_file,
)
from warmstart.results.tuning_axis import exact, text
from warmstart.results.tuning_verdict import (
    SELECTED,
    budget,
    findings,
    problems,
    state_phrase,
)
from warmstart.store import publish

TEMPLATE = "tuning_page.html.j2"
SAMPLERS = {"random": "Random search", "grid": "Grid search", "tpe": "TPE search"}
# What the page says of an arm's budget: the expected best of so many trials.
MILESTONES = (1, 4, 16, 64)


def write(tuning: Tuning, path: Path) -> None:
    """Write the page of a tuning atomically to `path`."""
    content = render(tuning).encode("utf-8", errors="backslashreplace")
    publish(path, lambda part: part.write_bytes(content))


def render(tuning: Tuning) -> str:
    """Return the page as HTML, with the plots' library inside."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    drawn = _figures(tuning)
    return environment.get_template(TEMPLATE).render(
        t=tuning,
        metric=tuning.metric,
        sampler=SAMPLERS.get(tuning.sampler, tuning.sampler),
        searched=joined([axis.key for axis in tuning.axes]),
        states=state_phrase(Counter(trial.state for trial in tuning.trials)),
        problems=problems(tuning),
        findings=findings(tuning),
        selected=SELECTED,
        styles=figures.styles(tuning.arms),
        arms=[_arm(tuning, arm, i) for i, arm in enumerate(tuning.arms)],
        milestones=_milestones(tuning),
        text=text,
        configs=tuning.folder / CONFIGS,
        drawn=set(drawn),
        kinds={name.partition("-")[0] for name in drawn},
        several_rounds=len({trial.round for trial in tuning.trials}) > 1,
        figures=Markup(",\n".join(f'"{name}": {_json(it)}' for name, it in drawn.items())),
        plotly=Markup(get_plotlyjs()),
        low=f"rgb{tuning_marks.LOW}",
        high=f"rgb{tuning_marks.HIGH}",
    )


def link(comparison: Comparison, folder: Path) -> str:
    """Return the address of the comparison's tuning for a page in `folder`; empty without one."""
    out = comparison.cells[0].folder.resolve().parent.parent
    page = out / "tunings" / comparison.name / PAGE
    if not (page.is_file() and page.with_name(FILE).is_file()):
        return ""
    return quote(Path(os.path.relpath(page, folder.resolve())).as_posix())


def _figures(tuning: Tuning) -> dict[str, Any]:
    found = {"best": tuning_figures.best_curves(tuning)}
    for i, arm in enumerate(tuning.arms):
        found[f"curves-{i}"] = tuning_figures.learning_curves(tuning, arm)
        found[f"parallel-{i}"] = tuning_space.parallel_coordinates(tuning, arm)
        found[f"search-{i}"] = tuning_space.search_places(tuning, arm)
    return {name: figure for name, figure in found.items() if figure is not None}


def _arm(tuning: Tuning, arm: str, index: int) -> dict[str, Any]:
    metric, colors, spent = tuning.metric, tuning_marks.shade(tuning, arm), budget(tuning, arm)
    best = best_of_k(tuning, arm)
    unvalued = [trial for trial in tuning.by_arm[arm] if trial.value is None]
    return {
        "name": arm,
        "index": index,
        "recipe": _recipe(tuning, arm) if arm in tuning.best else "",
        "file": arm_name(arm) if recipe_file(tuning.folder, arm) else "",
        "scale": [metric.value(colors.low), metric.value(colors.high)] if colors else None,
        "rounds": [spent.rounds.get(name, 0) for name in ROUNDS],
        "states": state_phrase(spent.states),
        "lengths": f"{spent.lengths:.3g}",
        "seconds": _seconds(spent.seconds),
        "best": [metric.value(best[k - 1]) if k <= len(best) else "-" for k in _milestones(tuning)],
        "rows": [_row(tuning, trial) for trial in [*tuning.ranked(arm), *unvalued]],
        "tried": _tried(tuning, arm),
    }


def _recipe(tuning: Tuning, arm: str) -> str:
    """Return an arm's file with the chosen values; where there is none, the values as overrides."""
    overrides = [f"{key}={exact(value)}" for key, value in tuning.best[arm].values.items()]
    return recipe_file(tuning.folder, arm) or "\n".join(overrides)


def _milestones(tuning: Tuning) -> list[int]:
    most = max((len(best_of_k(tuning, arm)) for arm in tuning.arms), default=0)
    return sorted({k for k in MILESTONES if k <= most} | ({most} if most else set()))


def _tried(tuning: Tuning, arm: str) -> str:
    """Return how many different values of each key the arm has tried, in words."""
    trials = [trial for trial in tuning.by_arm[arm] if trial.round != "final"]
    counts = [
        f"{len({repr(trial.values.get(axis.key)) for trial in trials})} of {axis.key}"
        for axis in tuning.axes
    ]
    return f"{len(trials)} trials, different values: {joined(counts)}"


def _row(tuning: Tuning, trial: Trial) -> dict[str, Any]:
    ended = {
        "pruned": "pruned" if trial.pruned_at is None else f"pruned at step {trial.pruned_at:,}",
        "failed": f"failed: {trial.error}" if trial.error else "failed",
    }
    best = tuning.best.get(trial.arm)
    return {
        "id": tuning_marks.identifier(tuning, trial),
        "trial": trial,
        "state": ended.get(trial.state, trial.state),
        "value": "-" if trial.value is None else tuning.metric.value(trial.value),
        "chosen": best is not None and trial.number in best.trials,
        "seconds": _seconds(trial.seconds),
    }


def _seconds(value: float | None) -> str:
    if not value:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _json(figure: Any) -> str:
    """Return a figure as JSON that cannot end the script element it stands in."""
    content: str = figure.to_json()
    return content.replace("<", "\\u003c")
