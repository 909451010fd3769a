"""Counted randomness: a value for every place, on every machine and in every version."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from warmstart.randomness import _mixed, counted_uniforms, derive, numpy_generator, torch_generator


def test_known_values():
    # A change here changes every run that anybody has recorded.
    assert derive(0, "order", 0) == 8_351_786_838_227_990_435
    assert derive(7) == 5_135_535_630_271_676_732


def test_the_formula():
    digest = hashlib.sha256(b"3\x00augment\x002").digest()
    assert derive(3, "augment", 2) == int.from_bytes(digest[:8], "little") >> 1


@given(st.integers(0, 2**63), st.lists(st.text(max_size=5) | st.integers()))
def test_every_generator_takes_the_value(seed, place):
    value = derive(seed, *place)
    assert 0 <= value < 2**63
    torch.Generator().manual_seed(value)
    np.random.default_rng(value)


def test_places_differ():
    places = [(), ("a",), ("a", 0), ("a", 1), ("a", 1, 0), ("a", 10), ("b", 1), ("a1",)]
    values = {derive(seed, *place) for seed in (0, 1, 10) for place in places}
    assert len(values) == 3 * len(places)


def test_generators_start_at_their_place():
    for make, draw in (
        (torch_generator, lambda g: torch.rand(4, generator=g).tolist()),
        (numpy_generator, lambda g: g.random(4).tolist()),
    ):
        assert draw(make(1, "order", 2)) == draw(make(1, "order", 2))
        assert draw(make(1, "order", 2)) != draw(make(1, "order", 3))
        assert draw(make(1, "order", 2)) != draw(make(2, "order", 2))


def test_the_streams_of_the_process_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(2).tolist()
    torch.manual_seed(0)
    torch.rand(3, generator=torch_generator(0, "x"))
    assert torch.rand(2).tolist() == expected


def test_the_numbers_of_splitmix64():
    """The first outputs for the seed 0 are published with the reference implementation."""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([0, gamma, 2 * gamma % 2**64], np.uint64)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert _mixed(states).tolist() == expected


def test_counted_numbers_depend_on_their_place_alone():
    rows, times = np.arange(50), np.arange(50) % 3
    whole = counted_uniforms(7, rows, times, columns=4)
    some = np.array([3, 41, 3])
    assert np.array_equal(counted_uniforms(7, rows[some], times[some], columns=4), whole[some])
    assert np.array_equal(counted_uniforms(7, rows, times, columns=2), whole[:, :2])
    assert not (counted_uniforms(8, rows, times, columns=4) == whole).any()
    assert counted_uniforms(7, rows, times, columns=0).shape == (50, 0)


def test_counted_numbers_are_uniform_and_independent():
    count = 100_000
    numbers = counted_uniforms(0, np.arange(count), np.zeros(count, np.int64), columns=3)
    later = counted_uniforms(0, np.arange(count), np.ones(count, np.int64), columns=3)
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Five standard deviations of a mean, and of a share of one in sixteen.
    assert np.abs(numbers.mean(axis=0) - 0.5).max() < 5 * (1 / 12 / count) ** 0.5
    shares = np.stack([np.histogram(column, 16, (0, 1))[0] for column in numbers.T]) / count
    assert np.abs(shares - 1 / 16).max() < 5 * (15 / 256 / count) ** 0.5
    pairs = np.corrcoef(numbers.T)
    assert np.abs(pairs - np.eye(3)).max() < 5 / count**0.5
    for one, other in ((numbers, later), (numbers[1:], numbers[:-1])):
        between = np.corrcoef(one.T, other.T)[:3, 3:]
        assert np.abs(between).max() < 5 / len(one) ** 0.5
