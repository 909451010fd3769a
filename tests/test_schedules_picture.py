"""The picture of the schedules in the docs is made from the code, and shows every option."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Return the script as a module that writes into `tmp_path`."""
    monkeypatch.setattr(sys, "argv", ["schedules.py", str(tmp_path / "schedules.png")])
    spec = importlib.util.spec_from_file_location("schedules", ROOT / "scripts" / "schedules.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    plt.close("all")


def test_every_option_is_drawn(script, tmp_path):
    assert script.main() == 0
    assert plt.imread(tmp_path / "schedules.png").shape[:2] == (620, 860)
    panels = {axes.get_title(): axes.lines for axes in plt.gcf().axes}
    options = {path.stem for path in (ROOT / "conf" / "scheduler").glob("*.yaml")}
    assert {f"scheduler={name}" for name in options} <= panels.keys()
    # The default rate of the default optimizer, by hand: half of it in the middle of a cosine.
    (cosine,) = (line for line in panels["scheduler=cosine"] if line.get_linestyle() == "-")
    assert cosine.get_ydata()[200] == pytest.approx(0.0025)
    assert len(cosine.get_ydata()) == 400


def test_an_option_that_is_missing_is_named(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "OPTIONS", script.OPTIONS[1:])
    assert script.main() == 1
    assert "differ in constant" in capsys.readouterr().err
