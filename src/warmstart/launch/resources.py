"""What a run is given by a launcher: from its config. Imports no torch itself."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from warmstart.errors import ConfigError
from warmstart.launch.jobs import Resources

if TYPE_CHECKING:
    from warmstart.trainer import Hardware

_log = logging.getLogger(__name__)


def resources_of(config: Mapping[str, Any], hardware: Hardware) -> Resources:
    """Return what ``resources`` of a run's config says, with what null stands for.

    Without a number, a run on GPUs gets as many as it has processes, and every run as many cores
    as it has threads and, where ``trainer.workers`` says their number, processes that make batches.

    Args:
        config: Checked by `warmstart.run.scalars.check_scalars`.
        hardware: Of the run.

    Raises:
        ConfigError: The run computes on GPUs of which it would get none, or another number.
    """
    from warmstart.run.scalars import gpu_share  # imports torch, which a driver can do without

    node, devices = config["resources"], int(config["trainer"].get("devices", 1))
    gpus, cpus = gpu_share(node["gpus"]), node["cpus"]
    if hardware.device == "gpu":
        gpus = float(devices) if gpus is None else gpus
        _check_gpus(gpus, devices)
    elif gpus:
        _warn(gpus)
    if cpus is None:
        cpus = devices * (hardware.threads + (hardware.workers or 0))
    return Resources(gpus=gpus or 0.0, cpus=cpus, timeout=node["timeout"])


def check_alone(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError where a run that no launcher starts is to be given something."""
    given = {name: value for name, value in config["resources"].items() if value is not None}
    for name, value in given.items():
        raise ConfigError(
            f"resources.{name} is {value}, but a run in the process of the command takes the "
            "machine as it is, and nobody could end it; give compare (or train -m) "
            "hydra/launcher=local or =slurm, or leave it at null"
        )


def _check_gpus(gpus: float, devices: int) -> None:
    if gpus == 0:
        raise ConfigError(
            "resources.gpus is 0, but the run computes on a GPU; give it a share of one "
            "(resources.gpus=0.5), or trainer=cpu"
        )
    if gpus != devices and max(gpus, devices) > 1:
        raise ConfigError(
            f"resources.gpus is {gpus:g}, but the run uses {devices} (trainer.devices); give both "
            "the same number, or leave resources.gpus at null"
        )


@functools.cache
def _warn(gpus: float) -> None:
    """Say once that a GPU will be idle: sharing out devices can be tried without having any."""
    _log.warning(
        "resources.gpus=%g reserves a GPU for runs that do not use it: they compute on the CPU "
        "(trainer)",
        gpus,
    )
