"""From scratch or from pretrained weights? Evidence for one's own images.

import warmstart

cfg = warmstart.compose(["data=digits", "init=pretrained", "steps=200"])
record = warmstart.train(["data=digits", "init=pretrained", "steps=200"])
record.metrics["test/accuracy"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warmstart.api import extract_features, rank, train
    from warmstart.configs import compose
    from warmstart.errors import ConfigError, RunError
    from warmstart.results.record import Record

__all__ = ["ConfigError", "Record", "RunError", "compose", "extract_features", "rank", "train"]

_HOMES = {
    "ConfigError": "warmstart.errors",
    "Record": "warmstart.results.record",
    "RunError": "warmstart.errors",
    "compose": "warmstart.configs",
    "extract_features": "warmstart.api",
    "rank": "warmstart.api",
    "train": "warmstart.api",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use: `import warmstart` and the light commands import no torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'warmstart' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
