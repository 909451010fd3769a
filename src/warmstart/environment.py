"""What a record says about the program and the machine it was made with."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_COMPUTING = (
    "warmstart",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "pillow",
)


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = [(name, importlib.metadata.version(name)) for name in _COMPUTING]
    return (*found, ("python", platform.python_version()), ("git", _git_revision()))


def versions() -> dict[str, str]:
    """Return the versions of what computes, and the git revision of a checkout ("" in a wheel)."""
    return dict(_versions())


def _git_revision() -> str:
    here = Path(__file__).resolve().parent
    if not (here.parents[1] / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def describe(device: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return machine, device, command, and the paths that are no part of a run's identity."""
    gpu = torch.cuda.get_device_name() if device == "gpu" else None
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": gpu or device,
        "workers": config["trainer"]["workers"],
        "command": " ".join([Path(sys.argv[0]).name, shlex.join(sys.argv[1:])]),
        "data.root": config["data"].get("root"),
        "init.weights": config["init"].get("weights"),
    }
