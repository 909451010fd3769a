"""What the looks say in words, and how the report sums it up over runs."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import write_comparison

from browsers import count, opened
from warmstart.results.advice import by_arm, most_frequent
from warmstart.results.loading import load
from warmstart.results.page import render, write
from warmstart.results.terminal import show
from warmstart.results.watching import flags

STEPS = [1, 2, 4, 10, 20, 30, 40]


def curves(**columns):
    """Return the curves of healthy looks at the groups a and b, but for some columns."""
    watch = {"step": STEPS}
    for group in ("a", "b"):
        watch |= {
            f"update_ratio/{group}": [0.02, 0.01, 0.003, 0.002, 0.001, 0.0005, 1e-6],
            f"gradient_norm/{group}": [1.0, 1.2, 1.5, 0.9, 0.3, 0.1, 0.01],
            f"distance/{group}": [0.01, 0.02, 0.04, 0.1, 0.2, 0.25, 0.25],
            f"dead_relus/{group}": [0.0, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2],
            f"lr/{group}": [0.1] * 7,
        }
    watch |= {f"{name.partition('_of_')[0]}/{name[-1]}": values for name, values in columns.items()}
    return {"train": {}, "val": {}, "watch": watch}


def test_healthy_looks_give_no_flag():
    assert flags(curves()) == []


@given(st.lists(st.floats(0.7, 1.4), min_size=7, max_size=7))
def test_noise_on_healthy_looks_gives_no_flag(noise):
    healthy = curves()["watch"]
    noisy = {
        name: [min(value * factor, 0.4) for value, factor in zip(values, noise, strict=True)]
        for name, values in healthy.items()
        if name != "step"
    }
    assert flags({"watch": {"step": STEPS, **noisy}}) == []


def test_a_new_head_may_move_ten_times_as_much():
    def head(*ratios):
        return flags({"watch": {"step": STEPS, "update_ratio/head": list(ratios)}})

    assert head(0.2, 0.1, 0.04, 0.03, 0.03, 0.02, 0.01) == []
    assert head(0.2, 0.12, 0.15, 0.1, 0.05, 0.02, 0.01) == [
        "updates of group head are 100x too large (ratio 0.1 to the weights at step 10; about "
        "0.001 is usual): lower its rate"
    ]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        pytest.param(
            {"update_ratio_of_a": [2.9, 0.2, 0.03, 0.003, 0.002, 0.002, 0.002]},
            "updates of group a replaced its weights at the start (ratio 2.9 at step 1; about "
            "0.001 is usual): lower its rate, or add scheduler.warmup_steps",
            id="replaced",
        ),
        pytest.param(
            {"update_ratio_of_a": [0.01, 0.02, 0.03, 0.03, 0.03, 0.04, 0.05]},
            "updates of group a are 30x too large (ratio 0.03 to the weights at step 10; about "
            "0.001 is usual): lower its rate",
            id="too large",
        ),
        pytest.param(
            {"update_ratio_of_a": [0.5] * 7, "update_ratio_of_b": [0.6] * 7},
            "updates of group b (and 1 other group) are 600x too large (ratio 0.6 to the weights "
            "at step 10; about 0.001 is usual): lower its rate",
            id="both too large",
        ),
        pytest.param(
            {"update_ratio_of_b": [1e-7, 2e-7, 5e-6, 2e-7, 1e-7, 1e-7, 0.0]},
            "updates of group b are 200x too small (ratio 5e-06 to the weights at most, at step 4; "
            "about 0.001 is usual): raise its rate, or freeze it",
            id="too small",
        ),
        pytest.param(
            {"update_ratio_of_b": [1e-8] * 7, "distance_of_b": [1e-8] * 7},
            "group b has not moved by step 40, though it trains: its rate is too small, or no "
            "gradient reaches it",
            id="not moved",
        ),
        pytest.param(
            {"dead_relus_of_a": [0.1, 0.2, 0.3, 0.4, 0.55, 0.6, 0.62]},
            "62 % of the ReLUs of group a gave 0 for a whole batch at step 40: lower its rate, or "
            "use another initialization",
            id="dead",
        ),
        pytest.param(
            {"gradient_norm_of_a": [1.0, 1.0, 2.0, 4.0, 300.0, 4.0, 4.0]},
            "gradients of group a exploded (norm 3e+02 at step 20, and 2 in the first steps): "
            "lower its rate, or clip them",
            id="exploded",
        ),
    ],
)
def test_each_flag(columns, sentence):
    assert flags(curves(**columns)) == [sentence]


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"update_ratio_of_a": [None] * 3 + [0.1] * 4}, id="too few looks"),
        pytest.param({"dead_relus_of_a": [0.9] * 5 + [0.4, 0.6]}, id="alive again"),
        pytest.param({"update_ratio_of_a": [0.9, 0.9, 0.9, 1e-3, 1e-3, 1e-3, 0.0]}, id="a start"),
        # Weights of 0, as of init.head=zero, have no ratio before they have moved.
        pytest.param({"update_ratio_of_a": [None, 1.6, 0.9, 1e-3, 1e-3, 1e-3, 0.0]}, id="from 0"),
        pytest.param({"gradient_norm_of_a": [300.0, 1, 1, 1, 1, 1, 1]}, id="a hard start"),
    ],
)
def test_what_passes_is_not_flagged(columns):
    assert flags(curves(**columns)) == []


def test_without_looks_there_is_nothing_to_say():
    assert flags({"train": {}, "val": {}}) == flags({"watch": {}}) == []


BAD = {"update_ratio_of_a": [0.03] * 7}


def planted(content):
    """Make the updates of two runs of scratch too large, of different groups."""
    bad = content["config"]["optimizer"]["lr"] == 0.05 and content["seed"] in (1, 3)
    group = "a" if content["seed"] == 1 else "b"
    content["curves"] |= curves(**({f"update_ratio_of_{group}": [0.03] * 7} if bad else {}))
    content["groups"] = [{"group": name, "parameters": 1, "buffers": 0} for name in "ab"]


@pytest.fixture
def comparison(tmp_path):
    values = {(arm, size): [0.8] * 5 for arm in ("scratch", "full") for size in (5, 10)}
    write_comparison(tmp_path, values, change=planted)
    return load(tmp_path)[0]


SUM = (
    "4 of 10 runs: updates of group a are 30x too large (ratio 0.03 to the weights at step 10; "
    "about 0.001 is usual): lower its rate"
)


def test_sentences_are_summed_over_the_runs_of_an_arm(comparison):
    assert by_arm(comparison) == {"scratch": [SUM]}


def test_a_terminal_shows_few_lines(comparison):
    assert most_frequent(comparison, 3) == [f"scratch, {SUM}"]
    cells = tuple(
        dataclasses.replace(cell, sentences=("one", "two", "three", "four"))
        for cell in comparison.cells
    )
    many = dataclasses.replace(comparison, cells=cells)
    assert most_frequent(many, 3) == [
        "scratch, all 10 runs: one",
        "full, all 10 runs: one",
        "6 more on the page",
    ]


def test_the_terminal_says_it(comparison, capsys):
    show([comparison])
    assert f"to look at: scratch, {SUM}" in capsys.readouterr().out


def test_failed_runs_are_looked_at_too(tmp_path):
    def change(content):
        content["curves"] = curves(**BAD)

    write_comparison(tmp_path, {("scratch", 5): ["the loss broke"]}, change=change)
    (said,) = by_arm(load(tmp_path)[0])["scratch"]
    assert said.startswith("the run: updates of group a are 30x too large")


def test_what_no_report_draws_is_not_kept(comparison):
    kept = comparison.cells[0].record.curves["watch"]
    assert set(kept) == {"step", "update_ratio/a", "update_ratio/b"}


def test_the_page_lists_it_per_arm(comparison):
    text = render([comparison])
    part = text[text.index("What to look at") :]
    assert SUM in part
    assert 'id="c0-watch-0"' in part
    assert "medians over seeds" in part


def test_a_page_without_looks_has_no_such_part(tmp_path):
    write_comparison(tmp_path, {("scratch", 5): [0.8] * 5})
    assert "What to look at" not in render(load(tmp_path))


@pytest.mark.slow
def test_the_page_draws_update_ratios(browser, comparison, tmp_path):
    write([comparison], tmp_path / "report.html")
    console, _ = opened(browser, tmp_path / "report.html")
    assert console == []
    # Two groups of each arm; the dotted line is a shape.
    assert count(browser, "#c0-watch-0 .scatterlayer .js-line") == 2
    assert count(browser, "#c0-watch-1 .scatterlayer .js-line") == 2
    names = browser.execute_script(
        "return [...document.querySelectorAll('#c0-watch-0 .legendtext')].map(n => n.textContent)"
    )
    assert names == ["a", "b"]


def test_the_order_of_groups_is_that_of_the_model(tmp_path):
    def change(content):
        planted(content)
        watch = content["curves"]["watch"]
        content["curves"]["watch"] = {"step": STEPS} | dict(reversed(watch.items()))

    write_comparison(tmp_path, {("scratch", 5): [0.8] * 2}, change=change)
    text = render(load(tmp_path))
    figures = json.loads(text.split('id="figures">')[1].split("</script>")[0])
    assert [trace["name"] for trace in figures["c0-watch-0"]["data"]] == ["a", "b"]
