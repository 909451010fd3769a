"""The values of a run's config that stand in no group."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from warmstart.errors import ConfigError
from warmstart.run.scalars import check_scalars, gpu_share, length


@pytest.fixture
def config():
    """Return the shipped config, without its groups."""
    text = (Path(__file__).parents[2] / "conf" / "train.yaml").read_text()
    return {**yaml.safe_load(text.replace("${out}", "outputs")), "trainer": {}}


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


def test_several_devices_do_not_accumulate(config):
    given = {**config, "trainer": {"devices": 2}, "accumulate": 4, "batch_size": 8}
    sentence = (
        "accumulate is 4, but trainer.devices is 2, which share the batch already; give more "
        "trainer.devices, or accumulate=1"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        length(given, images=10, validated=5)


@pytest.mark.parametrize(
    ("epochs", "batch_size", "steps"),
    # Images shown, 10 in an epoch, in batches of at most all of them.
    [(2, 5, 4), (2, 4, 5), (1, 4, 3), (3, 64, 3), (0, 4, 0)],
)
def test_the_length_of_epochs_by_hand(config, epochs, batch_size, steps):
    given = {**config, "steps": None, "epochs": epochs, "batch_size": batch_size}
    found = length(given, images=10, validated=5)
    assert found["steps"] == steps
    assert found["batch_size"] == min(batch_size, 10)
    assert found["epochs"] is None


@pytest.mark.parametrize(
    ("steps", "batch_size", "validated", "every"),
    [
        (400, 32, 100, 20),  # 20 validations at most, though 128 would see as many as the steps
        (400, 32, 640, 20),  # 20 validations of 640 images see what 400 steps of 32 see
        (400, 32, 1280, 40),  # 10 of 1,280
        (400, 32, 5000, 80),  # 5 at least, though 2 would be enough
        (400, 32, 0, 20),
        (7, 32, 100, 2),
        (3, 32, 5000, 1),
        (0, 32, 100, 1),
    ],
)
def test_validations_see_no_more_images_than_the_steps(config, steps, batch_size, validated, every):
    given = {**config, "steps": steps, "batch_size": batch_size}
    assert length(given, images=10_000, validated=validated)["val_every_steps"] == every
    given["val_every_steps"] = 3
    assert length(given, images=10_000, validated=validated)["val_every_steps"] == 3


NEEDS = {"gpus": None, "cpus": None, "timeout": None}


@pytest.mark.parametrize(
    ("resources", "trainer"),
    [
        ({}, {}),
        ({"gpus": 0}, {}),
        ({"gpus": 0.5, "cpus": 2, "timeout": 0.5}, {"threads": 2}),
        ({"gpus": 4, "cpus": 4, "timeout": 3600}, {"devices": 4}),
    ],
)
def test_resources_that_are_allowed(config, resources, trainer):
    check_scalars({**config, "resources": {**NEEDS, **resources}, "trainer": trainer})


@pytest.mark.parametrize(
    ("resources", "trainer", "sentence"),
    [
        *(
            (
                {"gpus": gpus},
                {},
                f"resources.gpus is {gpus!r}, but must be 0, a whole number, the share of one GPU "
                "that k runs get each (0.5, 0.33, 0.25, ...), or null",
            )
            for gpus in (-1, 0.3, 0.7, 1.5, 0.001, True, "2", [1], float("nan"), float("inf"))
        ),
        *(
            (
                {"cpus": cpus},
                {},
                f"resources.cpus is {cpus!r}, but must be a whole number of at least 1, or null",
            )
            for cpus in (0, 1.5, True, "2")
        ),
        (
            {"cpus": 2},
            {"threads": 4},
            "resources.cpus is 2, but the run computes with 4 threads; give resources.cpus=4 or a "
            "lower trainer.threads",
        ),
        (
            {"cpus": 3},
            {"threads": 2, "devices": 2},
            "resources.cpus is 3, but the run computes with 4 threads; give resources.cpus=4 or a "
            "lower trainer.threads",
        ),
        *(
            (
                {"timeout": timeout},
                {},
                f"resources.timeout is {timeout!r}, but must be a number of seconds above 0, or "
                "null",
            )
            for timeout in (0, -1, True, "1h", float("inf"), float("nan"))
        ),
    ],
)
def test_resources_that_cannot_be(config, resources, trainer, sentence):
    given = {**config, "resources": {**NEEDS, **resources}, "trainer": trainer}
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        check_scalars(given)


@pytest.mark.parametrize("resources", [None, 1, {}, {"gpus": 1}, {**NEEDS, "memory": 1}])
def test_resources_have_three_keys(config, resources):
    sentence = f"resources is {resources!r}, but must have the keys gpus, cpus and timeout"
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}; for example"):
        check_scalars({**config, "resources": resources})


@pytest.mark.parametrize(
    ("given", "share"),
    [(None, None), (0, 0), (1, 1), (4.0, 4), (0.5, 0.5), (0.33, 1 / 3), (0.333, 1 / 3), (0.1, 0.1)],
)
def test_a_share_of_a_gpu_is_exact(given, share):
    assert gpu_share(given) == share
