"""What a launcher gives a run, from its config."""

from __future__ import annotations

import dataclasses
import logging
import re
import types

import pytest

from warmstart.errors import ConfigError
from warmstart.launch import resources
from warmstart.launch.jobs import Resources
from warmstart.launch.resources import resources_of
from warmstart.trainer import Hardware


def of(device, *, devices=1, threads=1, workers=None, **given):
    """Return the resources of a run on a device that this machine need not have."""
    hardware = types.SimpleNamespace(device=device, threads=threads, workers=workers)
    node = {"gpus": None, "cpus": None, "timeout": None, **given}
    return resources_of({"resources": node, "trainer": {"devices": devices}}, hardware)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "cpu"}, Resources(0, 1)),
        ({"device": "cpu", "threads": 4}, Resources(0, 4)),
        ({"device": "cpu", "devices": 2, "threads": 2, "workers": 1}, Resources(0, 6)),
        ({"device": "cpu", "cpus": 3, "timeout": 60}, Resources(0, 3, 60)),
        ({"device": "gpu"}, Resources(1, 1)),
        ({"device": "gpu", "workers": 3}, Resources(1, 4)),
        ({"device": "gpu", "gpus": 0.33, "cpus": 2}, Resources(1 / 3, 2)),
        ({"device": "gpu", "devices": 4}, Resources(4, 4)),
        ({"device": "gpu", "devices": 4, "gpus": 4, "cpus": 16}, Resources(4, 16)),
        ({"device": "cpu", "gpus": 0.5}, Resources(0.5, 1)),
    ],
)
def test_by_hand(options, expected):
    assert of(**options) == expected


def test_of_real_hardware():
    config = {
        "resources": {"gpus": None, "cpus": None, "timeout": None},
        "trainer": dataclasses.asdict(Hardware(accelerator="cpu", threads=2)),
    }
    assert resources_of(config, Hardware(accelerator="cpu", threads=2)) == Resources(0, 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"gpus": 0},
            "resources.gpus is 0, but the run computes on a GPU; give it a share of one "
            "(resources.gpus=0.5), or trainer=cpu",
        ),
        (
            {"gpus": 4},
            "resources.gpus is 4, but the run uses 1 (trainer.devices); give both the same number, "
            "or leave resources.gpus at null",
        ),
        (
            {"gpus": 0.5, "devices": 2},
            "resources.gpus is 0.5, but the run uses 2 (trainer.devices); give both the same "
            "number, or leave resources.gpus at null",
        ),
    ],
)
def test_gpus_that_the_run_does_not_use_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        of("gpu", **options)


def test_a_reserved_gpu_that_stays_idle_is_said_once(caplog):
    resources._warn.cache_clear()
    with caplog.at_level(logging.WARNING, logger="warmstart"):
        for _ in range(3):
            of("cpu", gpus=1)
        of("cpu", gpus=0)
    assert [line.message for line in caplog.records] == [
        "resources.gpus=1 reserves a GPU for runs that do not use it: they compute on the CPU "
        "(trainer)"
    ]
