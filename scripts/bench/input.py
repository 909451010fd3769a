"""What images cost on their way to a model, against torchvision: python scripts/bench/input.py.

CPU time of one core. The same images go through torchvision's ImageFolder and a DataLoader, with
the same crop, mirroring and normalization. What is compared is measured in turns; each number is
the median over repetitions, with their range, and ratios are taken within a repetition. The exit
code is 1 when a median is above its limit.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from overhead import Line
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Sampler

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 128
LARGE = 64  # photos in a batch
STEPS = 8  # of ResNet-8 in one repetition


def main() -> int:
    """Measure the parts that were asked for, print the table, and return the exit code."""
    parts: dict[str, Callable[[Path, int], Iterator[Line]]] = {
        "first": first,
        "later": later,
        "step": step,
        "large": large,
    }
    repeats = {"first": 3, "later": 9, "step": 15, "large": 7}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--data", type=Path, help="folder with cifar10.zip and clothing10.zip")
    parser.add_argument("--images", type=int, default=60_000, help="of CIFAR-10, at most")
    parser.add_argument("--repeat", type=int, help="repetitions of each part")
    options = parser.parse_args()
    wrong = sorted(set(options.parts) - set(parts))
    if wrong:
        parser.error(f"there is no part {wrong[0]!r}; the parts are {', '.join(parts)}")
    data = options.data or Path(os.environ.get("WARMSTART_TEST_DATA") or BESIDE)
    if not (data / "unpack").is_file():
        parser.error(f"{data} has no program 'unpack'; give the folder of images with --data")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    importlib.import_module(
        "warmstart.run.plan"
    )  # which takes seconds, and is no part of the input
    print(f"{'CPU time of one core':58} {'median':>9} [{'least':>9} {'most':>9}] {'':3}  limit")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        place = unpack(data, Path(folder), images=options.images)
        for name in options.parts or parts:
            for line in parts[name](place, options.repeat or repeats[name]):
                print(line, flush=True)
                failed |= line.failed
    return int(failed)


def first(place: Path, repeat: int) -> Iterator[Line]:
    """Compare the first pass over files nobody has read: ours decodes, checks and stores them."""
    from torchvision.datasets import ImageFolder

    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    count = sum(1 for _ in (place / "cifar10").rglob("*.*"))

    def theirs() -> None:
        folder = ImageFolder(place / "cifar10", theirs_at_32())
        for _ in DataLoader(folder, batch_size=BATCH, shuffle=True):
            pass

    def ours() -> None:
        with tempfile.TemporaryDirectory() as fresh:
            batches = small(place, Path(fresh))
            drain(batches, -(-count // BATCH))

    for _ in range(repeat):
        times["theirs"].append(timed(theirs))
        times["ours"].append(timed(ours))
    yield Line(f"first pass over {count:,} JPEGs of 32: ImageFolder", times["theirs"], "s")
    yield Line("first pass: warmstart, with listing, checks and storing", times["ours"], "s")
    yield Line("  ratio", ratios(times["ours"], times["theirs"]), "x", 1.1)


def later(place: Path, repeat: int) -> Iterator[Line]:
    """Compare the passes after that: crop, mirror, normalize."""
    from torchvision.datasets import ImageFolder

    folder = ImageFolder(place / "cifar10", theirs_at_32())
    theirs = DataLoader(folder, batch_size=BATCH, sampler=Endless(len(folder)))
    sources = {"theirs": (iter(theirs), 20), "ours": (small(place, place), len(folder) // BATCH)}
    times = in_turns(sources, repeat)
    each = {way: [1e6 / BATCH * seconds for seconds in times[way]] for way in times}
    yield Line("an image of 32 in a later pass: ImageFolder", each["theirs"], "us")
    # 10 us are 100,000 images per second.
    yield Line("an image of 32 in a later pass: warmstart", each["ours"], "us", 10)


def step(place: Path, repeat: int) -> Iterator[Line]:
    """Compare a training step on our batches with one on tensors that are ready."""
    batches = small(place, place)
    ready = itertools.cycle(list(itertools.islice(batches, STEPS)))
    train = {way: trained(place) for way in ("ready", "ours")}
    sources = {
        "ready": (itertools.starmap(train["ready"], ready), STEPS),
        "ours": (itertools.starmap(train["ours"], batches), STEPS),
    }
    times = in_turns(sources, repeat)
    per_step = {way: [1e3 * seconds for seconds in times[way]] for way in times}
    yield Line(f"step of ResNet-8, {BATCH} images of 32: ready tensors", per_step["ready"], "ms")
    yield Line("step of ResNet-8: warmstart's batches", per_step["ours"], "ms")
    yield Line("  ratio", ratios(times["ours"], times["ready"]), "x", 1.05)


def large(place: Path, repeat: int) -> Iterator[Line]:
    """Compare random parts of photos at 224 pixels: out of JPEGs, and out of our store."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import RandomResizedCrop

    crop = RandomResizedCrop(224, scale=(0.25, 1))
    folder = ImageFolder(place / "clothing10" / "train", theirs_after(crop))
    theirs = DataLoader(folder, batch_size=LARGE, sampler=Endless(len(folder)))
    settings = ["data.size=224", "augment=resized_crop", f"batch_size={LARGE}"]  # they have 256
    ours = ours_of(place / "clothing10", place, settings)
    times = in_turns({"theirs": (iter(theirs), 8), "ours": (ours, 8)}, repeat)
    each = {way: [1e3 / LARGE * seconds for seconds in times[way]] for way in times}
    yield Line("a random part of a photo at 224: ImageFolder", each["theirs"], "ms")
    yield Line("a random part of a photo at 224: warmstart, stored at 256", each["ours"], "ms")
    yield Line("  ratio", ratios(times["ours"], times["theirs"]), "x", 1 / 2.5)


def unpack(data: Path, place: Path, *, images: int) -> Path:
    """Unpack the archives; return a folder with ``cifar10/CLASS/*`` and ``clothing10``."""
    command = [sys.executable, data / "unpack", place / "unpacked", "cifar10", "clothing10"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    files = sorted((place / "unpacked" / "cifar10").glob("*/*/*"), key=lambda file: file.name)
    for number, file in enumerate(files[:images]):
        link = place / "cifar10" / file.parent.name / f"{number:05}{file.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(file)
    (place / "unpacked" / "clothing10").rename(place / "clothing10")
    return place


def prepared(root: Path, out: Path, settings: Sequence[str]) -> Any:
    import warmstart
    from warmstart.run.preparing import forget, prepare

    forget()
    shared = ["trainer=cpu", "data=image_folder", f"data.root={root}", f"out={out}"]
    return prepare(warmstart.compose([*shared, *settings]))


def ours_of(root: Path, out: Path, settings: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield warmstart's training batches without end, as the model gets them."""
    from warmstart.data.preprocess import Preprocess
    from warmstart.run.feed import train_batches

    run = prepared(root, out, settings)
    batches = train_batches(run.config, run.images, run.augment)
    preprocess = Preprocess(run.input, augment=run.augment, channels_last=False)
    for index in itertools.count():
        pixels, labels, uniforms = batches[index]
        yield preprocess(pixels, uniforms, train=True), labels


def small(place: Path, out: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of CIFAR-10, shifted and mirrored."""
    settings = ["augment=crop_flip", f"batch_size={BATCH}"]
    return ours_of(place / "cifar10", out, settings)


def trained(place: Path) -> Callable[[Tensor, Tensor], None]:
    """Return one step of plain SGD on a ResNet-8."""
    run = prepared(place / "cifar10", place, ["model=resnet20", "model.depth=8"])
    model: nn.Module = run.build_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)

    def train(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return train


def theirs_after(crop: Callable[[Any], Any]) -> Callable[[Any], Tensor]:
    from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor

    return Compose([crop, RandomHorizontalFlip(), ToTensor(), Normalize(MEAN, STD)])


def theirs_at_32() -> Callable[[Any], Tensor]:
    from torchvision.transforms import RandomCrop

    return theirs_after(RandomCrop(32, padding=4))


class Endless(Sampler[int]):
    """Random places without end."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.count).tolist()


def in_turns(
    sources: Mapping[str, tuple[Iterator[Any], int]], repeat: int
) -> dict[str, list[float]]:
    """Return the CPU-seconds of one item of each source; so many are taken in a repetition."""
    times: dict[str, list[float]] = {name: [] for name in sources}
    for source, _ in sources.values():  # what happens once is not measured
        next(source)
    for _ in range(repeat):
        for name, (source, count) in sources.items():
            times[name].append(timed(lambda s=source, n=count: drain(s, n)) / count)  # type: ignore[misc]
    return times


def drain(source: Iterator[Any], count: int) -> None:
    for _ in itertools.islice(source, count):
        pass


def timed(work: Callable[[], object]) -> float:
    """Return the CPU-seconds of `work`."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
