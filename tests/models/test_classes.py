"""Which rows of a classifier belong to which of our classes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warmstart.models.classes import copied, matching_rows

NAMES = st.lists(
    st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=12, unique=True
)


@pytest.mark.parametrize(
    ("ours", "theirs", "rows"),
    [
        (["cat", "dog"], ["bird", "dog", "cat"], {0: 2, 1: 1}),
        (["cat", "axolotl"], ["dog", "cat"], {0: 1}),
        (["cat"], ["dog"], {}),
        # Case, spaces, underscores and hyphens.
        (["Golden_Retriever", "T-shirt"], ["t shirt", "golden retriever"], {0: 1, 1: 0}),
        # ImageNet's names, by any part, from either side.
        (["Tinca tinca"], ["goldfish, Carassius auratus", "tench, Tinca tinca"], {0: 1}),
        (["tench, Tinca tinca"], ["tench"], {0: 0}),
        # A part of a word is no part of a name.
        (["cat"], ["catfish", "tomcat"], {}),
        # ImageNet has two cranes, and a maillot beside a "maillot, tank suit".
        (["crane"], ["crane", "kite", "crane"], {}),
        (["maillot"], ["maillot, tank suit", "maillot"], {0: 1}),
        (["tank suit", "maillot"], ["maillot, tank suit", "maillot"], {0: 0, 1: 1}),
        # Two of ours cannot both be one of theirs.
        (["tench", "Tinca tinca"], ["tench, Tinca tinca"], {}),
        (["Cat", "cat"], ["cat"], {}),
        # Nothing but what does not count.
        (["_", "-"], ["_", " "], {}),
        ([], ["cat"], {}),
    ],
)
def test_by_name(ours, theirs, rows):
    assert matching_rows(ours, theirs) == rows


@given(names=NAMES, data=st.data())
def test_an_order_is_found_again_whatever_the_spelling(names, data):
    order = data.draw(st.permutations(range(len(names))))
    theirs = [names[i].upper() + "_" for i in order]
    assert matching_rows(names, theirs) == {i: order.index(i) for i in range(len(names))}


@given(ours=st.lists(st.text(alphabet="aB, _", max_size=5), max_size=8), theirs=NAMES)
def test_no_row_is_given_twice(ours, theirs):
    rows = matching_rows(ours, theirs)
    assert len(set(rows.values())) == len(rows)
    assert set(rows) <= set(range(len(ours)))
    assert set(rows.values()) <= set(range(len(theirs)))
    # And the reverse question has the reverse answer.
    assert matching_rows(theirs, ours) == {theirs: ours for ours, theirs in rows.items()}


def test_twenty_thousand_classes_take_no_time():
    names = [f"class {i}, number {i}" for i in range(20_000)]
    assert matching_rows(names[::-1], names) == {i: 19_999 - i for i in range(20_000)}


def test_rows_are_copied_and_the_others_stay():
    own = {"weight": torch.full((3, 2), -1.0), "bias": torch.full((3,), -1.0)}
    state = {"weight": torch.arange(8.0).reshape(4, 2), "bias": torch.arange(4.0)}
    values = copied(own, state, rows={0: 3, 2: 1}, classes=4)
    assert values["weight"].tolist() == [[6, 7], [-1, -1], [2, 3]]
    assert values["bias"].tolist() == [3, -1, 1]
    assert own["weight"].unique().tolist() == [-1]


@pytest.mark.parametrize(
    ("rows", "classes", "shapes"),
    [
        (None, None, {"weight": (4, 2), "bias": (4,)}),
        (None, None, {"weight": (3, 5), "bias": (3,)}),
        (None, None, {"weight": (3, 2)}),
        ({0: 0}, 4, {"weight": (5, 2), "bias": (5,)}),
        ({0: 0}, 4, {"weight": (4, 9), "bias": (4,)}),
    ],
)
def test_a_head_of_another_form_does_not_fit(rows, classes, shapes):
    own = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert copied(own, state, rows=rows, classes=classes) is None
