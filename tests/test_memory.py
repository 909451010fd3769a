"""The memory estimate, held against numbers by hand and against torch's own profiler."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from warmstart.memory import (
    optimizer_bytes,
    peak_bytes,
    training_step_bytes,
    validation_step_bytes,
)
from warmstart.optim.optimizers import adagrad, adam, adamw, rmsprop, sgd

SHAPE = (16, 3, 12, 12)
# Bytes of the 8 channels that the net's convolution makes of it.
ONE_MAP = 16 * 8 * 12 * 12 * 4


class TwoHeads(nn.Module):
    """A net that puts out an auxiliary classifier's logits too, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
        self.head, self.auxiliary = nn.Linear(400, 5), nn.Linear(400, 5)

    def forward(self, x: torch.Tensor) -> object:
        x = self.body(x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


class Undecided(nn.Module):
    """A net whose path depends on its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(SHAPE[1] * SHAPE[2] * SHAPE[3], 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits if logits.sum() > 0 else -logits


def net() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    end = [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("head", nn.Linear(8, 4))]
    return nn.Sequential(OrderedDict([("body", body), *end]))


def on_meta(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("meta")


def profiled(model: nn.Module, file: Path) -> int:
    """Return the peak of what torch's allocator counts in a real forward and backward pass."""
    images, labels = torch.randn(SHAPE), torch.zeros(SHAPE[0], dtype=torch.int64)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        F.cross_entropy(model(images), labels).backward()
    profiler.export_chrome_trace(str(file))
    events = [e for e in json.loads(file.read_text())["traceEvents"] if e["name"] == "[memory]"]
    now = most = images.nbytes + labels.nbytes
    for event in sorted(events, key=lambda event: event["ts"]):
        now += event["args"]["Bytes"]
        most = max(most, now)
    return most


class TestPeak:
    def test_what_is_freed_counts_no_more(self) -> None:
        def work() -> None:
            first = torch.zeros(100, device="meta")
            second = first + 1
            del first
            third = torch.zeros(60, device="meta")
            del second, third

        # 400 bytes and 400, then 400 and 240.
        assert peak_bytes(work, outside=()) == 800

    def test_views_and_results_in_place_take_nothing(self) -> None:
        def work() -> None:
            tensor = torch.zeros(10, 10, device="meta")
            tensor.t().add_(1).reshape(100)[:50].mul_(2)

        # `reshape` of the transposed one copies it.
        assert peak_bytes(work, outside=()) == 800

    def test_tensors_outside_do_not_count(self) -> None:
        weight = torch.zeros(10, 10, device="meta")
        assert peak_bytes(lambda: weight.t().add_(1), outside=[weight]) == 0

    def test_what_is_kept_for_the_backward_pass_counts(self) -> None:
        weight = torch.zeros(100, device="meta", requires_grad=True)

        def exps(with_grad: bool) -> Iterator[torch.Tensor]:
            with torch.set_grad_enabled(with_grad):
                x = weight
                for _ in range(5):
                    x = x.exp()
                yield x

        # Each exp keeps its result; without a gradient only one result and the next are there.
        assert peak_bytes(lambda: list(exps(True)), outside=[weight]) == 5 * 400
        assert peak_bytes(lambda: list(exps(False)), outside=[weight]) == 2 * 400


class TestTrainingStep:
    @pytest.mark.parametrize("frozen", [False, True])
    def test_it_is_what_the_profiler_measures(self, frozen: bool, tmp_path: Path) -> None:
        model = net()
        for parameter in model.body.parameters():
            parameter.requires_grad_(not frozen)
        estimate = training_step_bytes(on_meta(model), SHAPE)
        assert estimate == training_step_bytes(model, SHAPE), "meta or not"
        # The profiler also sees what an operation takes for itself, here one copy of a map, and
        # frees some scalars earlier.
        found = profiled(model, tmp_path / "trace.json")
        assert estimate - 256 <= found <= estimate + ONE_MAP + 256

    def test_frozen_layers_keep_nothing(self) -> None:
        full, probe = on_meta(net()), on_meta(net())
        for parameter in probe.body.parameters():
            parameter.requires_grad_(False)
        difference = training_step_bytes(full, SHAPE) - training_step_bytes(probe, SHAPE)
        # Full keeps the maps behind convolution, norm and ReLU, and has one gradient of a map
        # beside them; with the body frozen two maps are alive at once.
        assert 2 * ONE_MAP <= difference < 3 * ONE_MAP

    def test_no_gradients_stay(self) -> None:
        model = on_meta(net())
        training_step_bytes(model, SHAPE)
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_auxiliary_heads_count(self) -> None:
        model = TwoHeads()
        both = training_step_bytes(on_meta(model), SHAPE)
        for parameter in model.auxiliary.parameters():
            parameter.requires_grad_(False)
        # The gradient of the auxiliary head's 400 x 5 weights and 5 biases.
        assert both - training_step_bytes(on_meta(model), SHAPE) == pytest.approx(2005 * 4, abs=400)

    def test_a_path_that_depends_on_the_numbers_is_refused(self) -> None:
        with pytest.raises(RuntimeError):
            training_step_bytes(on_meta(Undecided()), SHAPE)


def test_a_validation_step_keeps_two_maps_at_a_time() -> None:
    images, vectors = 16 * 3 * 12 * 12 * 4, 2 * 8 * 4
    # The images, input and output of BatchNorm, and its mean and deviation per channel.
    assert validation_step_bytes(on_meta(net()), SHAPE) == images + 2 * ONE_MAP + vectors


@pytest.mark.parametrize(
    ("make", "by_hand"),
    [
        # Of the 15 numbers, 4 bytes each: one momentum; none; two moments and two step counters.
        (lambda groups: sgd(groups, lr=0.1), 60),
        (lambda groups: sgd(groups, lr=0.1, momentum=0), 0),
        (lambda groups: adam(groups, lr=0.1), 2 * 60 + 2 * 4),
        (lambda groups: adamw(groups, lr=0.1), 2 * 60 + 2 * 4),
        (lambda groups: sgd(groups, lr=0.1, weight_decay=0.1, decoupled=True), 60),
        # Mean squares and a counter; with momentum that too.
        (lambda groups: rmsprop(groups, lr=0.1), 60 + 2 * 4),
        (lambda groups: rmsprop(groups, lr=0.1, momentum=0.9), 2 * 60 + 2 * 4),
        # Sums and a counter, of the frozen weight of 20 bytes as well.
        (lambda groups: adagrad(groups, lr=0.1), 60 + 2 * 4 + 20 + 4),
    ],
)
def test_optimizers_by_hand(make, by_hand: int) -> None:
    layer = nn.Linear(4, 3)
    frozen = torch.zeros(5)
    found = optimizer_bytes(make, layer.parameters(), [*layer.parameters(), frozen])
    assert found == by_hand
