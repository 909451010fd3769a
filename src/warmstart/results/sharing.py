"""The records of thousands of runs in little memory: what is equal is kept once."""

from __future__ import annotations

import dataclasses
import marshal
from pathlib import Path
from typing import Any

from warmstart.results.advice import sentences
from warmstart.results.record import Record, read

# Fields that the records of a comparison mostly have in common, and fields whose entries they do.
_WHOLE = (
    *("choices", "versions", "data", "groups", "input", "init", "freeze_proof", "features"),
    "environment",
)
_BY_ENTRY = ("config", "digests", "metrics", "timing")
# Columns of the looks that no figure shows.
_UNDRAWN = ("gradient_norm", "distance", "dead_relus", "lr")


class Reader:
    """Reads records that share with each other what is equal, and therefore are not to be changed.

    What no report draws of the curves is left out, the largest part; what it says is kept.

    Attributes:
        sentences: What to look at in the runs that were read, by the record's key.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}
        self.sentences: dict[str, tuple[str, ...]] = {}

    def __call__(self, folder: Path) -> Record | None:
        """Return the record in a run's folder, or None where none was written.

        Raises:
            ConfigError: The file is damaged.
        """
        record = read(folder)
        if record is None:
            return None
        self.sentences[record.key] = sentences(record)
        fields = {name: self._one(getattr(record, name)) for name in _WHOLE}
        fields |= {name: self._entries(getattr(record, name)) for name in _BY_ENTRY}
        return dataclasses.replace(record, **fields, curves=self._curves(record.curves))

    def _one(self, value: Any) -> Any:
        # Equal bytes, equal types: true and 1 stay different. Version 2 says nothing of identities.
        return self._known.setdefault(marshal.dumps(value, 2), value)

    def _entries(self, node: Any) -> Any:
        if not isinstance(node, dict):  # a damaged file
            return node
        kept = {key: value for key, value in node.items() if key != "curves"}
        # A number of its own would only fill the table.
        shared = {
            self._one(key): value if isinstance(value, int | float) else self._one(value)
            for key, value in kept.items()
        }
        return shared | {key: self._curves(node[key]) for key in node if key == "curves"}

    def _curves(self, curves: Any) -> Any:
        if not isinstance(curves, dict):
            return curves
        return {
            self._one(split): self._columns(columns)
            for split, columns in curves.items()
            if split != "train"
        }

    def _columns(self, columns: Any) -> Any:
        if not isinstance(columns, dict):
            return columns
        return {
            self._one(name): self._one(column) if name == "step" else column
            for name, column in columns.items()
            if name.partition("/")[0] not in _UNDRAWN
        }
