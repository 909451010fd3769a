"""The command center in real headless Chromium, its parts, and what leads to it."""

import json
import re

import pytest
from records import write_comparison
from selenium.webdriver import ActionChains

from browsers import count, opened
from tunings import ARMS, DECAY, RATE, STEPS, digits_tuning, trial, write_tuning
from warmstart.cli import main
from warmstart.results import loading, page
from warmstart.results.tuning import load
from warmstart.results.tuning_figures import learning_curves
from warmstart.results.tuning_marks import HIGH, LOW, Shade, shade
from warmstart.results.tuning_page import render, write
from warmstart.results.tuning_space import parallel_coordinates, search_places

HOSTILE = (
    "<img src=x onerror=hacked=1>",
    "</script><script>hacked=1</script>",
    "<b>bold</b> & 'quoted' \"twice\" {{ 7 * 7 }} %{x} \u2028 <!-- <script>",
)
# Plotly throttles hovers, so the page has its time.
HOVER = """
const [id, done] = arguments;
Plotly.Fx.hover(id, [{curveNumber: 0, pointNumber: 0}]); setTimeout(done, 300);
"""
WAIT = "setTimeout(arguments[0], 300)"
BRIGHT = """
const lines = document.querySelectorAll(`#${arguments[0]} .scatterlayer > .trace`);
return drawn[arguments[0]].data.filter((_, i) => getComputedStyle(lines[i]).opacity === "1")
  .map((line) => line.meta);
"""


def grey_to_vermilion(color):
    return tuple(map(int, re.findall(r"\d+", color)))


@pytest.mark.slow
def test_the_command_center_draws_everything_and_asks_for_nothing(browser, tmp_path):
    folder = digits_tuning(tmp_path)
    write(load(folder), folder / "report.html")
    console, requested = opened(browser, folder / "report.html")
    assert console == []
    assert [url for url in requested if not url.startswith("data:")] == [
        (folder / "report.html").as_uri()
    ]
    assert count(browser, ".plot") == count(browser, ".plot svg.main-svg:first-of-type") == 10
    assert count(browser, "#best .scatterlayer .js-line") == 3
    assert count(browser, "tr[data-trial]") == 90
    assert count(browser, "tr.chosen") == 9
    # Pointing at a trial in one plot shows it in all of its arm's, and in the table.
    dot = browser.find_element("css selector", "#search-1 .trace:nth-child(4) .point")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", dot)
    ActionChains(browser).move_to_element(dot).perform()
    browser.execute_async_script(WAIT)
    (trial_id,) = browser.execute_script(
        "return [...document.querySelectorAll('tr.on')].map(row => row.dataset.trial)"
    )
    assert trial_id.startswith("1-")
    for plot in ("curves-1", "parallel-1", "search-1"):
        assert browser.execute_script(BRIGHT, plot) == [trial_id]
    assert len(browser.execute_script(BRIGHT, "curves-0")) > 1
    heading = browser.find_element("tag name", "h2")
    ActionChains(browser).scroll_to_element(heading).move_to_element(heading).perform()
    browser.execute_async_script(WAIT)
    assert len(browser.execute_script(BRIGHT, "curves-1")) > 1
    assert count(browser, "tr.on") == 0


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone(browser, tmp_path):
    folder = digits_tuning(tmp_path)
    write(load(folder), folder / "report.html")
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(browser, folder / "report.html")
        width = browser.execute_script("return document.documentElement.scrollWidth")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width == 390


@pytest.mark.slow
def test_hostile_names_are_text(browser, tmp_path):
    one, two, three = HOSTILE
    space = {one: {"values": [two, three]}, three: {"low": 0.0, "high": 1.0, "log": False}}
    values = {one: two, three: 0.5}
    trials = [trial(arm, 0, values, 0.5) for arm in HOSTILE]
    trials.append(trial(two, 1, values, None, state="failed", error=one))
    best = {arm: {"values": values, "value": 0.5, "trials": [0]} for arm in HOSTILE}
    changes = {"space": space, "best": best, "command": two, "created": one}
    folder = write_tuning(tmp_path, trials, **changes)
    plan = folder / "tuning.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"name": two}))
    write(load(folder), folder / "report.html")
    console, requested = opened(browser, folder / "report.html")
    assert console == []
    assert [url for url in requested if not url.startswith(("data:", "file:///"))] == []
    assert browser.execute_script("return typeof hacked") == "undefined"
    assert count(browser, "img, main b, main script") == 0
    assert browser.find_element("tag name", "h1").text == two
    browser.execute_async_script(HOVER, "parallel-0")
    label = browser.find_element("css selector", "#parallel-0 .hovertext").text
    assert two in " ".join(label.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trials", "changes", "plots"),
    [
        pytest.param([], {"arms": {"full": {"steps": 10, "config": {}}}}, 0, id="just begun"),
        pytest.param([trial("full", 0, {RATE: 0.1}, None, state="failed")], {}, 0, id="failed"),
        pytest.param(
            [trial("full", i, {RATE: r}, 0.5) for i, r in enumerate((0.1, 0.2))],
            {"space": {RATE: {"values": [0.1, 0.2]}}},
            4,
            id="one key",
        ),
        pytest.param(
            [trial(f"arm {i}", 0, {"a": "x", "b": True, "c": 2}, 0.5) for i in range(8)],
            {
                "space": {k: {"values": v} for k, v in {"a": ["x"], "b": [True], "c": [2]}.items()},
                "metric": "val/loss",
                "sampler": "tpe",
            },
            25,
            id="many arms and words by loss",
        ),
    ],
)
def test_partial_and_odd_tunings_draw_too(browser, tmp_path, trials, changes, plots):
    folder = write_tuning(tmp_path, trials, **changes)
    write(load(folder), folder / "report.html")
    console, _ = opened(browser, folder / "report.html")
    assert console == []
    assert count(browser, ".plot svg.main-svg:first-of-type") == count(browser, ".plot") == plots


def test_the_colour_of_a_trial_is_its_value_within_the_search(tmp_path):
    pair = {RATE: 0.1, DECAY: 1e-4}
    values = (0.2, 0.5, 0.6, 0.7, 0.9)  # the lower quarter ends at 0.5
    trials = [trial("full", i, pair, value) for i, value in enumerate(values)]
    trials.append(trial("full", 5, pair, 0.99, round="final", steps=STEPS))
    tuning = load(write_tuning(tmp_path, trials))
    colors = shade(tuning, "full")
    assert colors == Shade(0.5, 0.9)
    drawn = {
        line.meta: grey_to_vermilion(line.line.color)
        for line in learning_curves(tuning, "full").data
    }
    assert drawn["0-0"] == drawn["0-1"] == LOW
    assert drawn["0-4"] == drawn["0-5"] == HIGH
    assert drawn["0-3"] == (176, 123, 83)  # halfway
    # A failed trial has the dullest one, and of a loss the least has the brightest.
    assert grey_to_vermilion(colors.color(None)) == LOW
    assert grey_to_vermilion(Shade(0.9, 0.5).color(0.5)) == HIGH


def test_curves_stand_at_their_steps_and_a_pruned_one_ends_in_a_cross(tmp_path):
    pair = {RATE: 0.1, DECAY: 1e-4}
    whole = trial("full", 0, pair, 0.9)
    cut = trial("full", 1, pair, 0.6, state="pruned", pruned_at=40)
    tuning = load(write_tuning(tmp_path, [whole, cut]))
    second, first = learning_curves(tuning, "full").data
    assert list(first.x) == whole["curve"]["step"]
    assert list(first.y) == pytest.approx([100 * v for v in whole["curve"]["accuracy"]], abs=1e-3)
    assert first.mode == "lines"
    assert (list(second.x), second.marker.symbol) == ([20, 40], "x-thin")
    assert list(second.marker.size) == [0, 7]
    assert "pruned at step 40" in second.hovertemplate
    assert "optimizer.lr=0.1<br>optimizer.weight_decay=0.0001" in first.hovertemplate


def test_parallel_coordinates_and_the_searched_places_by_hand(tmp_path):
    # Ranges of four decades: 0.01 in 0.0001 to 1 is halfway, 1e-5 in 1e-6 to 0.01 a quarter.
    trials = [
        trial("full", 0, {RATE: 0.01, DECAY: 1e-5}, 0.9),
        trial("full", 1, {RATE: 1.0, DECAY: 1e-6}, 0.5),
        trial("full", 2, {RATE: 1.0, DECAY: 1e-2}, 0.7),
        trial("full", 3, {RATE: 0.1, DECAY: 1e-4}, None, state="failed"),
        trial("full", 4, {RATE: 0.01, DECAY: 1e-5}, 0.95, round="final", steps=STEPS),
    ]
    tuning = load(write_tuning(tmp_path, trials))
    parallel = parallel_coordinates(tuning, "full")
    lines = {line.meta: list(line.y) for line in parallel.data}
    assert lines == {
        "0-0": pytest.approx([0.5, 0.25, 1.0]),
        "0-1": pytest.approx([1.0, 0.0, 0.0]),
        "0-2": pytest.approx([1.0, 1.0, 0.5]),
    }
    labels = [(note.x, note.text) for note in parallel.layout.annotations]
    assert labels[:5] == [(0, "0.0001"), (0, "0.001"), (0, "0.01"), (0, "0.1"), (0, "1")]
    assert [text for x, text in labels if x == 2] == ["50.0", "60.0", "70.0", "80.0", "90.0"]
    places = search_places(tuning, "full")
    dots = {dot.meta: (*dot.x, *dot.y, dot.marker.symbol) for dot in places.data}
    assert dots["0-0"] == (pytest.approx(0.5), pytest.approx(0.25), "circle")
    assert dots["0-3"] == (pytest.approx(0.75), pytest.approx(0.5), "x-thin")
    assert dots["0-4"][2] == "star"
    # Three different rates and four different decays were tried.
    across = [mark.x0 for mark in places.layout.shapes if mark.x0 == mark.x1]
    up = [mark.y0 for mark in places.layout.shapes if mark.y0 == mark.y1]
    assert across == pytest.approx([0.5, 0.75, 1.0])
    assert up == pytest.approx([0.0, 0.25, 0.5, 1.0])


def test_one_key_is_drawn_against_the_value(tmp_path):
    trials = [trial("full", 0, {RATE: 0.01}, 0.9), trial("full", 1, {RATE: 1.0}, 0.5)]
    space = {RATE: {"low": 0.0001, "high": 1.0, "log": True}}
    figure = search_places(load(write_tuning(tmp_path, trials, space=space)), "full")
    assert {(*dot.x, *dot.y) for dot in figure.data} == {(0.5, 90.0), (1.0, 50.0)}


def test_a_recipe_is_the_arm_that_was_written_or_exact_overrides(tmp_path):
    values = {RATE: 0.050646780074893684, "scheduler": "cosine"}
    best = {arm: {"values": values, "value": 0.9, "trials": [0]} for arm in ("a/full", "b: c")}
    folder = write_tuning(tmp_path, [trial(arm, 0, values, 0.9) for arm in best], best=best)
    file = folder / "configs" / "arm" / "tuned" / "b__c.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\noptimizer: {lr: 0.05}\n")
    text = render(load(folder))
    overrides, written = re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)
    assert overrides == "optimizer.lr=0.050646780074893684\nscheduler=cosine"
    assert written == "# @package _global_\noptimizer: {lr: 0.05}\n"
    assert f"<code>--config-dir {folder / 'configs'}</code>" in text
    assert re.findall(r"<code>(arm=.*?)</code>", text) == ["arm=tuned/b__c"]


def test_the_page_says_budgets_problems_and_every_trial(tmp_path):
    text = render(load(digits_tuning(tmp_path)))
    assert "Random search over optimizer.lr and optimizer.weight_decay, 3 arms,\n90 trials" in text
    assert text.index("Before you believe the recipes") < text.index('<div class="verdict">')
    assert text.count("24 trials, different values: 24 of optimizer.lr and 24 of") == len(ARMS)
    row = next(line for line in text.splitlines() if 'data-trial="0-24"' in line)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert [*cells[:2], *cells[5:9]] == ["24", "final", "101", "400", "&ndash;", "finished"]
    assert "TPE draws" not in text


def test_trials_that_are_not_independent_are_said(tmp_path):
    text = render(load(digits_tuning(tmp_path, sampler="tpe")))
    assert "TPE draws its trials from where earlier ones were good" in text


def test_the_report_command_makes_the_page_again(tmp_path, capsys):
    folder = digits_tuning(tmp_path)
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "tuning of digits" in said
    assert said.splitlines()[-1] == f"report: {folder / 'report.html'}"
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main(["report", str(folder), "--out", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").is_file()


def test_a_tuning_does_not_share_a_page(tmp_path, capsys):
    folder = digits_tuning(tmp_path)
    assert main(["report", str(tmp_path), str(folder)]) == 2
    assert (
        "is a tuning, which has a page of its own; give it to warmstart report alone"
        in " ".join(capsys.readouterr().err.split())
    )


def test_the_report_of_a_comparison_leads_to_its_tuning(tmp_path):
    values = {("scratch", 5): [0.8, 0.9], ("full", 5): [0.7, 0.8]}
    comparison = write_comparison(tmp_path, values, name="two words")
    before = page.render(loading.load(comparison), folder=comparison)
    assert "How its arms were tuned" not in before
    folder = digits_tuning(tmp_path, name="two words")
    assert page.render(loading.load(comparison), folder=comparison) == before
    write(load(folder), folder / "report.html")
    for place, address in (
        (comparison, "../../tunings/two%20words/report.html"),
        (tmp_path, "tunings/two%20words/report.html"),
    ):
        page.write(loading.load(comparison), place / "report.html")
        text = (place / "report.html").read_text(encoding="utf-8")
        assert f'<a href="{address}">How its arms were tuned' in text
