"""``warmstart check``: each cause of a failure is planted, and named by the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from warmstart import configs
from warmstart.check.command import check_command
from warmstart.check.trials import Stage, without_regularization
from warmstart.cli import main
from warmstart.data.images import Vault
from warmstart.errors import ConfigError
from warmstart.models import schemes
from warmstart.models.architecture import Input
from warmstart.models.weights import save
from warmstart.run import initial
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare

SMALL = ["data.per_class=30", "model.widths=[8,16]", "batch_size=16", "trainer=cpu"]
CLASSES = tuple(map(str, range(10)))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("check")


@pytest.fixture
def check(out: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function from overrides to the exit code, verdicts, sentences and the whole."""

    def run(*overrides: str) -> tuple[int, dict[str, str], dict[str, str], dict[str, Any]]:
        code = main(["check", *SMALL, *overrides, f"out={out}", "--json"])
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        wrong = [f["name"] for f in found["findings"] if f["verdict"] == "wrong"]
        said = f"warmstart: the check finds something wrong with: {', '.join(wrong)}\n"
        assert printed.err == (said if wrong else "")
        verdicts = {f["name"]: f["verdict"] for f in found["findings"]}
        return code, verdicts, {f["name"]: f["sentence"] for f in found["findings"]}, found

    return run


def prepared(*overrides: str, out: Path) -> Run:
    return prepare(configs.compose([*SMALL, *overrides, f"out={out}"]))


def test_a_good_run(check: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("test was opened")

    monkeypatch.setattr(Vault, "open", refuse)
    first = check("augment=crop", "strategy.batchnorm=train")
    code, verdicts, sentences, found = first
    assert code == 0
    assert set(verdicts.values()) == {"ok"}
    assert found["verdict"] == "ok"
    assert sentences["BatchNorm"] == "train in conv1 conv2"
    run = prepared("augment=crop", out=out)
    order = Stage(run).batches.digests("")["order"]
    assert found["order"] == order
    assert sentences["data order"].startswith(f"digest {order[:16]}")
    assert Path(found["picture"]).parent == out / "checks"
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    assert not (out / "runs").exists()
    (ranged,) = found["ranges"]
    assert ranged["trained"] == ["conv1", "conv2", "head"]
    assert len(ranged["rates"]) == len(ranged["losses"]) == len(ranged["smoothed"])
    assert check("augment=crop", "strategy.batchnorm=train") == first


@pytest.mark.parametrize(("rate", "word"), [("1e-6", "low"), ("1e20", "high")])
def test_a_bad_rate(rate: str, word: str, check: Any) -> None:
    code, verdicts, sentences, _ = check(f"optimizer.lr={rate}")
    assert code == 1
    assert verdicts["2 batches by heart"] == verdicts["learning rate"] == "wrong"
    assert f"the rate is too {word}; give optimizer.lr=" in sentences["2 batches by heart"]
    assert f"too {word}: try about" in sentences["learning rate"]
    others = ("input", "loss at step 0", "labels", "BatchNorm")
    assert {verdicts[name] for name in others} == {"ok"}
    if word == "high":
        assert verdicts["NaN and Inf"] == "wrong"
        assert "rate 1e+20; the largest update was that of group" in sentences["NaN and Inf"]


@pytest.mark.parametrize(
    ("factor", "group", "words"),
    [
        (100.0, "head", "the model is sure of wrong answers before it has learned any"),
        (0.0, "conv2", "bad initialization: the outputs of group conv2 have a deviation of 0"),
    ],
)
def test_a_bad_initialization(
    factor: float, group: str, words: str, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = schemes.initialize

    def spoiled(model: torch.nn.Module, **keywords: Any) -> None:
        honest(model, **keywords)
        with torch.no_grad():
            for parameter in model.get_submodule(group).parameters():
                parameter.mul_(factor)

    monkeypatch.setattr(initial.schemes, "initialize", spoiled)
    code, verdicts, sentences, _ = check()
    assert code == 1
    assert verdicts["loss at step 0"] == "wrong"
    assert words in sentences["loss at step 0"]
    assert (verdicts["input"], verdicts["labels"]) == ("ok", "ok")


def test_shuffled_labels(check: Any, tmp_path: Path) -> None:
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    labels = np.random.default_rng(0).permutation(digits.target)
    np.savez(tmp_path / "shuffled.npz", images=images, labels=labels)
    # Labels that follow from nothing are learned by heart too, at a rate above the default.
    words = ["data=arrays", f"data.file={tmp_path / 'shuffled.npz'}", "optimizer.lr=0.01"]
    code, verdicts, sentences, _ = check(*words)
    assert code == 1
    assert [name for name, verdict in verdicts.items() if verdict == "wrong"] == ["labels"]
    assert "labels look shuffled" in sentences["labels"]


def test_normalization_is_missing(check: Any, tmp_path: Path, out: Path) -> None:
    # Weights that say that they take pixels from 0 to 255, as the run feeds them then.
    run, file = prepared(out=out), tmp_path / "weights.safetensors"
    pixels = Input(None, 1, (0.0,), (1 / 255,))
    save(file, Stage(run).model.state_dict(), pixels, CLASSES)
    code, verdicts, sentences, _ = check("init=pretrained", f"init.weights={file}")
    assert code == 1
    assert verdicts["input"] == "wrong"
    assert "normalization is missing" in sentences["input"]


def test_a_rate_of_zero(check: Any) -> None:
    code, _, sentences, _ = check("optimizer.lr=0")
    assert code == 1
    assert "the rate is too low; give optimizer.lr=" in sentences["2 batches by heart"]
    assert "optimizer.lr is 0, too low" in sentences["learning rate"]


def test_phases_are_tested_one_by_one(check: Any, out: Path) -> None:
    weights = out / "own.safetensors"
    run = prepared(out=out)
    save(weights, Stage(run).model.state_dict(), run.input, CLASSES)
    code, verdicts, sentences, found = check(
        *("init=pretrained", f"init.weights={weights}", "strategy=lp_ft", "optimizer.lr=0.1"),
    )
    assert code in (0, 1)
    assert [test["trained"] for test in found["ranges"]] == [["head"], ["conv1", "conv2", "head"]]
    # At a tenth of the rate from the middle of the cosine on.
    assert [test["rate"] for test in found["ranges"]] == pytest.approx([0.1, 0.05])
    assert "learning rate, phase 1" in verdicts
    assert sentences["BatchNorm"] == (
        "from step 0 on eval in conv1 conv2; from step 200 on train in conv1 conv2"
    )


def test_regularization_is_off_where_a_few_batches_are_fitted(out: Path) -> None:
    run = prepared("augment=crop", "optimizer.weight_decay=0.1", "balance=loss", out=out)
    plain = without_regularization(run.config)
    assert plain.augment.columns == 0
    assert (plain.config["optimizer"]["weight_decay"], plain.config["balance"]) == (0.0, "none")
    kept = ("seed", "steps", "batch_size", "model", "init", "strategy", "scheduler")
    assert {name: plain.config[name] for name in kept} == {name: run.config[name] for name in kept}
    assert plain.dataset.digest == run.dataset.digest


def test_a_decay_that_is_no_gradient_is_off_too(out: Path) -> None:
    run = prepared("optimizer.decoupled=true", out=out)
    changed = without_regularization(run.config).config["optimizer"]
    assert (changed["weight_decay"], changed["decoupled"]) == (0.0, False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["steps=0"], "the run has 0 of them; give it steps or epochs"),
        (
            ["strategy=ridge", "init.statistics=data"],
            "strategy=ridge takes none; check strategy=linear_probe",
        ),
    ],
)
def test_what_takes_no_steps_is_refused(overrides: list[str], message: str, out: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check_command([*SMALL, *overrides, f"out={out}"])


def test_the_terminal(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *SMALL, "steps=20", f"out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "training loss by learning rate; conv1, conv2, head train" in printed
    assert "▲ the run's rate, △ the suggested one" in printed
    assert " ok " in printed
    assert f"picture: {out / 'checks'}" in printed
