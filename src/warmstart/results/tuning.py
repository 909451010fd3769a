"""A search, read from its files. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Tuning = dict[str, Any]


def load(folder: Path) -> Tuning:
    """Return what ``tuning.json`` in a folder holds."""
    content: Tuning = json.loads((folder / "tuning.json").read_text())
    return content
