"""What a run is called, for people and dashboards."""

from __future__ import annotations

from typing import Any

from warmstart.results.metric import Size, size_label, size_phrase, training_size
from warmstart.run.identity import identity
from warmstart.run.plan import Run


def title(run: Run) -> str:
    """Return one line that names the run."""
    size, seed, fold = _place(run)
    part = "" if fold is None else f", fold {fold}"
    return f"{_arm(run)}, {size_phrase(size)}, seed {seed}{part}"


def labels(run: Run) -> dict[str, Any]:
    """Return how a dashboard groups and finds the run."""
    arm, (images, seed, fold) = _arm(run), _place(run)
    size = size_label(images)
    folds = [] if fold is None else [f"fold:{fold}"]
    comparison = run.config["comparison"] or {}
    return {
        "group": comparison.get("name"),
        "tags": [f"arm:{arm}"[:64], f"size:{size}", f"seed:{seed}", *folds],
        "config": {**identity(run.config), "arm": arm, "size": size, "key": run.key},
    }


def _arm(run: Run) -> str:
    choices = run.config["choices"]
    return str(run.config["arm"] or f"{choices['init']}/{choices['strategy']}")


def _place(run: Run) -> tuple[Size, int, int | None]:
    """Return training size, seed and fold."""
    data = run.config["data"]
    size = training_size(data.get("per_class"), data.get("fraction"))
    return size, run.config["seed"], data.get("fold")
