"""The best candidate of each arm, where a comparison names no reference."""

from __future__ import annotations

import pytest
from records import write_comparison

from warmstart.results.loading import load
from warmstart.results.record import Record
from warmstart.results.selection import labels, ranked, sentences
from warmstart.results.verdict import verdict

EMA = {"_target_": "ema", "decay": 0.9}
RATES = ("0.01", "0.1", "1")


def candidates(out, means, **options):
    """Return a comparison of candidates: means by (arm, rate), the same at two sizes and seeds."""
    values = {
        (f"{arm} optimizer.lr={rate}", size): [mean - 0.1 * (size == 1), mean + 0.1 * (size == 1)]
        for (arm, rate), mean in means.items()
        for size in (1, 10)
    }
    (found,) = load(write_comparison(out, values, reference="", **options))
    return found


def test_candidates_are_ranked_by_the_mean_over_seeds_and_sizes(tmp_path):
    means = {("scratch", r): m for r, m in zip(RATES, (0.5, 0.7, 0.6), strict=True)}
    means |= {("full", r): m for r, m in zip(RATES, (0.8, 0.75, 0.6), strict=True)}
    found = ranked(candidates(tmp_path, means))
    assert {arm: [c.settings["optimizer.lr"] for c in cs] for arm, cs in found.items()} == {
        "scratch": ["0.1", "1", "0.01"],
        "full": ["0.01", "0.1", "1"],
    }
    assert [c.mean for c in found["scratch"]] == pytest.approx([0.7, 0.6, 0.5])


def test_the_best_of_a_loss_is_the_lowest(tmp_path):
    means = {("scratch", r): m for r, m in zip(RATES, (0.5, 0.7, 0.6), strict=True)}
    comparison = candidates(tmp_path, means)
    lowest = ranked(candidates(tmp_path / "loss", means, metric="test/loss"))
    assert comparison.metric.higher_is_better
    # The builder derives the loss from the accuracy; whatever it is, the order must be ascending.
    losses = [c.mean for c in lowest["scratch"]]
    assert losses == sorted(losses)
    assert len(losses) == 3


def test_an_unfinished_candidate_is_not_ranked(tmp_path):
    values = {
        ("scratch optimizer.lr=0.1", 1): [0.9, None],
        ("scratch optimizer.lr=0.2", 1): [0.5, 0.6],
    }
    (comparison,) = load(write_comparison(tmp_path, values, reference=""))
    assert [c.label for c in ranked(comparison)["scratch"]] == ["optimizer.lr=0.2"]


def test_the_verdict_names_the_best_the_next_and_an_edge(tmp_path):
    means = {("scratch", r): m for r, m in zip(RATES, (0.5, 0.7, 0.6), strict=True)}
    means |= {("full", r): m for r, m in zip(RATES, (0.8, 0.75, 0.6), strict=True)}
    comparison = candidates(tmp_path, means)
    scratch, full = sentences(comparison)
    assert scratch == (
        "scratch: the best of 3 is optimizer.lr=0.1, with a mean test accuracy of 70.0 %; "
        "next is optimizer.lr=1 with 60.0."
    )
    assert full.endswith("optimizer.lr=0.01 lies at the edge of its range.")
    assert verdict(comparison).startswith(scratch)


def run(seed=0, mean=0.5, average="none", **config):
    """Return a run's record; what is neutral is no part of its config."""
    choices = {"init": "scratch", "strategy": "full", "average": average, "logger": str(seed)}
    content = {
        "seed": seed,
        "steps": 10,
        **({"average": EMA} if average == "ema" else {}),
        **config,
    }
    key = f"key{seed}{mean}"
    return Record(key, "finished", seed, content, choices, input={"mean": [mean]})


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run(0), run(1, mean=0.4)], ["scratch/full", "scratch/full"]),
        (
            # The seeds of one arm stay one arm, though its images have a mean of their own.
            [run(0), run(1, mean=0.4), run(0, average="ema"), run(1, mean=0.4, average="ema")],
            ["scratch/full average=none"] * 2 + ["scratch/full average=ema"] * 2,
        ),
        (
            # What all runs with the option have says nothing more.
            [run(), run(average="ema"), run(average="ema", average_steps=3)],
            [
                "scratch/full average=none",
                "scratch/full average=ema",
                "scratch/full average=ema average_steps=3",
            ],
        ),
        (
            [run(), run(early_stopping={"patience": 3})],
            ["scratch/full default", "scratch/full early_stopping.patience=3"],
        ),
        (
            [run(mean=0.5), run(mean=0.4)],
            ["scratch/full input.mean=[0.5]", "scratch/full input.mean=[0.4]"],
        ),
    ],
)
def test_runs_that_nobody_planned_are_told_apart_in_the_words_of_the_command(runs, expected):
    assert labels(runs, [r.seed for r in runs]) == expected
