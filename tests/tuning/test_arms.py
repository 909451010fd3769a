"""What is tuned: one cell for each arm, and overrides that a search refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from warmstart.configs import folder
from warmstart.errors import ConfigError
from warmstart.sweep import Composer
from warmstart.tuning.arms import Arm, before, question, trial_words
from warmstart.tuning.recipes import recipe

PARAMS = ["arm=digits/scratch,digits/probe", "data.per_class=1,80,5", "data.fold=1,0", "seed=0,1"]
GIVEN = ["comparison=digits", "search=random"]


@pytest.fixture(scope="module")
def compose() -> Iterator[Composer]:
    with initialize_config_dir(config_dir=str(folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        loader = hydra.config_loader
        yield Composer(loader, loader.load_configuration("train", [], RunMode.MULTIRUN))


def test_each_arm_once_at_one_place(compose: Composer) -> None:
    asked = question(compose, PARAMS, [*GIVEN, "batch_size=8"])
    assert [cell.config["arm"] for cell in asked.cells] == ["digits/scratch", "digits/probe"]
    data = asked.cells[0].config["data"]
    assert (data["per_class"], data["fold"]) == (80, 0)
    assert asked.notes == [
        "searched at data.per_class=80, the largest of the 3 of the comparison",
        "searched at data.fold=0, the first of the 2 of the comparison",
    ]
    assert (asked.name, asked.of) == ("digits", "comparison")
    asked = question(compose, PARAMS, [*GIVEN, "data.per_class=3"])
    assert asked.cells[0].config["data"]["per_class"] == 3
    assert len(asked.notes) == 1


def test_the_largest_size_may_be_all_images(compose: Composer) -> None:
    params = ["data.per_class=5,null,20", "arm=digits/scratch,digits/probe"]
    asked = question(compose, params, GIVEN)
    assert asked.cells[0].config["data"]["per_class"] is None
    assert asked.notes[0].startswith("searched at data.per_class=null, the largest of the 3")


def test_a_recipe_says_what_was_told_for_all_arms(compose: Composer) -> None:
    more = ["optimizer=adamw", "scheduler=linear", "optimizer.betas=[0.8,0.99]", "batch_size=8"]
    cell = question(compose, PARAMS, [*GIVEN, *more]).cells[0]
    arm = Arm("digits/scratch", cell, 150, "", stacks=False)
    text = recipe(arm, {"optimizer.lr": 0.002}, command="warmstart tune", score="")
    content = yaml.safe_load(text)
    assert content == {
        "defaults": [
            "/arm/digits/scratch",
            {"override /optimizer": "adamw"},
            {"override /scheduler": "linear"},
            "_self_",
        ],
        "optimizer": {"betas": [0.8, 0.99], "lr": 0.002},
    }


def test_the_words_of_a_trial(compose: Composer) -> None:
    cell = question(compose, PARAMS, [*GIVEN, "search.trials=4"]).cells[0]
    words = trial_words(
        Arm("digits/scratch", cell, 150, "", stacks=False),
        {"optimizer.lr": 1e-05, "scheduler": "linear", "optimizer.nesterov": True, "model": None},
        seed=100,
        steps=38,
    )
    assert words == [
        *("arm=digits/scratch", "data.per_class=80", "data.fold=0", "comparison=digits"),
        *("optimizer.lr=1e-05", "scheduler=linear", "optimizer.nesterov=true", "model=null"),
        *("seed=100", "test=false", "steps=38", "epochs=null"),
    ]
    search = question(compose, PARAMS, [*GIVEN, "+search.space.scheduler.values=[linear]"]).search
    assert before(cell.config, search) == {
        "optimizer.lr": 0.03,
        "optimizer.weight_decay": 5e-4,
        "scheduler": "cosine",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=3"], "'seed=3' is not for a search, whose runs take those of search.seeds"),
        (["test=true"], "'test=true' is not for a search, which never evaluates the test split"),
        (["data.per_class=1,2"], "'data.per_class=1,2' has several values; a search takes one"),
        (["search.trials=4,8"], "'search.trials=4,8' has several values"),
        (["optimizer.lr=0.1"], "'optimizer.lr=0.1' gives optimizer.lr, which is searched; leave"),
        (["optimizer={lr: 0.1}"], "gives optimizer.lr, which is searched"),
        (["search.seeds=[1,2]"], "search.seeds has 1, which the result uses too"),
        (["search.name=a/b"], "the name of the search is 'a/b', but must be that of a folder"),
        (
            ["optimizer=adamw", "+search.space.optimizer.momentum.values=[0.9]"],
            "search.space has optimizer.momentum, which the arm digits/scratch does not have; "
            "optimizer has betas, decay_all, lr, weight_decay",
        ),
        (["+search.space.lr.values=[1]"], "search.space has lr, which the arm digits/scratch does"),
        (
            ["+search.space.optimizer.nesterov={low: 0, high: 1}"],
            "search.space has a range for optimizer.nesterov, which is False in the arm",
        ),
        (["+search.space.steps.values=[1]"], "search.space has steps, which no search can vary"),
    ],
)
def test_what_is_refused(words: list[str], message: str, compose: Composer) -> None:
    with pytest.raises(ConfigError) as caught:
        question(compose, PARAMS, [*GIVEN, *words])
    assert message in str(caught.value)


def test_a_comparison_that_searches_itself(compose: Composer) -> None:
    with pytest.raises(ConfigError, match=r"gives optimizer\.lr, which is searched"):
        question(compose, [*PARAMS, "optimizer.lr=0.1,0.2"], GIVEN)
