"""Checkpoints of a run that is under way.

Everything random is a function of the step, so a checkpoint at any step boundary is exact and
needs no state of loaders or generators. A file's name carries the first digits of its SHA-256 sum:
file and sum appear together, and a torn or damaged file is known from its name.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from warmstart.store import sha256

_KEEP = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state`, of plain data and tensors, as the checkpoint after `step` steps.

    The two newest stay: the older one is the fallback should the newer be damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".part", dir=folder)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"checkpoint-{step:09d}-{sha256(part)[:16]}.pt"
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    for old in _newest_first(folder)[_KEEP:]:
        old.unlink(missing_ok=True)
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Return the state of the newest undamaged checkpoint, or None."""
    for path in _newest_first(folder):
        if sha256(path)[:16] == path.stem.rsplit("-", 1)[1]:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
    return None


def remove(folder: Path) -> None:
    """Delete all checkpoints, half-written ones too."""
    for path in (*folder.glob("checkpoint-*.pt"), *folder.glob("*.part")):
        path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)
