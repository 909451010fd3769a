"""The node of a search, for tests."""

from __future__ import annotations

from typing import Any

from warmstart.tuning.settings import Search, read

NODE = {
    "sampler": "random",
    "space": {
        "optimizer": {
            "lr": {"low": 1e-4, "high": 1.0, "log": True, "points": 3},
            "weight_decay": {"low": 0.0, "high": 0.1, "points": 2},
        }
    },
    "trials": 8,
    "coarse": 0.25,
    "refine": 0.5,
    "narrow": 4,
    "finalists": 2,
    "seeds": [100, 101, 102],
    "seed": 0,
    "batch": 3,
    "prune": True,
    "name": None,
}


def search(**changes: Any) -> Search:
    """Return a search with some values changed."""
    return read({**NODE, **changes})
