"""What a load took over, for the log, the plan and the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.models.layers import LayerGroup

# Reason for buffers that follow from the size of the input.
COMPUTED = "computed from the model's own input size"


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of the model and of the file.

    Attributes:
        loaded: Names of the tensors whose values came from the weights, changed to fit or not.
        adapted: Name to how it was changed to fit, for some of `loaded`.
        fresh: Name to reason, for each tensor that was initialized instead.
        unused: Names in the file that the model has no place for.
        head: ``fresh``, ``zero``, ``loaded`` or which classes were copied.
        values: ``exact``, ``permuted`` or ``mean_var``; of the parameters below the head.
    """

    loaded: tuple[str, ...]
    adapted: dict[str, str]
    fresh: dict[str, str]
    unused: tuple[str, ...]
    head: str
    values: str

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for the record, with the number of loaded tensors."""
        return dataclasses.asdict(self) | {"loaded": len(self.loaded), "unused": list(self.unused)}

    def without(self, names: Sequence[str], reason: str) -> LoadReport:
        """Return the report after other values have replaced those of the tensors `names`."""
        loaded = tuple(name for name in self.loaded if name not in names)
        return dataclasses.replace(
            self, loaded=loaded, fresh={**self.fresh, **dict.fromkeys(names, reason)}
        )

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.values != "exact":
            parts.append(f"the values of their parameters {self.values}")
        if self.adapted:
            parts.append(f"{len(self.adapted)} changed to fit: {_by_reason(self.adapted)}")
        if self.fresh:
            parts.append(f"{len(self.fresh)} initialized: {_by_reason(self.fresh)}")
        parts.append(f"head {self.head}")
        if self.unused:
            parts.append(f"{len(self.unused)} in the file not used: {some(self.unused)}")
        return "; ".join(parts)


def _by_reason(reasons: Mapping[str, str]) -> str:
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return ", ".join(f"{some(group)} ({reason})" for reason, group in names.items())


def some(names: Sequence[str], *, most: int = 6) -> str:
    """Return the first names as text, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def group_states(groups: Sequence[LayerGroup], report: LoadReport) -> list[str]:
    """Return what the weights of each group are, for tables.

    ``loaded``, ``permuted``, ``mean_var``, ``fresh`` or ``partly loaded (3 of 20 tensors fresh)``;
    the last one, the head, as in `LoadReport.head`.
    """
    done = "loaded" if report.values == "exact" else report.values
    computed = {name for name, reason in report.fresh.items() if reason == COMPUTED}
    states = []
    for group in groups[:-1]:
        names = {*group.parameters, *group.buffers} - computed
        fresh, loaded = names & set(report.fresh), names & set(report.loaded)
        state = f"partly {done} ({len(fresh)} of {len(fresh | loaded)} tensors fresh)"
        states.append("fresh" if not loaded else state if fresh else done)
    return [*states, report.head.partition(":")[0]]
