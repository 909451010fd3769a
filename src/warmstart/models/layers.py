"""Layer groups: the one coordinate of freezing, rates, transfer and features.

A model is an ordered list of groups. Index 0 touches the input, the last is the head, and together
they hold every parameter and buffer exactly once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

# Group name -> the paths of the modules and single tensors (``pos_embed``) that it holds, input
# first, head last.
Layout = Mapping[str, Sequence[str]]
_T = TypeVar("_T", bound=Tensor)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerGroup:
    """An ordered part of a model.

    Attributes:
        index: 0 for the group that touches the input.
        name: For tables, for example ``layer3``.
        modules: The modules that the group holds, with all their children. Single tensors of a
            larger module may be its own too.
        parameters: Name in the model to parameter.
        buffers: Name in the model to buffer (BatchNorm statistics, for example).
    """

    index: int
    name: str
    modules: tuple[nn.Module, ...]
    parameters: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]

    def batch_norms(self) -> Iterator[BatchNorm]:
        """Yield the BatchNorm layers that keep running statistics."""
        for module in self.modules:
            for child in module.modules():
                if isinstance(child, BatchNorm) and child.track_running_stats:
                    yield child


def layer_groups(model: nn.Module, layout: Layout) -> list[LayerGroup]:
    """Cut `model` into the groups of `layout`.

    Raises:
        ValueError: A path is not in the model, or a parameter or buffer lies in no group or in two.
            That is a defect of the layout, not of the user's input.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    groups = []
    for index, (name, paths) in enumerate(layout.items()):
        absent = [p for p in paths if not (p in modules or p in parameters or p in buffers)]
        if absent:
            raise ValueError(f"the model has nothing named {absent[0]!r} for group {name}")
        groups.append(
            LayerGroup(
                index,
                name,
                tuple(modules[path] for path in paths if path in modules),
                _within(parameters, paths),
                _within(buffers, paths),
            )
        )
    _check_partition(groups, {**parameters, **buffers})
    return groups


def _within(tensors: Mapping[str, _T], paths: Sequence[str]) -> dict[str, _T]:
    """Return the tensors at or under `paths`; one that has two names there under its first."""
    found: dict[int, tuple[str, _T]] = {}
    for name, tensor in tensors.items():
        if any(name == path or name.startswith(f"{path}.") for path in paths):
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _check_partition(groups: list[LayerGroup], tensors: Mapping[str, Tensor]) -> None:
    owners: dict[int, str] = {}
    for group in groups:
        for tensor in (*group.parameters.values(), *group.buffers.values()):
            # By identity: equal values are common (all BatchNorm weights are ones at first).
            if id(tensor) in owners:
                raise ValueError(f"a tensor of group {group.name} is in {owners[id(tensor)]} too")
            owners[id(tensor)] = group.name
    lost = sorted(name for name, tensor in tensors.items() if id(tensor) not in owners)
    if lost:
        raise ValueError(f"no layer group holds {', '.join(lost)}")


def table(groups: Sequence[LayerGroup]) -> list[dict[str, str | int]]:
    """Return one row per group: name, number of parameters, number of buffer elements."""
    return [
        {
            "group": group.name,
            "parameters": sum(parameter.numel() for parameter in group.parameters.values()),
            "buffers": sum(buffer.numel() for buffer in group.buffers.values()),
        }
        for group in groups
    ]
