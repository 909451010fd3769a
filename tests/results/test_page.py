"""The report in real headless Chromium: it draws, asks for nothing, and executes no name."""

import json
import re

import pytest
from records import digits_values, write_comparison

from browsers import count, opened
from warmstart.results.loading import load
from warmstart.results.page import render, write

# Each would set window.hacked, or draw an element, if it were ever taken for markup.
HOSTILE = (
    "<img src=x onerror=hacked=1>",
    "</script><script>hacked=1</script>",
    "<b>bold</b> & 'quoted' \"twice\" {{ 7 * 7 }} %{x} \u2028 <!-- <script>",
)
# Plotly throttles hovers, so each step waits.
HOVER = """
const [curve, done] = arguments, wait = (then) => setTimeout(then, 150), id = "c0-efficiency";
Plotly.Fx.unhover(id);
wait(() => { Plotly.Fx.hover(id, [{curveNumber: curve, pointNumber: 0}]); wait(done); });
"""
BASE = [0.80, 0.82, 0.78, 0.81, 0.79]


@pytest.mark.slow
def test_the_report_draws_everything_and_asks_for_nothing(browser, tmp_path):
    write_comparison(tmp_path, digits_values(), predictions=True)
    path = tmp_path / "report.html"
    write(load(tmp_path), path)
    console, requested = opened(browser, path)
    assert console == []
    assert [url for url in requested if not url.startswith("data:")] == [path.as_uri()]
    # One plot over sizes, one of times, and for each of six sizes curves over steps and seconds.
    assert count(browser, ".plot") == count(browser, ".plot svg.main-svg:first-of-type") == 14
    assert count(browser, "#c0-efficiency .errorbars path.yerror") == 18
    assert count(browser, "#c0-efficiency .scatterlayer .js-line") == 3
    assert count(browser, ".differences svg.forest") == 12
    titles = browser.execute_script(
        "return [...document.querySelectorAll('#c0-efficiency .infolayer text')]"
        ".map(node => node.textContent)"
    )
    assert {"Test accuracy (%)", "Training images per class"} <= set(titles)
    assert "alert" not in browser.find_element("tag name", "main").get_attribute("innerHTML")


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone(browser, tmp_path):
    def change(content):
        content["data"] = {"skipped": {"a" * 200: "truncated"}, "warnings": ["b" * 200]}
        content["test_opened"] = 2

    write_comparison(tmp_path, digits_values(), change=change)
    write(load(tmp_path), tmp_path / "report.html")
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(browser, tmp_path / "report.html")
        width = browser.execute_script("return document.documentElement.scrollWidth")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width == 390


@pytest.mark.slow
def test_hostile_names_are_text(browser, tmp_path):
    def change(content):
        content["config"][HOSTILE[0]] = HOSTILE[2] + content["choices"]["init"]
        content["versions"][HOSTILE[1]] = HOSTILE[0]
        content["environment"] |= {HOSTILE[2]: HOSTILE[0], "command": HOSTILE[1]}
        content["data"] = {"skipped": {HOSTILE[0]: HOSTILE[1]}, "dropped": {HOSTILE[1]: HOSTILE[2]}}
        content["data"]["warnings"] = list(HOSTILE)
        content["input"] = {HOSTILE[1]: content["key"]}

    values = {(name, size): BASE for name in (*HOSTILE, "scratch", "full") for size in (1, 2)}
    values["full", 2] = [*BASE[:4], HOSTILE[1]]
    write_comparison(tmp_path, values, name="x", reference=HOSTILE[0], change=change)
    plan = tmp_path / "comparisons" / "x" / "cells.json"
    content = json.loads(plan.read_text())
    plan.write_text(json.dumps(content | {"name": HOSTILE[1], "command": HOSTILE[0]}))
    write(load(tmp_path), tmp_path / "report.html")
    console, requested = opened(browser, tmp_path / "report.html")
    assert console == []
    assert [url for url in requested if not url.startswith(("data:", "file:///"))] == []
    assert browser.execute_script("return typeof hacked") == "undefined"
    assert count(browser, "img, main b, main script") == 0
    assert count(browser, ".plot svg.main-svg:first-of-type") == 6
    shown = browser.find_element("tag name", "body").text
    assert browser.find_element("tag name", "h1").text == HOSTILE[1]
    assert HOSTILE[0] in shown
    assert "{{ 7 * 7 }}" in shown
    # Plotly's own labels: the name that a pointer over a marker shows.
    for number, name in enumerate(HOSTILE):
        browser.execute_async_script(HOVER, 2 * number + 1)
        label = browser.find_element("css selector", "#c0-efficiency .hovertext").text
        assert " ".join(label.split()).startswith(" ".join(name.split()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "plots"),
    [
        pytest.param({("scratch", 1): [None] * 2, ("full", 1): [None, "broke"]}, 0, id="nothing"),
        pytest.param({("scratch", 1): [0.5], ("full", 1): [None]}, 4, id="one run"),
        pytest.param({("scratch", None): BASE, ("full", None): BASE}, 4, id="all images"),
        pytest.param({(f"arm {i}", 5): BASE[:2] for i in range(14)}, 4, id="many arms"),
        pytest.param({(a, 5): [BASE] for a in ("scratch", "full")}, 4, id="folds of one seed"),
        pytest.param({(a, 5): [BASE] * 3 for a in ("scratch", "full")}, 4, id="folds of seeds"),
        pytest.param({(a, s): BASE for a in "ab" for s in (0.1, 1.0, None)}, 8, id="shares"),
    ],
)
def test_partial_and_odd_reports_draw_too(browser, tmp_path, values, plots):
    write_comparison(tmp_path, values)
    write(load(tmp_path), tmp_path / "report.html")
    console, _ = opened(browser, tmp_path / "report.html")
    assert console == []
    assert count(browser, ".plot svg.main-svg:first-of-type") == count(browser, ".plot") == plots


def test_failed_and_missing_cells_come_before_the_verdict(tmp_path):
    values = {("scratch", 5): BASE, ("full", 5): [*BASE[:3], None, "the loss became NaN"]}
    write_comparison(tmp_path, values)
    text = render(load(tmp_path))
    assert "2 of 10 runs failed or are missing." in text
    failed = text.index("full, 5 per class, seed 4: the loss became NaN")
    missing = text.index("full, 5 per class, seed 3</li>")
    assert text.index("<h1>") < failed < missing < text.index('<div class="verdict">')


def test_every_run_has_its_command_and_says_how_often_test_was_opened(tmp_path):
    write_comparison(tmp_path, {("scratch", 5): BASE, ("full", 5): BASE})
    text = render(load(tmp_path))
    assert text.count("<code>warmstart train arm=digits/") == 10
    row = next(
        line for line in text.splitlines() if "arm=digits/full data.per_class=5 seed=2" in line
    )
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[:7] == ["full", "5", "2", "finished", "78.0", "1", "2.04"]


def test_a_run_that_stopped_early_is_said(tmp_path):
    def change(content):
        if content["seed"] == 1:
            content["stopped_at"] = 1260

    write_comparison(tmp_path, {("scratch", 5): BASE}, change=change)
    found = re.findall(r'<td class="left">(finished[^<]*)</td>', render(load(tmp_path)))
    assert found == ["finished", "finished, stopped early at step 1,260", *["finished"] * 3]


def test_an_unpaired_difference_is_said_loud(tmp_path):
    def change(content):
        content["digests"]["order"] = content["key"]

    write_comparison(tmp_path, {("scratch", 5): BASE, ("full", 5): BASE}, change=change)
    text = render(load(tmp_path))
    assert '<span class="loud">not paired, because the batch order differs</span>' in text
    assert "NOT PAIRED (1 of 1), because the batch order differs." in text
    assert "Welch" in text


def test_other_versions_within_a_comparison_are_said(tmp_path):
    def change(content):
        content["versions"]["torch"] = "2.14.0" if content["seed"] else "2.15.0"

    write_comparison(tmp_path, {("scratch", 5): BASE}, change=change)
    text = render(load(tmp_path))
    assert "different versions of torch: 2.15.0, 2.14.0." in text


def test_two_comparisons_share_a_page_and_one_library(tmp_path):
    for name in ("one", "two"):
        write_comparison(tmp_path, {("scratch", 5): BASE}, name=name)
    text = render(load(tmp_path))
    assert [text.count(f"<h1>{name}</h1>") for name in ("one", "two")] == [1, 1]
    assert text.count("plotly.js v") == 1
    assert {'id="c0-efficiency"', 'id="c1-efficiency"'} <= set(re.findall(r'id="c\d-eff\w+"', text))


def test_the_page_is_replaced_atomically(tmp_path):
    write_comparison(tmp_path, {("scratch", 5): BASE})
    path = tmp_path / "report.html"
    path.write_text("old")
    write(load(tmp_path), path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
