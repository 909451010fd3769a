"""Stacked classifiers: torch's optimizers, to rounding, and the same bits in every stack."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from warmstart.optim.stacked import Member, Stack
from warmstart.optim.stacked_updates import Adam, Sgd, Update, update_of

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.99)}),
    "adamw": (torch.optim.AdamW, {}),
}


def images(count: int, features: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=generator)
    return x, torch.randint(classes, (count,), generator=generator)


def members(count: int, features: int, classes: int, *, bias: bool = True) -> list[Member]:
    generator = torch.Generator().manual_seed(7)
    return [
        Member(
            0.1 * torch.randn(classes, features, generator=generator),
            0.1 * torch.randn(classes, generator=generator) if bias else None,
            rate=0.1 / (1 + index),
            decay=(0.01 * index, 0.02),
        )
        for index in range(count)
    ]


def steps(stack: Stack, streams: list[tuple[Tensor, Tensor]], numbers: range, size: int) -> None:
    batches = []
    for number in numbers:
        chosen = torch.randperm(len(streams[0][0]), generator=torch.Generator().manual_seed(number))
        batches.append([(x[chosen[:size]], y[chosen[:size]]) for x, y in streams])
    factors = [1 / (1 + number) for number in numbers]
    stack.run(batches, factors=factors, step=numbers.start)


def same(one: Member, other: Member) -> bool:
    pairs = [(one.weight, other.weight), (one.bias, other.bias), (one.sums, other.sums)]
    pairs += [p for name in one.slots for p in zip(one.slots[name], other.slots[name], strict=True)]
    return all(a is b or torch.equal(a, b) for a, b in pairs)


def test_a_step_by_hand() -> None:
    """Two classes, no weights yet: every probability is 1/2."""
    stack = Stack([[Member(torch.zeros(2, 1), torch.zeros(2), 0.5)]], Sgd(momentum=0.0))
    batch = torch.tensor([[2.0], [4.0]]), torch.tensor([0, 1])
    stack.run([[batch]], factors=[0.1], step=0)
    # Gradients of the weights: the mean of (1/2 - [y = c]) x; of the biases they cancel.
    assert stack.member(0).weight.flatten().tolist() == pytest.approx([-0.025, 0.025])
    assert stack.member(0).bias.tolist() == [0, 0]
    # Of equal logits the first one is the prediction.
    assert stack.sums.tolist() == [[pytest.approx(2 * math.log(2)), 1, 2]]
    stack.clear()
    assert stack.sums.tolist() == [[0, 0, 0]]
    # Now the second class is likelier wherever x is positive.
    loss, right, count = stack.measure(batch)[0].tolist()
    margins = [2 * 0.05, -4 * 0.05]
    assert loss == pytest.approx(sum(math.log1p(math.exp(m)) for m in margins))
    assert (right, count) == (1, 2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_as_torch_does(name: str, bias: bool) -> None:
    make, options = OPTIMIZERS[name]
    x, y = images(100, 20, 7)
    weights = torch.linspace(0.5, 2, 7)
    own = members(4, 20, 7, bias=bias)
    layers, optimizers = [], []
    for member in own:
        layer = nn.Linear(20, 7, bias=bias)
        layer.load_state_dict({"weight": member.weight} | ({"bias": member.bias} if bias else {}))
        parameters = [
            {"params": [parameter], "weight_decay": decay}
            for parameter, decay in zip(layer.parameters(), member.decay, strict=False)
        ]
        layers.append(layer)
        optimizers.append(make(parameters, lr=member.rate, fused=True, **options))
    update = update_of(optimizers[0])
    assert update is not None
    stack = Stack([own], update, class_weights=[weights])
    sums = torch.zeros(4, 3)
    for step in range(10):
        rows = slice(7 * step, 7 * step + 13)
        factor = 1 / (1 + step)
        stack.run([[(x[rows], y[rows])]], factors=[factor], step=step)
        for index, (layer, optimizer) in enumerate(zip(layers, optimizers, strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = own[index].rate * factor
            optimizer.zero_grad()
            logits = layer(x[rows])
            loss = F.cross_entropy(logits, y[rows], weights, reduction="sum")
            (loss / len(logits)).backward()
            optimizer.step()
            right = (logits.argmax(1) == y[rows]).sum()
            sums[index] += torch.tensor([loss.item(), right.item(), len(logits)])
    torch.testing.assert_close(stack.sums, sums)
    for index, layer in enumerate(layers):
        torch.testing.assert_close(stack.member(index).weight, layer.weight.detach())
        if bias:
            torch.testing.assert_close(stack.member(index).bias, layer.bias.detach())


def test_an_optimizer_of_another_kind_has_no_update() -> None:
    parameter = [nn.Parameter(torch.zeros(1))]
    assert update_of(torch.optim.RMSprop(parameter)) is None
    assert update_of(torch.optim.SGD(parameter, lr=0.1, momentum=0.9, dampening=0.5)) is None
    assert update_of(torch.optim.Adam(parameter, amsgrad=True)) is None


@pytest.mark.parametrize("update", [Sgd(), Sgd(nesterov=True), Adam(decoupled=True)])
@pytest.mark.parametrize(
    ("features", "classes", "size"),
    [
        (1, 2, 1),
        (33, 3, 7),
        (64, 10, 128),
        (256, 5, 2),
        (512, 10, 32),
        (1280, 10, 16),
        (20, 120, 9),
        (200, 10, 250),
    ],
)
def test_in_every_stack_to_the_same_bits(
    features: int, classes: int, size: int, update: Update
) -> None:
    """Alone, among others of its stream, and with another stream before it."""
    streams = [images(max(60, size), features, classes, seed) for seed in (0, 1)]
    own = members(48, features, classes)
    whole = Stack([own[:5], own[5:]], update)
    steps(whole, streams, range(3), size)
    x, y = streams[1]
    for first, last in ((5, 6), (5, 24), (30, 31), (40, 48)):
        part = Stack([own[first:last]], update)
        steps(part, streams[1:], range(3), size)
        assert torch.equal(part.measure((x, y)), whole.measure((x, y))[first:last])
        for index in range(first, last):
            assert same(part.member(index - first), whole.member(index))


@pytest.mark.parametrize("update", [Sgd(), Adam()])
def test_it_goes_on_from_its_members(update: Update) -> None:
    streams, own = [images(40, 20, 4)], members(6, 20, 4)
    unbroken = Stack([own], update)
    steps(unbroken, streams, range(6), 8)
    first = Stack([own], update)
    steps(first, streams, range(3), 8)
    # The others have left.
    second = Stack([[first.member(index) for index in (1, 4)]], update)
    steps(second, streams, range(3, 6), 8)
    assert same(second.member(0), unbroken.member(1))
    assert same(second.member(1), unbroken.member(4))
