"""What is painted over, by hand and within its bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.augment.erasing import Cutout, Erasing

COLOUR = torch.tensor([7.0, 8.0])


def erased(operation, rows, *, height, width):
    """Return which pixels are painted: bool [n, height, width]; the others must be unchanged."""
    x = torch.full((len(rows), 2, height, width), 200.0)
    result = operation(x, torch.tensor(rows, dtype=torch.float32), COLOUR)
    painted = (result == COLOUR[:, None, None]).all(dim=1)
    assert torch.equal(painted | (result == 200).all(dim=1), torch.ones_like(painted))
    assert (x == 200).all()
    return painted


def box(mask):
    """Return top, left, bottom and right of the only rectangle in a mask."""
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    assert mask.sum() == (bottom - top) * (right - left)
    return top, left, bottom, right


def test_cutout_by_hand():
    # Half of 8 is a square of 4 around a pixel: from 2 before it to 1 after it.
    rows = [[0.5, 0.5], [0.0, 0.5], [0.99, 0.0]]
    first, second, third = map(box, erased(Cutout(0.5), rows, height=8, width=10))
    assert first == (2, 3, 6, 7)
    assert second == (0, 3, 2, 7)  # around row 0: over the edge
    assert third == (5, 0, 8, 2)


def test_cutout_blanks_at_least_a_pixel():
    assert erased(Cutout(0.01), [[0.4, 0.9]], height=5, width=3).sum() == 1
    assert erased(Cutout(1.0), [[0.0, 0.0]], height=1, width=1).all()


def test_erasing_by_hand():
    operation = Erasing(0.5, scale=(0.1, 0.4), ratio=(0.25, 4.0))
    rows = [
        [0.4, 0.2, 0.5, 0.0, 0.0],  # area 0.16 of 100, ratio 1: 4 x 4 at the top left
        [0.4, 0.2, 1.0, 0.5, 0.5],  # ratio 4: 8 x 2, at floor(0.5 * 3) and floor(0.5 * 9)
        [0.4, 0.2, 0.0, BELOW_ONE, BELOW_ONE],  # ratio 1/4: 2 x 8, at the bottom right
        [0.4, 1.0, 1.0, 0.3, 0.0],  # area 40, ratio 4: 13 x 3, cut to 10 x 3
        [0.5, 0.2, 0.5, 0.0, 0.0],  # not among the half that is erased
    ]
    painted = erased(operation, rows, height=10, width=10)
    assert [box(mask) for mask in painted[:4]] == [
        (0, 0, 4, 4),
        (1, 4, 9, 6),
        (8, 2, 10, 10),
        (0, 0, 10, 3),
    ]
    assert not painted[4].any()


BELOW_ONE = 1 - 2**-24
uniform = st.integers(0, 2**24 - 1).map(lambda number: number / 2**24)


@given(st.integers(1, 40), st.integers(1, 40), st.lists(uniform, min_size=5, max_size=5))
def test_a_rectangle_of_any_size_is_erased(height, width, row):
    row[0] = 0.0
    for operation in (
        Erasing(1.0, scale=None, ratio=None),
        Erasing(1.0, scale=(0.9, 1.0), ratio=(0.01, 100.0)),
    ):
        assert erased(operation, [row], height=height, width=width)[0].any()


def test_the_share_and_the_area_are_as_asked():
    uniforms = torch.rand(2000, 5, generator=torch.Generator().manual_seed(0))
    operation = Erasing(0.25, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    painted = erased(operation, uniforms.tolist(), height=40, width=40)
    areas = painted.float().mean(dim=(1, 2))
    chosen = areas > 0
    assert torch.equal(chosen, uniforms[:, 0] < 0.25)
    assert float(areas[chosen].min()) == pytest.approx(0.1, abs=0.01)
    assert float(areas[chosen].max()) == pytest.approx(0.2, abs=0.01)
    assert float(areas[chosen].mean()) == pytest.approx(0.15, abs=0.005)
