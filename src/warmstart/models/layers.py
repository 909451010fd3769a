"""Layer groups: the one coordinate of freezing, rates, transfer and features.

A model is an ordered list of groups. Index 0 touches the input, the last is the head, and together
they hold every parameter and buffer exactly once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from warmstart.errors import choose

# Group name -> the module paths that it holds, input first, head last.
Layout = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True, eq=False)
class LayerGroup:
    """An ordered part of a model.

    Attributes:
        index: 0 for the group that touches the input.
        name: For tables, for example ``layer3``.
        modules: The modules that the group holds, with all their children.
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
        absent = [path for path in paths if path not in modules]
        if absent:
            raise ValueError(f"the model has no module {absent[0]!r} for group {name}")
        groups.append(
            LayerGroup(
                index,
                name,
                tuple(modules[path] for path in paths),
                {key: value for key, value in parameters.items() if _inside(key, paths)},
                {key: value for key, value in buffers.items() if _inside(key, paths)},
            )
        )
    _check_partition(groups, {**parameters, **buffers})
    return groups


def _inside(name: str, paths: Sequence[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


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


def at_granularity(granularity: str, layouts: Mapping[str, Layout]) -> Layout:
    """Return the layout for ``model.granularity``.

    Raises:
        ConfigError: The model has no such granularity.
    """
    if granularity not in layouts:
        raise choose("model.granularity", granularity, layouts)
    return layouts[granularity]


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
