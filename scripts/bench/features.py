"""What frozen features save: python scripts/bench/features.py [PART ...] [--quick] [--repeat N].

CPU time at one thread, on 5,000 of the CIFAR-10 images and the ResNet-20 beside the repository.
What is compared is measured in turns; each number is the median over repetitions, with their
range, and ratios are taken within a repetition. Parts: ``probe`` (a linear probe of 30 epochs),
``boundary`` (the last group alone), ``stacked`` (64 probes at once), ``cells`` (a comparison of 36
runs, against a fresh process for each) and ``memory`` (a million features of 2,048 numbers). All
take about 25 minutes; with --quick, sizes that only show that each part works. The exit code is 1
when a median misses its limit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import frozen
import plain
import torch
from features_cells import cells
from features_memory import memory
from features_stacked import stacked
from input import BESIDE, ratios, timed
from measuring import Line, header
from torch import nn

BATCH = 128


@dataclass(frozen=True)
class Place:
    """Where the images are, and how much is measured.

    Attributes:
        folder: With ``cifar/{train,val,test}/CLASS/*``; what is made goes here too.
        weights: Of ResNet-20.
        quick: Only see that it works.
    """

    folder: Path
    weights: Path
    quick: bool

    def words(self, *own: str) -> list[str]:
        """Return the overrides of a run on these images; what runs share lies in one store."""
        root, store = self.folder / "cifar", self.folder / "store"
        data = ["trainer=cpu", "data=image_folder", f"data.root={root}", f"store={store}"]
        model = ["model=resnet20", "init=pretrained", f"init.weights={self.weights}", "keep=none"]
        return [*data, *model, f"batch_size={BATCH}", *own]

    def train(self, *own: str) -> Any:
        """Return the record of a run that nobody has made before."""
        import warmstart

        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            return warmstart.train(self.words(f"out={out}", *own))

    def forget_features(self) -> None:
        shutil.rmtree(self.folder / "store" / "features", ignore_errors=True)


def main() -> int:
    """Measure the parts that were asked for, print the table, and return the exit code."""
    parts: dict[str, Callable[[Place, int], Iterator[Line]]] = {
        "probe": probe,
        "boundary": boundary,
        "stacked": stacked,
        "cells": cells,
        "memory": memory,
    }
    repeats = {"probe": 3, "boundary": 3, "stacked": 5, "cells": 1, "memory": 1}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--data", type=Path, default=BESIDE, help="with cifar10.zip and weights")
    parser.add_argument("--repeat", type=int, help="repetitions of each part")
    parser.add_argument("--quick", action="store_true", help="small sizes: see that it works")
    options = parser.parse_args()
    wrong = sorted(set(options.parts) - set(parts))
    if wrong:
        parser.error(f"there is no part {wrong[0]!r}; the parts are {', '.join(parts)}")
    torch.set_num_threads(1)
    print(header())
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        place = unpack(options.data, Path(folder), quick=options.quick)
        for name in options.parts or parts:
            count = options.repeat or (1 if options.quick else repeats[name])
            for line in parts[name](place, count):
                print(line, flush=True)
                failed |= line.failed
    return int(failed)


def unpack(data: Path, folder: Path, *, quick: bool) -> Place:
    """Lay out the images: of each class 400 to train, 50 to validate and 50 to test."""
    command = [sys.executable, data / "unpack", folder / "unpacked", "cifar10"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    counts = (
        {"train": 40, "val": 10, "test": 10} if quick else {"train": 400, "val": 50, "test": 50}
    )
    for source in sorted((folder / "unpacked" / "cifar10" / "train").iterdir()):
        files = iter(sorted(source.iterdir(), key=lambda file: file.name))
        for split, count in counts.items():
            target = folder / "cifar" / split / source.name
            target.mkdir(parents=True)
            for _ in range(count):
                file = next(files)
                (target / file.name).hardlink_to(file)
    return Place(folder, data / "weights" / "resnet20-12fca82f.th", quick)


def ready(place: Place) -> tuple[nn.Module, dict[str, frozen.Ready]]:
    """Return the net with its weights in eval mode, and the finished images of each split."""
    import warmstart
    from warmstart.run.initial import initial_model
    from warmstart.run.preparing import prepare

    run = prepare(warmstart.compose(place.words()))
    images = frozen.ready_images(run, Path(os.devnull))
    return initial_model(run).model.eval(), images


def probe(place: Place, repeat: int) -> Iterator[Line]:
    """Compare a linear probe of 30 epochs with its least, and with Lightning's ways to it."""
    model, images = ready(place)
    backbone, epochs = without_head(model), 30
    count = len(images["train"][1])
    steps = -(-epochs * count // BATCH)
    one = frozen.batches(images["train"], size=BATCH, count=-(-count // BATCH))
    features = frozen.forward(backbone, [images["train"]]), images["train"][1]
    order = torch.randint(count, (steps, BATCH))
    recipe = ["strategy=linear_probe", "steps=null", f"epochs={epochs}", "optimizer.lr=0.1"]
    names = ("pass", "head", "cold", "warm", "frozen", "callback")
    times: dict[str, list[float]] = {name: [] for name in names}
    place.train(*recipe, "seed=99", "steps=1", "epochs=null")  # what happens once is not measured
    for number in range(repeat):
        place.forget_features()
        times["pass"].append(timed(lambda: frozen.forward(model, list(images.values()))))
        times["head"].append(timed(lambda: frozen.torch_probe(features, order)))
        times["cold"].append(timed(lambda n=number: cached(place.train(*recipe, f"seed={n}"))))
        times["warm"].append(timed(lambda n=number: cached(place.train(*recipe, f"seed=5{n}"))))
        head = nn.Linear(features[0].shape[1], 10)
        times["frozen"].append(epochs * frozen.epoch_frozen(backbone, head, one))
        before, after = frozen.epochs_with_callback(fresh(backbone), head, one)
        later = epochs - frozen.UNFREEZES_AT
        times["callback"].append(frozen.UNFREEZES_AT * before + later * after)
        backbone.requires_grad_(False).eval()
    least = [a + b for a, b in zip(times["pass"], times["head"], strict=True)]
    yield Line(f"a forward pass over {frozen.shaped(images)} images", times["pass"], "s")
    yield Line(f"the head's {steps:,} steps in a bare torch loop", times["head"], "s")
    yield Line(f"linear probe of {epochs} epochs: warmstart, nothing kept", times["cold"], "s")
    yield Line("  of the pass and the head's steps", ratios(times["cold"], least), "x", 1.1)
    yield Line("linear probe: warmstart, features kept from an earlier run", times["warm"], "s")
    yield Line("Lightning, frozen as it should be (from 1 epoch)", times["frozen"], "s")
    yield Line("  of warmstart", ratios(times["frozen"], times["cold"]), "x", least=18)
    yield Line("Lightning, BackboneFinetuning as it comes (from 2)", times["callback"], "s")
    yield Line("  of warmstart", ratios(times["callback"], times["cold"]), "x", least=50)


def boundary(place: Place, repeat: int) -> Iterator[Line]:
    """Compare the last group and the head on kept features with both alone on ready inputs."""
    model, images = ready(place)
    epochs = 4
    top = nn.Sequential(model.layer3, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.linear)
    below = nn.Sequential(model.conv1, model.bn1, nn.ReLU(), model.layer1, model.layer2)
    inputs = {name: (frozen.forward(below, [part]), part[1]) for name, part in images.items()}
    steps = -(-epochs * len(images["train"][1]) // BATCH)
    every = -(-steps // 4)
    recipe = ["strategy=partial", "strategy.top=2", "steps=null", f"epochs={epochs}"]
    recipe.append(f"val_every_steps={every}")
    found = {name: frozen.in_order(part) for name, part in inputs.items()}
    found["train"] = frozen.batches(inputs["train"], size=BATCH, count=steps)
    times: dict[str, list[float]] = {"alone": [], "ours": [], "live": []}
    place.train(*recipe, "seed=99")  # keeps the features
    for number in range(repeat):
        alone = fresh(top).train()
        times["alone"].append(timed(lambda m=alone: plain.fit_and_test(m, found, validate=every)))
        times["ours"].append(timed(lambda n=number: cached(place.train(*recipe, f"seed={n}"))))
        live = [*recipe, f"seed={number}", "features.cache=off"]
        times["live"].append(timed(lambda w=live: place.train(*w)))
    yield Line(
        f"last group and head, {epochs} epochs: Lightning, ready inputs", times["alone"], "s"
    )
    yield Line("last group and head: warmstart, features kept", times["ours"], "s")
    yield Line("  of Lightning on ready inputs", ratios(times["ours"], times["alone"]), "x", 1.05)
    yield Line("last group and head: warmstart, features.cache=off", times["live"], "s")
    yield Line("  of it with kept features", ratios(times["live"], times["ours"]), "x")


def without_head(model: nn.Module) -> nn.Module:
    """Return the net up to its head, in eval mode and with weights of its own."""
    backbone = fresh(model)
    backbone.linear = nn.Identity()
    return backbone.eval()


def fresh(model: nn.Module) -> nn.Module:
    """Return a copy that may be trained."""
    import copy

    return copy.deepcopy(model).requires_grad_(True)


def cached(record: Any) -> None:
    """Check that a run did what is measured."""
    if not record.features[0]["cached"]:
        raise SystemExit(f"not cached, because {record.features[0]['reason']}")


if __name__ == "__main__":
    sys.exit(main())
