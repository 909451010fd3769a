"""Counted randomness: a value for every place, on every machine and in every version."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from warmstart.randomness import derive, numpy_generator, torch_generator


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
