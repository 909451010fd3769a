"""``warmstart rank``: what it judges, beside what, and what it leaves alone."""

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import warmstart
from warmstart import ConfigError
from warmstart.cli import main
from warmstart.configs import compose
from warmstart.data.images import Vault
from warmstart.models.init import Scratch
from warmstart.ranking import candidates
from warmstart.ranking_table import rank_command, show
from warmstart.run.initial import initial_model
from warmstart.run.preparing import prepare
from warmstart.transferability import knn_loo_accuracy, log_me, nearest_mean_accuracy

DATA = ["data=digits", "data.per_class=8", "trainer=cpu"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rank")


@pytest.fixture(scope="module")
def weights(out: Path) -> Path:
    """Return the weights of a run that has learned the digits."""
    record = warmstart.train(
        ["data=digits", "steps=60", "optimizer.lr=0.1", "trainer=cpu", f"out={out}"]
    )
    return out / "runs" / record.key / "best.safetensors"


@pytest.fixture(scope="module")
def random(out: Path) -> Path:
    """Return the weights of a run that has learned nothing."""
    record = warmstart.train(["data=digits", "steps=0", "seed=7", "trainer=cpu", f"out={out}"])
    return out / "runs" / record.key / "best.safetensors"


@pytest.fixture(scope="module")
def rows(weights: Path, random: Path, out: Path) -> list[dict[str, Any]]:
    models = [f"small_cnn@{random}", f"small_cnn@{weights}"]
    return warmstart.rank(models, [*DATA, f"out={out}"])


def test_the_weights_that_have_learned_come_first(rows: Any, weights: Path, random: Path) -> None:
    assert [row["model"] for row in rows] == [f"small_cnn@{weights}", f"small_cnn@{random}"]
    learned, fresh = rows
    assert learned["log_me"] > fresh["log_me"] + 0.1
    assert learned["nearest_mean/accuracy"] > fresh["nearest_mean/accuracy"]
    # Both are one network, and so have one control.
    assert learned["control"] == fresh["control"]
    assert learned["log_me"] > learned["control"]["log_me"] + 0.1


def test_figures_are_of_the_heads_input(rows: Any, weights: Path, out: Path) -> None:
    words = [*DATA, f"out={out}", "init=pretrained", f"init.weights={weights}"]
    run = prepare(compose(words))

    def features(run: Any, split: Any) -> np.ndarray:
        model = initial_model(run).model.eval()
        found = []
        model.get_submodule(run.architecture.heads[0]).register_forward_pre_hook(
            lambda _, inputs: found.append(inputs[0])
        )
        with torch.no_grad():
            model(run.preprocess(None)(torch.from_numpy(split.pixels), torch.empty(0), train=False))
        return found[0].numpy()

    def figures(run: Any) -> dict[str, Any]:
        train, val = run.images.train, run.images.val
        x, y = features(run, train), features(run, val)
        return {
            "log_me": pytest.approx(log_me(x, train.labels), abs=1e-4),
            "knn/accuracy": pytest.approx(knn_loo_accuracy(x, train.labels, k=5), abs=0.02),
            "nearest_mean/accuracy": pytest.approx(
                nearest_mean_accuracy(x, train.labels, y, val.labels), abs=0.01
            ),
        }

    row = rows[0]
    own = figures(run)
    assert {name: row[name] for name in own} == own
    assert row["features"] == features(run, run.images.train).shape[1]
    assert row["images"] == {"train": 80, "val": len(run.images.val)}
    # The control has the statistics of the training images, as init=random_features.
    control = prepare(compose([*DATA, f"out={out}", "init=random_features"]))
    assert isinstance(control.init, Scratch)
    assert control.init.statistics == "data"
    assert row["control"].keys() == own.keys()


def test_test_stays_closed(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vault, "open", lambda *_: pytest.fail("test was opened"))
    warmstart.rank([f"small_cnn@{weights}"], [*DATA, f"out={tmp_path}"])


def test_features_come_from_the_store_the_second_time(
    rows: Any, weights: Path, random: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extraction = "warmstart.features.extraction._Pass.__call__"
    monkeypatch.setattr(extraction, lambda *_: pytest.fail("features were computed"))
    again = warmstart.rank([f"small_cnn@{weights}", f"small_cnn@{random}"], [*DATA, f"out={out}"])
    drop = ("image_seconds",)
    without = [
        [{k: row[k] for k in row if k not in drop} for row in part] for part in (again, rows)
    ]
    assert without[0] == without[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v2", ["model=mobilenet_v2"]),
        ("resnet20@a/b c.th", ["model=resnet20", 'model.weights="a/b c.th"']),
        ("resnet18@hf:me/net@v1", ["model=resnet18", 'model.weights="hf:me/net@v1"']),
        ("timm/convnext_tiny", ["model=timm", "model.name=convnext_tiny"]),
        (
            "torchvision/resnet34@IMAGENET1K_V1",
            ["model=torchvision", "model.name=resnet34", 'model.weights="IMAGENET1K_V1"'],
        ),
    ],
)
def test_candidates(name: str, expected: list[str]) -> None:
    (found,) = candidates(f"[{name}]")
    assert (found.name, list(found.overrides)) == (name, expected)
    value = name.partition("@")[2]
    if value:
        assert compose(found.overrides).model.weights == value


def wrong(*words: str) -> str:
    with pytest.raises(ConfigError) as error:
        rank_command([*DATA, *words], config_dirs=[], as_json=False)
    return str(error.value)


def test_what_is_wrong_is_told() -> None:
    assert wrong() == (
        "rank takes one list of candidates, but got none; give models=[MODEL,MODEL@WEIGHTS,...]"
    )
    assert "models names 'small_cnn' twice" in wrong("models=[small_cnn, small_cnn]")
    assert "must list models" in wrong("models=[small_cnn,]")
    assert wrong("models=[resnet20]") == (
        "resnet20 is to be ranked, but has no weights of its own; name them: "
        "models=[resnet20@WEIGHTS]"
    )
    assert "'init=scratch' sets init, which the candidates differ in" in wrong(
        "models=[small_cnn]", "init=scratch"
    )
    assert "features.views is 2, but is of training" in wrong(
        "models=[small_cnn]", "features.views=2", "augment=crop"
    )
    assert "features.cache is off" in wrong("models=[small_cnn]", "features.cache=off")
    assert "did you mean 'resnet20'" in wrong("models=[resnet21]")


def printed(rows: Any, *words: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(rows, words, console=console)
    return console.file.getvalue()


def test_the_table_says_what_it_is_worth_and_what_is_next(rows: Any, weights: Path) -> None:
    text = printed(rows, "data=digits", "data.per_class=8", "seed=3")
    first, second = (line.split() for line in text.splitlines() if line.startswith("  small_cnn "))
    assert first[1:4] == [
        str(weights),
        f"{rows[0]['log_me']:.3f}",
        f"({rows[0]['control']['log_me']:.3f})",
    ]
    assert second[2] == f"{rows[1]['log_me']:.3f}"
    assert "80 training images" in text
    assert "proves nothing" in text
    assert "Test was not looked at" in text
    command = shlex.split(re.findall("^next: (.*)$", text, re.MULTILINE)[0])
    assert command[:3] == ["warmstart", "compare", "comparison=folder"]
    # What is printed can be run: the candidate's weights are those of its arms.
    config = compose([*command[2:], "arm=probe"])
    assert (config.data.per_class, config.model.weights) == (8, str(weights))


def test_no_better_than_random_weights_is_said(rows: Any) -> None:
    low = {**rows[0], "log_me": rows[0]["control"]["log_me"] - 0.01}
    assert "random weights score as high" in printed([low])
    assert "random weights score as high" not in printed(rows[:1])


def test_json_and_candidates_that_cannot_be_judged(
    rows: Any, weights: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"model": "odd", "weights": "w", "problem": "its head has no input"}
    assert "odd: its head has no input" in printed([*rows, problem])
    words = [*DATA, f"out={out}", f"models=[small_cnn@{weights}]"]
    assert main(["rank", *words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["log_me"] == rows[0]["log_me"]
    assert row["multiply_adds"] > 0
    assert row["image_seconds"] > 0
