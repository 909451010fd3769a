"""64 probes as one computation: beside bare matrix products, and one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from frozen import Ready, sklearn_probe, torch_probe
from input import ratios, timed
from measuring import Line
from torch import Tensor

IMAGES, CLASSES, BATCH = 4000, 10, 128
RATES = [10 ** (-4 + exponent / 2) for exponent in range(8)]
DECAYS = [0.0, 1e-4, 1e-3, 1e-2]
SEEDS = 2  # each has an order of its own, and so a stream of batches of its own
PROBES = len(RATES) * len(DECAYS) * SEEDS
ALONE = 4  # torch's probes are measured on so many, scikit-learn's on one


def stacked(place: Any, repeat: int) -> Iterator[Line]:
    """Compare 64 probes in one stack with bare products, with one, and with 64 in turns."""
    steps = 20 if place.quick else 300
    for width in (512, 64):
        part, found = synthetic(width), dict[str, list[float]]()
        ways: dict[str, Callable[[], float]] = {
            "products": lambda w=width: timed(lambda: products(w, steps)),  # type: ignore[misc]
            "all": lambda p=part: timed(lambda: together(p, PROBES, steps)),  # type: ignore[misc]
            "one": lambda p=part: timed(lambda: together(p, 1, steps)),  # type: ignore[misc]
            "torch": lambda p=part: PROBES / ALONE * timed(lambda: in_turns(p, ALONE, steps)),  # type: ignore[misc]
            "sklearn": lambda p=part: PROBES * timed(lambda: sklearn_probe(p, strength=1.0)),  # type: ignore[misc]
        }
        for way in ways.values():
            way()  # what happens once is not measured
        for _ in range(repeat):
            for name, way in ways.items():
                found.setdefault(name, []).append(way())
        yield from _lines(width, steps, found)


def _lines(width: int, steps: int, found: dict[str, list[float]]) -> Iterator[Line]:
    head = f"{PROBES} probes, {width} features"
    yield Line(f"{head}, {steps} steps: bare products", found["products"], "s")
    yield Line(f"{head}: warmstart, as one computation", found["all"], "s")
    of_products = ratios(found["all"], found["products"])
    yield Line("  of the bare products", of_products, "x", 1.5 if width == 512 else None)
    one = [seconds / PROBES for seconds in found["torch"]]
    yield Line(f"one probe, {width} features: torch (from {ALONE})", one, "s")
    yield Line("  64 of warmstart's", ratios(found["all"], one), "x", 2 if width == 64 else None)
    yield Line(f"one probe, {width} features: warmstart", found["one"], "s")
    yield Line("  64 of it", ratios(found["all"], found["one"]), "x")
    yield Line(f"{head}: torch, in turns (from {ALONE})", found["torch"], "s")
    yield Line("  of warmstart", ratios(found["torch"], found["all"]), "x", least=10)
    yield Line(f"{head}: LogisticRegression (from 1)", found["sklearn"], "s")
    yield Line("  of warmstart", ratios(found["sklearn"], found["all"]), "x")


def synthetic(width: int) -> Ready:
    """Return rectified features [n, width] that tell their classes apart, and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    means = torch.randn(CLASSES, width, generator=generator) * 2.5 / width**0.5
    noise = torch.randn(IMAGES, width, generator=generator)
    return (means[labels] + noise).relu(), labels


def products(width: int, steps: int) -> None:
    """Multiply what the steps of all probes have to, and nothing else."""
    rows = PROBES // SEEDS * CLASSES
    weights = [torch.randn(rows, width) for _ in range(SEEDS)]
    errors = [torch.randn(rows, BATCH) for _ in range(SEEDS)]
    batch = torch.randn(BATCH, width)
    columns = batch.t().contiguous()
    logits, gradients = torch.empty(rows, BATCH), torch.empty(rows, width)
    for _ in range(steps):
        for weight, error in zip(weights, errors, strict=True):
            torch.mm(weight, columns, out=logits)
            torch.mm(error, batch, out=gradients)


def together(part: Ready, count: int, steps: int) -> Tensor:
    """Train the first `count` probes as one computation; return the sums of what they measured."""
    from warmstart.optim.stacked import STEPS, Member, Stack
    from warmstart.optim.stacked_updates import Sgd

    recipes = list(itertools.product(range(SEEDS), RATES, DECAYS))[:count]
    shape = (CLASSES, part[0].shape[1])
    streams = [
        [
            Member(torch.zeros(shape), torch.zeros(CLASSES), rate=rate, decay=(decay, 0.0))
            for own, rate, decay in recipes
            if own == seed
        ]
        for seed in sorted({seed for seed, _, _ in recipes})
    ]
    stack = Stack(streams, Sgd(momentum=0.9))
    orders = [order(seed, steps) for seed in range(len(streams))]
    for start in range(0, steps, STEPS):
        batches = [
            [(part[0].index_select(0, rows), part[1].index_select(0, rows)) for rows in step]
            for step in zip(*(own[start : start + STEPS] for own in orders), strict=True)
        ]
        stack.run(batches, factors=[1.0] * len(batches), step=start)
    return stack.sums


def in_turns(part: Ready, count: int, steps: int) -> None:
    """Train `count` probes one after the other in plain torch."""
    recipes = itertools.islice(itertools.product(range(SEEDS), RATES, DECAYS), count)
    for seed, rate, decay in recipes:
        torch_probe(part, order(seed, steps), classes=CLASSES, rate=rate, decay=decay)


def order(seed: int, steps: int) -> Tensor:
    """Return the rows of each step's batch, int64 [steps, BATCH]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(IMAGES, (steps, BATCH), generator=generator)
