"""The parts of a check that need no training."""

import numpy as np
import pytest
import torch

from warmstart.check.labels import chance, vote
from warmstart.check.measure import chosen, contradictions
from warmstart.strategies.phases import Phase, gradual


def test_the_nearest_five_vote():
    labels = np.array([0, 1, 1, 2, 2, 2, 0])
    near = torch.tensor([[1.0, 2, 3, 4, 5, 9, 9], [9.0, 9, 1, 2, 3, 4, 5]])
    # The first five: 0 1 1 2 2, where 1 and 2 have two votes each; the last five: 1 2 2 2 0.
    assert vote(near, labels, 3).tolist() == [1, 2]


def test_chance_is_that_of_guesses_with_the_same_frequencies():
    predicted, labels = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert chance(predicted, labels, 2) == pytest.approx(0.75 * 0.5 + 0.25 * 0.5)


def test_equal_images_with_several_labels_are_contradictions():
    pixels = torch.tensor([0, 1, 0, 2, 1], dtype=torch.uint8).reshape(5, 1, 1, 1)
    assert contradictions(pixels, torch.tensor([0, 1, 3, 2, 1])) == 2


def test_phases_that_differ_in_their_start_alone_are_tested_once():
    twice = [Phase(0, 1), Phase(5, 3), Phase(9, 1)]
    assert chosen(twice) == (twice[:2], [])
    many = gradual(groups=6, steps=100)
    tested, left = chosen(many)
    assert [phase.groups for phase in tested] == [1, 3, 6]
    assert left == [1, 3, 4]
