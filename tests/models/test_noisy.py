"""Layers that draw in training: what they draw by hand, and that evaluation draws nothing."""

import pytest
import torch
from torch import nn

from warmstart.models.noisy import FractionalMaxPool, noisy


def linear(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def test_dropout_is_on_the_input():
    torch.manual_seed(0)
    layer = noisy(linear([[1.0, 0.0], [0.0, 1.0]]), dropout=0.75, drop_connect=0.0)
    out = layer(torch.ones(4000, 2))
    assert set(out.unique().tolist()) == {0.0, 4.0}
    assert out.mean().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(layer.eval()(torch.ones(2, 2)), torch.ones(2, 2))


def test_dropconnect_drops_other_weights_for_each_image():
    torch.manual_seed(0)
    layer = noisy(linear([[1.0, 1.0, 1.0]], [10.0]), dropout=0.0, drop_connect=0.5)
    out = layer(torch.ones(4000, 3))
    # Of three weights of 1 and a bias of 10 each is there, twice as large, or not.
    assert set(out.unique().tolist()) == {b + w for b in (0.0, 20.0) for w in (0.0, 2.0, 4.0, 6.0)}
    assert out.mean().item() == pytest.approx(13, abs=0.5)
    assert layer.eval()(torch.ones(1, 3)).item() == 13


def test_a_dropped_weight_gets_no_gradient():
    torch.manual_seed(0)
    layer = noisy(linear([[1.0] * 6]), dropout=0.0, drop_connect=0.5)
    out = layer(torch.ones(1, 6))
    out.sum().backward()
    assert set(layer.weight.grad.unique().tolist()) == {0.0, 2.0}
    assert layer.weight.grad.sum() == out.sum()


def test_the_parameters_are_those_of_the_layer():
    plain = nn.Conv2d(3, 2, 1, stride=2)
    state = torch.random.get_rng_state()
    layer = noisy(plain, dropout=0.5, drop_connect=0.0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    x = torch.randn(2, 3, 4, 4)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), plain(x))


def test_fractional_pooling_by_hand():
    pool, x = FractionalMaxPool().eval(), torch.randn(2, 3, 8, 8)
    # Graham's sequence of int(1.5 (i + 1/2)): 8 pixels to 5, in steps of one or two.
    starts = [0, 2, 3, 5, 6]
    expected = torch.stack(
        [
            torch.stack([x[..., i : i + 2, j : j + 2].amax((2, 3)) for j in starts], -1)
            for i in starts
        ],
        -2,
    )
    assert torch.equal(pool(x), expected)
    assert torch.equal(pool(x[..., :4, :4]), nn.functional.max_pool2d(x[..., :4, :4], 2))


@pytest.mark.parametrize("side", [2, 3, 5, 8, 17])
def test_fractional_pooling_takes_maxima_at_places_that_it_draws(side):
    pool, x = FractionalMaxPool(), torch.randn(1, 2, side, side)
    torch.manual_seed(0)
    draws = [pool(x) for _ in range(8)]
    assert draws[0].shape == (1, 2, *[int(side / 2**0.5)] * 2)
    squares = nn.functional.max_pool2d(x, 2, stride=1)
    assert all(torch.isin(draw, squares).all() for draw in draws)
    if side > 3:  # else the squares have but one way to lie
        assert any(not torch.equal(draws[0], draw) for draw in draws)
