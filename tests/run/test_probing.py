"""Runs whose head is fitted to features: what they leave, what they share, what they refuse."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from sklearn.neighbors import NearestCentroid

import warmstart
from tiny import write_configs
from warmstart.cli import main
from warmstart.data.preprocess import Preprocess
from warmstart.errors import ConfigError
from warmstart.models.neighbours import Neighbours
from warmstart.preview import preview
from warmstart.preview_table import show
from warmstart.results.record import Record
from warmstart.run.initial import initial_model
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare

PROBES = ("svm", "logistic", "ridge", "nearest_mean", "knn")
WORDS = ["init=pretrained", "init.weights=source:tiny", "trainer=cpu", "data.per_class=8"]


class Bench:
    """A folder with the tests' configs and results."""

    def __init__(self, root: Path) -> None:
        self.out, self.configs = root / "out", write_configs(root / "configs")

    def words(self, *overrides: str) -> list[str]:
        return [*WORDS, f"out={self.out}", *overrides]

    def prepare(self, *overrides: str) -> Run:
        cfg = warmstart.compose(self.words(*overrides), config_dirs=[str(self.configs)])
        return prepare(cfg)

    def train(self, *overrides: str) -> Record:
        return warmstart.train(self.words(*overrides), config_dirs=[str(self.configs)])

    def folder(self, record: Record) -> Path:
        return self.out / "runs" / record.key


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("probing"))


def features(run: Run, split: str = "train") -> torch.Tensor:
    """Return what reaches the head in eval mode, by a hook of torch's own."""
    model, found = initial_model(run).model.eval(), list[torch.Tensor]()
    model.get_submodule("head").register_forward_pre_hook(lambda _, x: found.append(x[0]))
    pixels = torch.from_numpy(run.images.splits[split].pixels)
    with torch.no_grad():
        model(Preprocess(run.input, augment=None, channels_last=False)(pixels, None, train=False))
    return found[0]


@pytest.mark.parametrize("strategy", PROBES)
def test_a_probe_leaves_what_a_training_run_leaves(strategy: str, bench: Bench) -> None:
    record = bench.train(f"strategy={strategy}")
    trained = bench.train("strategy=linear_probe", "steps=4")
    assert record.metrics.keys() == trained.metrics.keys()
    assert record.digests.keys() == trained.digests.keys()
    assert {path.name for path in bench.folder(record).iterdir()} == {
        path.name for path in bench.folder(trained).iterdir()
    }
    assert (record.status, record.config["steps"], record.test_opened) == ("finished", 0, 1)
    assert record.choices["strategy"] == strategy
    assert record.probe["features"] == 256
    assert [entry["cached"] for entry in record.features] == [True]
    assert record.features[0]["shape"] == [256]
    # What is compared seed by seed with the training run.
    for name in ("data", "split", "order", "augment", "init"):
        assert record.digests[name] == trained.digests[name]
    assert record.metrics["val/accuracy"] > 0.3, "ten classes"
    for candidate in record.probe.get("candidates", []):
        own = {name: record.probe.get(name) for name in ("C", "k") if name in candidate}
        if own.items() <= candidate.items() and "val/accuracy" in candidate:
            assert candidate["val/accuracy"] == pytest.approx(record.metrics["val/accuracy"])


def test_the_head_is_fitted_to_what_reaches_it(bench: Bench) -> None:
    run = bench.prepare("strategy=nearest_mean")
    record = bench.train("strategy=nearest_mean")
    centroids = NearestCentroid().fit(features(run), run.images.train.labels)
    with np.load(bench.folder(record) / "predictions.npz") as file:
        expected = centroids.predict(features(run, "val"))
        assert (file["val_logits"].argmax(1) == expected).mean() > 0.99


def test_only_the_head_changes(bench: Bench) -> None:
    run, record = bench.prepare("strategy=ridge"), bench.train("strategy=ridge")
    before = initial_model(run).model.state_dict()
    after = load_file(bench.folder(record) / "best.safetensors")
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert changed == ["head.weight", "head.bias"]


def test_neighbours_predict_from_their_saved_weights(bench: Bench) -> None:
    run, record = bench.prepare("strategy=knn"), bench.train("strategy=knn")
    state = load_file(bench.folder(record) / "best.safetensors")
    own = {name.removeprefix("head."): t for name, t in state.items() if name.startswith("head.")}
    with np.load(bench.folder(record) / "predictions.npz") as file:
        logits = Neighbours.of(own)(features(run, "val"))
        np.testing.assert_allclose(logits.numpy(), file["val_logits"], atol=1e-5)
    assert record.groups[-1] == {
        "group": "head",
        "parameters": 0,
        "buffers": sum(tensor.numel() for tensor in own.values()),
    }


def test_another_run_starts_from_a_probe(bench: Bench) -> None:
    record = bench.train("strategy=ridge")
    started = bench.train(
        f"init.weights=run:{record.key[:16]}", "init.head=copy", "steps=0", "strategy=linear_probe"
    )
    assert started.metrics == pytest.approx(record.metrics, abs=1e-6)
    neighbours = bench.train("strategy=knn")
    fresh = bench.train(f"init.weights=run:{neighbours.key[:16]}", "steps=1", "strategy=full")
    assert fresh.init["groups"]["conv4"] == "loaded"
    assert fresh.init["groups"]["head"].startswith("fresh")


def test_a_probe_that_is_asked_for_again_is_the_same(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for strategy in ("svm", "knn"):
        first = bench.train(f"strategy={strategy}")
        again = Bench(tmp_path / "other").train(
            f"strategy={strategy}", f"store={bench.out / 'store'}"
        )
        assert first == again


def test_what_cannot_matter_is_no_part_of_the_identity(bench: Bench) -> None:
    key = bench.prepare("strategy=logistic").key
    same = ["optimizer.lr=9", "optimizer=adamw", "scheduler=linear", "steps=7", "accumulate=2"]
    for word in (*same, "val_every_steps=3"):
        assert bench.prepare("strategy=logistic", word).key == key
    assert bench.prepare("strategy=logistic", "steps=null", "epochs=2").key == key
    other = ["strategy.C=0.1", "strategy.standardize=false", "seed=1", "features.dtype=float16"]
    keys = {bench.prepare("strategy=logistic", word).key for word in other}
    assert len(keys | {key}) == 5


def test_probes_share_their_features(bench: Bench) -> None:
    bench.train("strategy=ridge")
    entries = sorted(path.name for path in (bench.out / "store" / "features").iterdir())
    for strategy in ("svm", "knn"):
        bench.train(f"strategy={strategy}", "keep=none")
    assert sorted(path.name for path in (bench.out / "store" / "features").iterdir()) == entries


def test_views_of_the_training_images(bench: Bench) -> None:
    words = ["augment=crop", "features.views=3", "data.per_class=4"]
    record = bench.train("strategy=knn", *words)
    state = load_file(bench.folder(record) / "best.safetensors")
    assert len(state["head.bank"]) == 3 * 40
    assert torch.equal(state["head.labels"][:40], state["head.labels"][40:80])
    assert record.features[0]["views"] == 3
    bench.train("strategy=ridge", "strategy.C=0.001", *words)


def test_plan_says_that_the_head_is_fitted(bench: Bench) -> None:
    bench.train("strategy=ridge")
    plan = preview(bench.prepare("strategy=ridge"))
    assert (plan["steps"], plan["phases"], plan["probe"]) == (0, [], "ridge")
    assert [entry["cached"] for entry in plan["features"]] == [True]
    json.dumps(plan, allow_nan=False)
    text = io.StringIO()
    show(plan, Console(file=text, width=100))
    assert "no steps: strategy=ridge fits the head to features" in text.getvalue()


def test_a_probe_takes_the_features_of_another_depth(bench: Bench) -> None:
    found = {group: bench.train("strategy=logistic", f"group={group}") for group in ("0", "conv3")}
    # The maps of the layers are averaged over positions: 16 and 48 channels.
    assert [record.probe["features"] for record in found.values()] == [16, 48]
    assert [row["group"] for row in found["conv3"].groups] == ["conv1", "conv2", "conv3", "head"]
    assert found["0"].metrics["val/accuracy"] < found["conv3"].metrics["val/accuracy"]


def test_arms_of_a_comparison(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    text = """# @package _global_
comparison: {name: probes, reference: pretrained/nearest_mean, metric: test/accuracy}
hydra: {sweeper: {params: {strategy: "nearest_mean,ridge,linear_probe", seed: "0,1"}}}
"""
    (bench.configs / "comparison" / "probes_here.yaml").write_text(text)
    words = bench.words("comparison=probes_here", "steps=4")
    assert main(["compare", "--config-dir", str(bench.configs), *words]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    for strategy in ("nearest_mean", "ridge", "linear_probe"):
        assert f"pretrained/{strategy}" in output.out
    assert "not paired" not in output.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["augment=flip"], r"augment draws anew in every pass, but strategy=svm sees the features"),
        (["augment=mixup"], r"augment mixes images and their labels, but strategy=svm takes one"),
        (["features.cache=off"], r"features.cache=off, but strategy=svm is fitted to features"),
        (["balance=loss"], r"balance=loss, but strategy=svm weighs every image alike"),
        (["trainer.devices=2"], r"trainer.devices is 2, but strategy=svm runs in one process"),
        (["strategy.C=-1"], r"strategy.C is -1, but must be a number above 0"),
        (["strategy.c=1"], r"there is no key 'strategy.c'"),
        (["features.gib=0"], r"strategy=svm is fitted .* need more room than features.gib=0"),
    ],
)
def test_what_a_probe_refuses(words: list[str], message: str, bench: Bench) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.train("strategy=svm", *words)


def test_leaving_one_out_knows_no_views(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"strategy=ridge chooses C by leaving out one row"):
        bench.prepare("strategy=ridge", "augment=crop", "features.views=2")


def test_a_head_that_is_no_linear_layer(bench: Bench) -> None:
    words = ["model=torchvision", "model.name=squeezenet1_1", "data.size=32", "init=scratch"]
    cfg = warmstart.compose(["strategy=svm", "trainer=cpu", f"out={bench.out}", *words])
    with pytest.raises(
        ConfigError,
        match=r"strategy=svm needs one linear layer .* is Conv2d \(classifier.1\); give",
    ):
        prepare(cfg)
