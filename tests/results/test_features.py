"""What a report says of features that were computed once: per arm, in the page and the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from records import write_comparison
from rich.console import Console

from warmstart.results.comparison import Comparison
from warmstart.results.features import by_arm, phase_text, run_text, sentences
from warmstart.results.loading import load
from warmstart.results.page import render
from warmstart.results.terminal import show

BASE = [0.80, 0.82, 0.78]
NO_LAYER = "every layer trains"
EARLIER = "its frozen layers were trained in an earlier phase"


def phase(number: int = 0, **content: Any) -> dict[str, Any]:
    known = {"phase": number, "cached": True, "reason": None}
    return known | {"at": "fc", "shape": [64], "views": None} | content


def live(number: int = 0, reason: str = NO_LAYER) -> dict[str, Any]:
    return phase(number, cached=False, reason=reason, at=None, shape=None)


def compared(out: Path, said: dict[str, list[dict[str, Any]]]) -> Comparison:
    """Return a comparison whose arms' records say this of their features, at two sizes."""

    def change(content: dict[str, Any]) -> None:
        arm = {"full": "full", "linear_probe": "probe"}[content["choices"]["strategy"]]
        arm = "scratch" if content["choices"]["init"] == "scratch" else arm
        size = content["config"]["data"]["per_class"]
        content["features"] = said.get(f"{arm} {size}", said.get(arm, []))

    values = {(arm, size): BASE for arm in ("scratch", "probe", "full") for size in (1, 5)}
    (comparison,) = load(write_comparison(out, values, change=change))
    return comparison


def test_a_phase_in_words() -> None:
    assert phase_text(phase()) == "cached before fc, [64] per image"
    text = "cached before layer4.0, [256, 14, 14] per image, 8 views of each training image"
    assert phase_text(phase(at="layer4.0", shape=[256, 14, 14], views=8)) == text
    assert phase_text(live()) == f"not cached, because {NO_LAYER}"


@pytest.mark.parametrize(
    ("phases", "text"),
    [
        ([phase()], "cached before fc, [64] per image"),
        (
            [phase(), live(1)],
            f"phase 1: cached before fc, [64] per image; phase 2: not cached, because {NO_LAYER}",
        ),
        ([live(0), live(1)], f"not cached, because {NO_LAYER}"),
        (
            [phase(), live(1, EARLIER), live(2, EARLIER), live(3)],
            "phase 1: cached before fc, [64] per image; phases 2 to 3: not cached, because "
            f"{EARLIER}; phase 4: not cached, because {NO_LAYER}",
        ),
    ],
)
def test_a_run_in_words(phases: list[dict[str, Any]], text: str) -> None:
    assert run_text(phases) == text


def test_every_arm_says_it_in_page_and_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compared(tmp_path, {"scratch": [live()], "full": [live()], "probe": [phase()]})
    cached, not_cached = "cached before fc, [64] per image", f"not cached, because {NO_LAYER}"
    found = by_arm(comparison)
    assert found == {"scratch": not_cached, "probe": cached, "full": not_cached}
    page = render([comparison])
    assert "<h2>Frozen features</h2>" in page
    assert f'<th scope="row">probe</th><td class="left">{cached}</td>' in page
    assert f'<th scope="row">full</th><td class="left">{not_cached}</td>' in page
    show([comparison], Console())
    lines = capsys.readouterr().out.splitlines()
    assert f"features of scratch and full: {not_cached}" in lines
    assert f"features of probe: {cached}" in lines


def test_runs_of_an_arm_may_differ(tmp_path: Path) -> None:
    few = "the phase sees fewer images than one pass"
    comparison = compared(tmp_path, {"probe 1": [phase()], "probe 5": [live(0, few)]})
    assert by_arm(comparison) == {
        "probe": "in 3 of 6 runs cached before fc, [64] per image; "
        f"in 3 of 6 runs not cached, because {few}"
    }


def test_many_arms_share_a_line(tmp_path: Path) -> None:
    values = {(f"arm {number}", 5): BASE for number in range(6)}

    def change(content: dict[str, Any]) -> None:
        content["features"] = [phase()]

    (comparison,) = load(write_comparison(tmp_path, values, change=change, reference="arm 0"))
    text = "features of arm 0, arm 1, arm 2 and 3 more: cached before fc, [64] per image"
    assert sentences(comparison) == [text]


def test_swept_values_of_an_arm_stand_once_where_they_say_the_same(tmp_path: Path) -> None:
    values = {(f"{arm} optimizer.lr={lr}", 5): BASE for arm in ("one", "two") for lr in (0.1, 1.0)}

    def change(content: dict[str, Any]) -> None:
        content["features"] = [said.pop(0)]

    said = [*[phase()] * 9, *[live()] * 3]
    (comparison,) = load(write_comparison(tmp_path, values, change=change, reference="one"))
    assert by_arm(comparison) == {
        "one": "cached before fc, [64] per image",
        "two optimizer.lr=0.1": "cached before fc, [64] per image",
        "two optimizer.lr=1.0": f"not cached, because {NO_LAYER}",
    }


def test_old_records_and_failed_runs_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compared(tmp_path, {})
    assert by_arm(comparison) == {}
    assert "Frozen features" not in render([comparison])
    show([comparison], Console())
    assert "features of" not in capsys.readouterr().out
    (failed,) = load(write_comparison(tmp_path / "failed", {("scratch", 5): ["broke", None]}))
    assert by_arm(failed) == {}
