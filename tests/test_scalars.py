"""The values of a run's config that stand in no group."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from warmstart.errors import ConfigError
from warmstart.scalars import check_scalars, length


@pytest.fixture
def config():
    """Return the shipped config, without its groups."""
    text = (Path(__file__).parents[1] / "conf" / "train.yaml").read_text()
    return yaml.safe_load(text.replace("${out}", "outputs"))


@pytest.mark.parametrize("balance", ["none", "loss", "sampling"])
def test_what_is_allowed(config, balance):
    check_scalars({**config, "balance": balance})


@pytest.mark.parametrize(
    ("balance", "hint"),
    [("sample", "; did you mean 'sampling'?"), (None, ""), (True, ""), (["loss"], "")],
)
def test_an_unknown_balance_is_refused(config, balance, hint):
    sentence = f"balance is {balance!r}, but must be one of loss, none, sampling{hint}"
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        check_scalars({**config, "balance": balance})


def test_the_evaluation_is_checked_too(config):
    with pytest.raises(ConfigError, match=r"^eval\.crops is 'nine', but must be one of"):
        check_scalars({**config, "eval": {"crops": "nine", "average": "logits"}})


@pytest.mark.parametrize(
    ("epochs", "batch_size", "steps"),
    # Images shown, 10 in an epoch, in batches of at most all of them.
    [(2, 5, 4), (2, 4, 5), (1, 4, 3), (3, 64, 3), (0, 4, 0)],
)
def test_the_length_of_epochs_by_hand(config, epochs, batch_size, steps):
    given = {**config, "steps": None, "epochs": epochs, "batch_size": batch_size}
    found = length(given, images=10)
    assert found["steps"] == steps
    assert found["batch_size"] == min(batch_size, 10)
    assert found["epochs"] is None
