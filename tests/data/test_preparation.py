"""What is done to any source's images is checked before anything is decoded."""

import pytest

from warmstart.data.preparation import Preparation
from warmstart.errors import ConfigError


def test_all_keys_have_a_default():
    assert Preparation().duplicates == "drop"


@pytest.mark.parametrize("name", ["size", "shrink"])
@pytest.mark.parametrize("pixels", [0, -8, 8.0, True, "8"])
def test_a_size_is_a_positive_whole_number(name, pixels):
    with pytest.raises(ConfigError, match=rf"data\.{name} is .*whole number of pixels or null"):
        Preparation(**{name: pixels})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"folds": 5}, r"folds is 5 and data\.fold None, .* needs both"),
        ({"fold": 0}, r"folds is None and data\.fold 0, .* needs both"),
        ({"folds": 2.0, "fold": 0}, r"data\.folds is 2\.0, but must be a whole number"),
        ({"split_seed": None}, r"data\.split_seed is None, but must be a whole number"),
        ({"folds": 1, "fold": 0}, r"data\.folds is 1, but must be at least 2"),
        ({"folds": 5, "fold": 5}, r"data\.fold is 5, but must be one of 0 \.\.\. 4"),
        ({"folds": 5, "fold": -1}, r"data\.fold is -1, but must be one of 0 \.\.\. 4"),
        ({"on_bad": "skp"}, r"data\.on_bad is 'skp', .* one of error, skip; did you mean 'skip'"),
        ({"duplicates": "list"}, r"data\.duplicates is 'list', but must be one of drop, keep"),
        ({"near_duplicates": "keep"}, r"data\.near_duplicates is 'keep', .* one of drop, list"),
    ],
)
def test_impossible_values_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        Preparation(**keys)


@pytest.mark.parametrize("fold", range(5))
def test_every_fold_can_be_evaluated(fold):
    assert Preparation(folds=5, fold=fold).fold == fold
