"""The schedule of a run as its config asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

import warmstart
from warmstart.run.identity import identity
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare

LP_FT = ["strategy=lp_ft", "strategy.batchnorm=train", "strategy.probe_until=0.25"]
LATER = {
    "optimizer": "decoupled",
    "scheduler": "at_epochs",
    "strategy": "restart_schedule",
}


def run_of(out: Path, *words: str) -> Run:
    base = ["data.per_class=8", "batch_size=16", "steps=20", "trainer=cpu"]
    return prepare(warmstart.compose([*base, *words, f"out={out}"]))


def factors(run: Run) -> list[float]:
    return [run.schedule(step) for step in range(run.steps)]


def test_epochs_are_passes_over_the_training_images(tmp_path: Path) -> None:
    # 80 images in batches of 16: five steps.
    words = ["scheduler=step", "scheduler.at=null", "scheduler.at_epochs=[1,2.5]"]
    expected = [1.0] * 5 + [0.1] * 8 + [0.01] * 7
    assert factors(run_of(tmp_path, *words)) == pytest.approx(expected)


def test_the_schedule_begins_anew_at_the_second_phase(tmp_path: Path) -> None:
    words = [*LP_FT, "scheduler=linear"]
    assert factors(run_of(tmp_path, *words))[5] == 0.75
    anew = run_of(tmp_path, *words, "strategy.restart_schedule=true")
    # Five steps, then fifteen.
    expected = [1 - k / 5 for k in range(5)] + [1 - k / 15 for k in range(15)]
    assert factors(anew) == pytest.approx(expected)
    assert anew.key != run_of(tmp_path, *words).key


def test_a_run_without_steps_has_nothing_to_restart(tmp_path: Path) -> None:
    run = run_of(tmp_path, *LP_FT, "strategy.restart_schedule=true", "steps=0")
    assert run.schedule(0) == 1


def test_options_that_came_later_leave_the_keys_of_other_runs_alone(tmp_path: Path) -> None:
    config = run_of(tmp_path, *LP_FT, "scheduler=step").config
    known = identity(config)
    for group, key in LATER.items():
        assert key in config[group]
        assert key not in known[group]
    given = ["strategy.restart_schedule=true", "optimizer.decoupled=true"]
    changed = identity(run_of(tmp_path, *LP_FT, *given).config)
    assert changed["strategy"]["restart_schedule"] is changed["optimizer"]["decoupled"] is True
