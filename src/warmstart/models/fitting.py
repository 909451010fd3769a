"""Which tensors of a model are to be taken over, and what a file has for each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from warmstart.models.adapt import adapt
from warmstart.models.layers import LayerGroup
from warmstart.models.load_report import COMPUTED
from warmstart.models.misfits import COMPUTED_BUFFERS, COUNTER, Misfit


@dataclasses.dataclass(frozen=True)
class Target:
    """The model's tensors by their part in a load.

    Attributes:
        tensors: All, by name, in the memory of the model.
        parameters: The names of those that are parameters.
        auxiliary: Paths of the auxiliary heads.
        classifiers: The head's tensors, and those of the last layer of each auxiliary head.
        untaken: Name to reason, for what stays as it is.
    """

    tensors: dict[str, Tensor]
    parameters: frozenset[str]
    auxiliary: tuple[str, ...]
    classifiers: list[dict[str, Tensor]]
    untaken: dict[str, str]

    @classmethod
    def of(
        cls, model: nn.Module, groups: Sequence[LayerGroup], count: int, auxiliary: Sequence[str]
    ) -> Target:
        """Sort the tensors of `model`, whose first `count` groups are taken over."""
        names = [[*group.parameters, *group.buffers] for group in groups]
        held = {name for group in names for name in group}
        # A shared tensor has several names here, and one in the groups.
        tensors = {name: tensor for name, tensor in model.state_dict().items() if name in held}
        untaken = {
            name: f"group {index} ({groups[index].name}) not taken"
            for index in range(count, len(groups) - 1)
            for name in names[index]
            if name in tensors
        }
        last_layers = [_last_layer(tensors, path) for path in auxiliary]
        for layer in last_layers:
            untaken |= dict.fromkeys(layer, "auxiliary head")
        head = {name: tensors[name] for name in names[-1] if name in tensors}
        untaken |= dict.fromkeys(head, "head")
        parameters = frozenset(name for group in groups for name in group.parameters)
        return cls(tensors, parameters, tuple(auxiliary), [head, *last_layers], untaken)

    def is_computed(self, name: str) -> bool:
        """Whether it is a buffer that follows from the size of the input."""
        if name in self.parameters:
            return False
        whole = not self.tensors[name].is_floating_point()
        return whole or name.rpartition(".")[2] in COMPUTED_BUFFERS


def _last_layer(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Return the tensors of the last layer with a matrix under `path`: it gives the classes."""
    matrices = [n for n, t in tensors.items() if n.startswith(f"{path}.") and t.ndim > 1]
    layer = matrices[-1].rpartition(".")[0] if matrices else path
    return {name: t for name, t in tensors.items() if name.rpartition(".")[0] == layer}


@dataclasses.dataclass
class Found:
    """What a file has for a model: values in the model's shapes, and reasons for the rest."""

    values: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    adapted: dict[str, str] = dataclasses.field(default_factory=dict)
    fresh: dict[str, str] = dataclasses.field(default_factory=dict)
    misfits: list[Misfit] = dataclasses.field(default_factory=list)


def search(target: Target, state: Mapping[str, Tensor], image: frozenset[str]) -> Found:
    """Find each tensor to take over; `image` names the convolutions on the image."""
    found = Found()
    for name, own in target.tensors.items():
        theirs = state.get(name)
        if name in target.untaken:
            found.fresh[name] = target.untaken[name]
            continue
        fitted = None
        if theirs is not None:
            fitted = adapt(name, theirs, own.shape, own.dtype, sees_image=name in image)
        if fitted is not None:
            found.values[name], change = fitted
            if change:
                found.adapted[name] = change
        elif name.endswith(COUNTER):
            pass  # older files have none, and nothing reads it
        elif target.is_computed(name):
            found.fresh[name] = COMPUTED
        else:
            misfit = Misfit.of(name, own, theirs)
            found.fresh[name] = misfit.reason
            if name.startswith(tuple(f"{path}." for path in target.auxiliary)):
                found.fresh[name] = f"auxiliary head, {misfit.reason}"
            else:
                found.misfits.append(misfit)
    return found
