"""A comparison of 36 runs as one command, against a fresh process for each of them."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from input import ratios
from measuring import Line, process

COMMAND = (sys.executable, "-m", "warmstart")
EPOCHS, BATCH = 10, 32
ARMS = {
    "probe": ("pretrained", "linear_probe", 0.1),
    "partial": ("pretrained", "partial", 0.05),
    "full": ("pretrained", "full", 0.02),
    "scratch": ("scratch", "full", 0.1),
}
SIZES, SEEDS = (10, 30, 90), 3  # images of each of the ten classes
FAST = ("trainer.channels_last=true", "trainer.precision=bf16-mixed")
# 256 linear probes that differ in rate, decay and seed.
PROBES = {
    "optimizer.lr": "0.001,0.003,0.01,0.03,0.1,0.3,1.0,3.0",
    "optimizer.weight_decay": "0.0,0.0001,0.001,0.01",
    "seed": "0,1,2,3,4,5,6,7",
}


def cells(place: Any, repeat: int) -> Iterator[Line]:
    """Compare 36 cells in one command with a fresh process for each, which keeps no features."""
    sizes = SIZES[:1] if place.quick else SIZES
    own, common = configs(place, sizes)
    fresh: list[float] = []
    of_probes: list[float] = []
    ours: dict[str, list[float]] = {"fp32": [], "fast": []}
    together: list[float] = []
    for number in range(repeat):
        with tempfile.TemporaryDirectory(dir=place.folder) as out:
            train = [*COMMAND, "train", *common, "features.cache=off", f"seed={number}"]
            alone = {
                (arm, size): process(
                    [*train, f"arm=bench/{arm}", f"data.per_class={size}", f"out={out}/{arm}{size}"]
                )[0]
                for arm, size in itertools.product(ARMS, sizes)
            }
            fresh.append(SEEDS * sum(alone.values()))
            of_probes.append(alone["probe", sizes[-1]])
            for name, extra in {"fp32": (), "fast": FAST}.items():
                words = ["compare", *common, "comparison=bench", *extra, f"out={out}/{name}"]
                ours[name].append(process([*COMMAND, *words])[0])
            probes = ["compare", *common, f"out={out}/probes", f"data.per_class={sizes[-1]}"]
            together.append(process([*COMMAND, *probes, "comparison=bench_probes"])[0])
    yield from _lines(own, sizes, fresh, ours)
    yield Line(f"a fresh process for a probe of {10 * sizes[-1]} images", of_probes, "s")
    yield Line("256 such probes in one comparison", together, "s")
    all_alone = [256 * one for one in of_probes]
    yield Line("  256 processes, of it", ratios(all_alone, together), "x", least=100)


def _lines(
    own: Path, sizes: Sequence[int], fresh: list[float], ours: dict[str, list[float]]
) -> Iterator[Line]:
    count = len(ARMS) * len(sizes) * SEEDS
    mix = f"{', '.join(ARMS)} x {'/'.join(str(10 * size) for size in sizes)} images x {SEEDS} seeds"
    print(f"{count} cells: {mix}; ResNet-8, {EPOCHS} epochs, batch {BATCH}")
    yield Line(f"{count} cells: fresh processes, nothing kept (from {count // SEEDS})", fresh, "s")
    yield Line(f"{count} cells: one warmstart compare, the same arithmetic", ours["fp32"], "s")
    yield Line("  ratio", ratios(fresh, ours["fp32"]), "x", least=3.5)
    yield Line(f"{count} cells: likewise, channels_last and bf16", ours["fast"], "s")
    yield Line("  ratio", ratios(fresh, ours["fast"]), "x", least=6)


def configs(place: Any, sizes: Sequence[int]) -> tuple[Path, list[str]]:
    """Write arms and comparisons; return their folder and the overrides of all runs."""
    own, epochs = place.folder / "own", 1 if place.quick else EPOCHS
    seeds = ",".join(map(str, range(SEEDS)))
    whole = {
        "arm": ",".join(f"bench/{arm}" for arm in ARMS),
        "data.per_class": ",".join(map(str, sizes)),
        "seed": seeds,
    }
    files = {f"arm/bench/{name}": _arm(*parts) for name, parts in ARMS.items()}
    for name, grid in {"bench": whole, "bench_probes": PROBES}.items():
        files[f"comparison/{name}"] = _comparison(name, grid)
    for name, text in files.items():
        path = own / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# @package _global_\n{text}")
    root = place.folder / "cifar"
    common = ["--config-dir", str(own), "trainer=cpu", "data=image_folder", f"data.root={root}"]
    common += ["model=resnet20", "model.depth=8", f"batch_size={BATCH}", "val_every_steps=100"]
    common += ["steps=null", f"epochs={epochs}", "keep=none"]
    return own, [*common, f"model.weights={weights(place)}"]


def weights(place: Any) -> Path:
    """Train a ResNet-8 for a few steps on the same images; return its weights."""
    with tempfile.TemporaryDirectory(dir=place.folder) as out:
        words = ["model=resnet20", "model.depth=8", "init=scratch", "steps=30", "keep=best"]
        data = ["trainer=cpu", "data=image_folder", f"data.root={place.folder / 'cifar'}"]
        process([*COMMAND, "train", *data, *words, f"out={out}"])
        (found,) = Path(out, "runs").glob("*/best.safetensors")
        return found.rename(place.folder / "resnet8.safetensors")


def _arm(init: str, strategy: str, rate: float) -> str:
    return (
        "defaults:\n"
        f"  - override /init: {init}\n"
        f"  - override /strategy: {strategy}\n"
        f"optimizer: {{lr: {rate}}}\n"
    )


def _comparison(name: str, grid: dict[str, str]) -> str:
    own = {"name": name, "reference": None, "metric": "test/accuracy"}
    content = {"comparison": own, "hydra": {"sweeper": {"params": grid}}}
    head = "" if "arm" in grid else _arm("pretrained", "linear_probe", 0.1).split("optimizer")[0]
    return head + "".join(f"{key}: {json.dumps(value)}\n" for key, value in content.items())
