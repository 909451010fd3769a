"""Runs whose frozen layers run once: the same training, and why some phases go without."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import warmstart
from data.samples import write_folder, write_image
from warmstart import stopping
from warmstart.data.batches import TrainBatches
from warmstart.errors import ConfigError
from warmstart.models.cuts import group_cut
from warmstart.predict import OPENINGS
from warmstart.run.caching import Decision, decide, features_of
from warmstart.run.execution import execute
from warmstart.run.initial import initial_model
from warmstart.run.plan import Run
from warmstart.run.preparing import forget, prepare

# Layers with random weights, whose BatchNorm knows the digits.
FROZEN = ["init=scratch", "init.statistics=data"]
SHORT = ["steps=40", "val_every_steps=10", "log_every_steps=1", "data.per_class=8", "batch_size=16"]
LISTED = "strategy.phases=[{groups: 2},{start: 0.6, groups: 3, lr_scale: 0.5}]"
STRATEGIES = {
    "linear_probe": [],
    "partial": ["strategy.top=2"],
    "lp_ft": [],
    "gradual": ["strategy.all_by=0.9"],
    "listed": [LISTED],
}
# Of the 80 training images 16 are in a batch: a phase of five steps is one pass.
CACHED = {
    "linear_probe": [True],
    "partial": [True],
    "lp_ft": [True, False],
    "gradual": [True, True, True, True, False],
    "listed": [True, True],
}


def words(strategy: str, out: Path, *more: str) -> list[str]:
    return [*FROZEN, *SHORT, f"strategy={strategy}", *STRATEGIES[strategy], f"out={out}", *more]


def kinds(out: Path) -> set[str]:
    """Return the names of the features in the store."""
    return {path.name for path in (out / "store" / "features").glob("*") if path.is_dir()}


def reordered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every batch hold its images in another order."""
    places = TrainBatches.places

    def shuffled(batches: TrainBatches, step: int) -> tuple[np.ndarray, np.ndarray]:
        indices, before = places(batches, step)
        order = np.random.default_rng(step).permutation(len(indices))
        return indices[order], before[order]

    monkeypatch.setattr(TrainBatches, "places", shuffled)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_training_with_and_without(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = warmstart.train(words(strategy, tmp_path))
    assert [phase["cached"] for phase in cached.features] == CACHED[strategy]
    live = warmstart.train(words(strategy, tmp_path, "features.cache=off"))
    assert {phase["reason"] for phase in live.features} == {"features.cache=off"}
    assert cached.digests["order"] == live.digests["order"]
    losses = [record.curves["train"]["loss"][:20] for record in (cached, live)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    null = [0.0]
    reordered(monkeypatch)
    other = warmstart.train(words(strategy, tmp_path / "other", "features.cache=off", "test=false"))
    null.append(abs(other.metrics["val/accuracy"] - live.metrics["val/accuracy"]))
    assert abs(cached.metrics["val/accuracy"] - live.metrics["val/accuracy"]) <= max(null)
    assert cached.freeze_proof == live.freeze_proof
    assert cached.test_opened == live.test_opened == 1


def test_what_the_record_says(tmp_path: Path) -> None:
    record = warmstart.train(words("lp_ft", tmp_path))
    assert record.features == [
        {
            **{"phase": 0, "cached": True, "reason": None},
            **{"at": "head", "shape": [256], "views": None},
        },
        {
            **{"phase": 1, "cached": False, "reason": "every layer trains"},
            **{"at": None, "shape": None, "views": None},
        },
    ]


@pytest.mark.parametrize("more", [["balance=sampling", "accumulate=2"], ["balance=loss"]])
def test_what_goes_with_the_labels_stays(more: list[str], tmp_path: Path) -> None:
    pair = [[], ["features.cache=off"]]
    cached, live = (warmstart.train(words("partial", tmp_path, *more, *off)) for off in pair)
    losses = [record.curves["train"]["loss"][:20] for record in (cached, live)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_dropout_behind_the_features_draws_the_same(tmp_path: Path) -> None:
    base = ["model=mobilenet_v2", "data.size=32", *FROZEN, "strategy=linear_probe", "steps=12"]
    base += ["log_every_steps=1", "val_every_steps=12", "data.per_class=2", "batch_size=8"]
    base += ["test=false", f"out={tmp_path}"]
    cached = warmstart.train(base)
    assert (cached.features[0]["at"], cached.features[0]["shape"]) == ("classifier", [1280])
    live = warmstart.train([*base, "features.cache=off"])
    losses = [record.curves["train"]["loss"] for record in (cached, live)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.fixture
def no_request() -> Iterator[None]:
    stopping.clear()
    yield
    stopping.clear()


def stop_after(step: int) -> Callable[[int, int], None]:
    """Return a progress callback that asks for a stop when so many steps of 40 are done."""

    def progress(done: int, steps: int) -> None:
        if (done, steps) == (step, 40):
            stopping.request()

    return progress


# The second phase of lp_ft begins at step 20, after a validation; those of gradual at 9, 18, ...
@pytest.mark.parametrize(("strategy", "step"), [("lp_ft", 20), ("gradual", 13)])
def test_a_stopped_run_goes_on_as_if_unbroken(
    strategy: str, step: int, tmp_path: Path, no_request: None
) -> None:
    run = prepare(warmstart.compose(words(strategy, tmp_path)))
    with pytest.raises(stopping.Stopped):
        execute(run, progress=stop_after(step))
    stopping.clear()
    shutil.rmtree(tmp_path / "store" / "features")  # what was computed may be gone by then
    unbroken = warmstart.train(words(strategy, tmp_path / "unbroken"))
    assert dataclasses.replace(execute(run), versions={}) == dataclasses.replace(
        unbroken, versions={}
    )


def test_a_stop_is_heeded_while_features_are_computed(tmp_path: Path, no_request: None) -> None:
    run = prepare(warmstart.compose(words("linear_probe", tmp_path)))
    with pytest.raises(stopping.Stopped):
        execute(run, progress=lambda done, total: stopping.request() if total != 40 else None)
    assert not (run.folder / "result.json").exists()
    stopping.clear()
    assert execute(run).status == "finished"


def test_views_are_those_of_the_first_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = words("linear_probe", tmp_path, "augment=crop")
    cached = warmstart.train([*base, "features.views=2"])
    assert cached.features[0]["views"] == 2
    uniforms = TrainBatches.uniforms

    def of_two(batches: TrainBatches, indices: np.ndarray, before: np.ndarray) -> torch.Tensor:
        return uniforms(batches, indices, before % 2)

    monkeypatch.setattr(TrainBatches, "uniforms", of_two)
    live = warmstart.train([*base, "features.cache=off"])
    losses = [record.curves["train"]["loss"] for record in (cached, live)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    # Views are no part of what others draw, so that the two runs are not paired.
    assert cached.digests["augment"] != live.digests["augment"]


def decisions(*overrides: str, out: Path) -> list[Decision]:
    run = prepare(warmstart.compose([*FROZEN, *SHORT, f"out={out}", *overrides]))
    initial = initial_model(run)
    before = [parameter.requires_grad for parameter in initial.model.parameters()]
    modes = [module.training for module in initial.model.modules()]
    state = torch.get_rng_state()
    found = decide(run, initial.model, initial.groups)
    assert [parameter.requires_grad for parameter in initial.model.parameters()] == before
    assert [module.training for module in initial.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    return found


@pytest.mark.parametrize(
    ("overrides", "reasons"),
    [
        ("strategy=linear_probe features.cache=off", ["features.cache=off"]),
        ("strategy=full", ["every layer trains"]),
        (
            "strategy=partial strategy.top=2 strategy.batchnorm=train",
            ["frozen BatchNorm normalizes by the batch"],
        ),
        ("strategy=linear_probe augment=mixup", ["mixup or CutMix blends each batch anew"]),
        ("strategy=linear_probe augment=crop", ["the augmentation draws anew in every pass"]),
        (
            "strategy=listed strategy.phases=[{groups: 2},{start: 0.5, groups: 1}]",
            [None, "its frozen layers were trained in an earlier phase"],
        ),
        (  # Frozen in both phases, but in the first one the statistics follow the batches.
            "strategy=listed strategy.phases="
            "[{groups: 1, batchnorm: train},{start: 0.5, groups: 1}]",
            [
                "frozen BatchNorm normalizes by the batch",
                "its frozen layers were trained in an earlier phase",
            ],
        ),
        # 80 images train, in batches of 16.
        ("strategy=linear_probe steps=4", ["it sees fewer images than one pass over them"]),
        ("strategy=linear_probe steps=5", [None]),
        (
            "strategy=lp_ft strategy.probe_until=0.1",
            ["it sees fewer images than one pass over them", "every layer trains"],
        ),
        ("strategy=linear_probe steps=0", ["it sees fewer images than one pass over them"]),
        ("strategy=linear_probe trainer.devices=2", ["several processes share the run"]),
        # 80 + 359 + 539 rows, about, of 256 numbers of four bytes each: a MiB.
        (
            "strategy=linear_probe features.gib=0.0005",
            ["the features need more room than features.gib=0.0005"],
        ),
        ("strategy=linear_probe features.gib=0.0005 features.dtype=float16", [None]),
        # A map of 48 x 4 x 4 beside these.
        (
            "strategy=gradual strategy.all_by=0.9 features.gib=0.001",
            [
                None,
                *["the features need more room than features.gib=0.001"] * 3,
                "every layer trains",
            ],
        ),
    ],
)
def test_why_a_phase_goes_without(
    overrides: str, reasons: list[str | None], tmp_path: Path
) -> None:
    found = decisions(*_split(overrides), out=tmp_path)
    assert [decision.reason for decision in found] == reasons
    assert [decision.cut is not None for decision in found] == [not reason for reason in reasons]
    assert not (tmp_path / "store" / "features").exists(), "nothing is computed"


def _split(overrides: str) -> list[str]:
    """Return the words; what stands in brackets is one."""
    head, bracket, phases = overrides.partition("strategy.phases=")
    return [*head.split(), *([bracket + phases] if bracket else [])]


class TwoWays(nn.Module):
    """The images reach the output beside the frozen layers too."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.flatten(1))) + x.mean((1, 2, 3))[:, None]


def test_a_model_that_cannot_be_cut_says_so(tmp_path: Path) -> None:
    run = prepare(warmstart.compose([*words("linear_probe", tmp_path)]))
    layout = {"body": ["body"], "head": ["head"]}
    architecture = dataclasses.replace(
        run.architecture, build=lambda channels, classes, size: TwoWays(), layout=layout
    )
    run = dataclasses.replace(run, architecture=architecture)
    model = TwoWays()
    groups = warmstart.models.layers.layer_groups(model, layout)
    (decision,) = decide(run, model, groups)
    assert decision.reason == "no single tensor leads from the frozen layers to those that train"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            "strategy=full augment=crop features.views=4",
            "features.views is 4, but no phase of the run trains on stored features: every layer "
            "trains; leave it out",
        ),
        (
            "strategy=linear_probe augment=crop features.views=6",
            "features.views is 6, but no phase of the run trains on stored features: it sees fewer "
            "images than views; leave it out",
        ),
    ],
)
def test_views_that_nothing_shows_are_refused(
    overrides: str, sentence: str, tmp_path: Path
) -> None:
    # Forty steps of 16 images are five passes over 128, the images of 13 classes.
    with pytest.raises(ConfigError) as caught:
        decisions(*overrides.split(), "data.per_class=12", out=tmp_path)
    assert str(caught.value) == sentence


def test_the_final_evaluation_takes_features_too(tmp_path: Path) -> None:
    record = warmstart.train(words("linear_probe", tmp_path))
    # Training images, those of validation, and the test images once their vault is open.
    assert len(kinds(tmp_path)) == 3
    folder = tmp_path / "runs" / record.key
    assert (folder / OPENINGS).read_text() == "opened\n"
    # What was trained is no part of a feature: the next run finds all three.
    again = warmstart.train(words("linear_probe", tmp_path, "optimizer.lr=0.5"))
    assert len(kinds(tmp_path)) == 3
    assert again.test_opened == 1
    closed = warmstart.train(words("linear_probe", tmp_path / "closed", "test=false"))
    assert (len(kinds(tmp_path / "closed")), closed.test_opened) == (2, 0)


def test_crops_of_the_final_evaluation_see_images(tmp_path: Path) -> None:
    more = ["data.size=12", "eval.crops=ten", "test=false", "steps=8"]
    cached = warmstart.train(words("linear_probe", tmp_path, *more))
    assert cached.features[0]["cached"]
    live = warmstart.train(words("linear_probe", tmp_path, *more, "features.cache=off"))
    assert cached.metrics == pytest.approx(live.metrics, abs=1e-5)


def test_half_precision_takes_half_the_room(tmp_path: Path) -> None:
    exact = warmstart.train(words("linear_probe", tmp_path / "one"))
    half = warmstart.train(words("linear_probe", tmp_path / "two", "features.dtype=float16"))
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*.bin"))
        for name in ("one", "two")
    ]
    assert sizes[0] == 2 * sizes[1] > 0
    losses = [record.curves["train"]["loss"] for record in (exact, half)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)
    assert losses[0] != losses[1]


# --- what the key of features goes with


Change = Callable[[Run, nn.Module], tuple[Run, nn.Module]]


def as_they_are(run: Run, model: nn.Module) -> tuple[Run, nn.Module]:
    return run, model


def another_mean(run: Run, model: nn.Module) -> tuple[Run, nn.Module]:
    mean = (run.input.mean[0] + 0.01, *run.input.mean[1:])
    return dataclasses.replace(run, input=dataclasses.replace(run.input, mean=mean)), model


def moved(name: str) -> Change:
    """Return what moves one number of a tensor to the next one that there is."""

    def change(run: Run, model: nn.Module) -> tuple[Run, nn.Module]:
        tensor = model.state_dict()[name].view(-1)
        tensor[3] = torch.nextafter(tensor[3], torch.tensor(9.0))
        return run, model

    return change


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    write_folder(
        root, {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in "ab"}
    )
    return root


def features_in(out: Path, root: Path, *overrides: str, change: Change = as_they_are) -> set[str]:
    """Return what was added to the store for the images of validation."""
    base = ["data=image_folder", f"data.root={root}", "steps=4", f"out={out}", *overrides]
    run = prepare(warmstart.compose([*FROZEN, "strategy=linear_probe", *base]))
    initial = initial_model(run)
    run, model = change(run, initial.model)
    cut = group_cut(model, initial.groups, len(initial.groups) - 2, torch.zeros(2, 3, 6, 6))
    before = kinds(out)
    features_of(run, model, cut, "val", run.images.val)
    forget()
    return kinds(out) - before


def test_the_key_stays_with_names_and_heads(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert len(features_in(out, photos)) == 1

    assert features_in(out, photos, change=moved("head.weight")) == set()
    assert features_in(out, photos, "optimizer.lr=3", "features.gib=1") == set()
    for part in ("train", "val", "test"):
        (photos / part / "a").rename(photos / part / "apple")
    assert features_in(out, photos.rename(tmp_path / "moved")) == set()


@pytest.mark.parametrize(
    ("overrides", "change"),
    [
        ([], moved("conv3.0.weight")),
        ([], moved("conv1.1.running_mean")),
        ([], another_mean),
        (["data.size=7"], as_they_are),
        (["features.dtype=float16"], as_they_are),
    ],
)
def test_the_key_changes_with_what_features_depend_on(
    overrides: list[str], change: Change, photos: Path, tmp_path: Path
) -> None:
    assert len(features_in(tmp_path / "out", photos)) == 1
    assert len(features_in(tmp_path / "out", photos, *overrides, change=change)) == 1


def test_the_key_changes_with_a_pixel(photos: Path, tmp_path: Path) -> None:
    assert len(features_in(tmp_path / "out", photos)) == 1
    path = photos / "val" / "a" / "00.png"
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    write_image(path, pixels)
    assert len(features_in(tmp_path / "out", photos)) == 1


def test_yaml_reads_off_as_a_word_here(tmp_path: Path) -> None:
    path = tmp_path / "configs" / "arm" / "live.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "# @package _global_\n"
        "defaults: [{override /strategy: linear_probe}]\n"
        "features: {cache: off}\n"
    )
    assert yaml.safe_load(path.read_text())["features"] == {"cache": False}
    base = [*FROZEN, "arm=live", f"out={tmp_path}"]
    by_arm = prepare(warmstart.compose(base, config_dirs=[str(path.parents[1])]))
    by_hand = prepare(
        warmstart.compose(
            [*FROZEN, "strategy=linear_probe", "features.cache=off", f"out={tmp_path}"]
        )
    )
    assert by_arm.config["features"] == by_hand.config["features"]
