"""Resume is exact for every recipe: a pairwise-covering set of them, stopped twice on the way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import warmstart
from killed import Killed
from warmstart import stopping
from warmstart.run.execution import execute
from warmstart.run.preparing import prepare

# Each value is a list of overrides; every two values of two factors meet in some recipe.
FACTORS: dict[str, list[str]] = {
    "optimizer": [
        "optimizer=sgd optimizer.lr=0.02",
        "optimizer=nesterov optimizer.lr=0.02",
        "optimizer=adagrad optimizer.lr=0.01",
        "optimizer=rmsprop optimizer.lr=0.001",
        "optimizer=adam optimizer.lr=0.002",
        "optimizer=adamw optimizer.lr=0.002",
    ],
    "scheduler": [
        "scheduler=constant scheduler.warmup_steps=2",
        "scheduler=step",
        "scheduler=cosine scheduler.warmup_steps=2",
        "scheduler=linear",
        "scheduler=inverse_sqrt",
        "scheduler=one_cycle",
        "scheduler=sgdr scheduler.cycles=2",
    ],
    "phases": [
        "strategy=full strategy.group_decay=0.7",
        "strategy=gradual strategy.batchnorm=train",
        "strategy=lp_ft strategy.batchnorm=train strategy.restart_schedule=true",
    ],
    "decay": [
        "optimizer.weight_decay=0",
        "optimizer.weight_decay=0.01",
        "optimizer.weight_decay=0.01 optimizer.decay_all=true",
        "optimizer.weight_decay=0 regularization=elastic_net",
    ],
    "accumulation": ["accumulate=1", "accumulate=3"],
    "clipping": ["", "regularization.clip_norm=0.5", "regularization.clip_value=0.01"],
    "average": ["average=none", "average=ema average.decay=0.8", "average=swa average.start=0.5"],
    "noise": ["", "augment=crop regularization.dropout=0.3 regularization.label_smoothing=0.1"],
}
BASE = [
    *("steps=15", "val_every_steps=4", "log_every_steps=3", "data.per_class=4", "batch_size=12"),
    *("model.widths=[4,6,8]", "features.cache=off"),
]
# The first step after which it is asked to stop is in the first phase, the second in the last.
STOPS = (4, 11)


def recipes() -> Iterator[dict[str, str]]:
    """Yield one value per factor until every two values have met.

    Made greedily: each begins with a pair that has not met, and takes, factor by factor, the value
    that meets most of those it has not met.
    """
    left = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(FACTORS, 2)
        for x in FACTORS[a]
        for y in FACTORS[b]
    }
    while left:
        chosen = dict(min(left))
        for name in [name for name in FACTORS if name not in chosen]:
            options = [{**chosen, name: value} for value in FACTORS[name]]
            chosen = max(options, key=lambda option: len(left & _pairs(option)))
        left -= _pairs(chosen)
        yield {name: chosen[name] for name in FACTORS}


def _pairs(chosen: dict[str, str]) -> set[tuple[tuple[str, str], ...]]:
    return set(itertools.combinations([(a, chosen[a]) for a in FACTORS if a in chosen], 2))


RECIPES = list(recipes())


def few() -> list[dict[str, str]]:
    """Return eight recipes in which every value occurs, chosen for most values not yet seen."""
    chosen: list[dict[str, str]] = []
    for _ in range(8):
        seen = {item for recipe in chosen for item in recipe.items()}
        rest = [recipe for recipe in RECIPES if recipe not in chosen]
        chosen.append(max(rest, key=lambda recipe: len(recipe.items() - seen)))
    return chosen


def name_of(recipe: dict[str, str]) -> str:
    return " ".join(filter(None, recipe.values()))


def words_of(recipe: dict[str, str]) -> list[str]:
    return [*BASE, *name_of(recipe).split()]


def test_every_two_values_of_two_factors_meet() -> None:
    for a, b in itertools.combinations(FACTORS, 2):
        for x, y in itertools.product(FACTORS[a], FACTORS[b]):
            assert any(recipe[a] == x and recipe[b] == y for recipe in RECIPES), (x, y)
    assert 42 <= len(RECIPES) <= 60  # optimizers times schedules are 42
    seen = {item for recipe in few() for item in recipe.items()}
    assert seen == {(name, value) for name, values in FACTORS.items() for value in values}


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    yield
    stopping.clear()


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_stopped_twice_it_ends_as_if_it_had_not_been(
    recipe: dict[str, str], tmp_path: Path
) -> None:
    cfg = warmstart.compose([*words_of(recipe), f"out={tmp_path / 'stopped'}"])
    run = prepare(cfg)
    for stop in STOPS:
        with pytest.raises(stopping.Stopped):
            execute(run, progress=lambda done, _, stop=stop: done == stop and stopping.request())
        stopping.clear()
        newest = max(path.name for path in run.folder.glob("checkpoint-*.pt"))
        assert newest.startswith(f"checkpoint-{stop:09d}")
    cfg.out = str(tmp_path / "unbroken")
    assert replace(execute(run), versions={}) == replace(execute(prepare(cfg)), versions={})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", few(), ids=name_of)
def test_killed_twice_it_ends_as_if_it_had_not_been(recipe: dict[str, str], tmp_path: Path) -> None:
    killed = Killed(tmp_path, *words_of(recipe))
    assert killed.kill(4) == 4
    assert killed.kill(6) == 10
    killed.ends_like_the_unbroken_run()
