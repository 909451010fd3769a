"""An architecture cut off behind a layer group, with a linear classifier on its pooled output.

It answers how much the first layers alone are worth: Yosinski et al., How transferable are features
in deep neural networks?, NIPS 2014; for small data unlike the source's, earlier layers than the
last may serve better.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from warmstart.errors import ConfigError, nearest
from warmstart.models.architecture import Architecture
from warmstart.models.cuts import Cut, NoCut, activations, group_cut
from warmstart.models.layers import layer_groups
from warmstart.models.pooling import check_pool, pooled, pooled_width
from warmstart.models.skeleton import skeleton
from warmstart.models.trace import trace

# For models that take images of any size, where none is given.
_SIZE = 32


def truncated(architecture: Architecture, group: int | str, pool: str | None) -> Architecture:
    """Return the architecture up to and including a layer group, under a new linear head.

    Layers keep their names, so that weights of the whole model load. Auxiliary heads are gone.

    Args:
        architecture: The whole.
        group: Index or name of one of its groups, not the head's.
        pool: ``gap``, the mean over positions; ``flatten``, all values; ``cls``, the first token.
            None takes the mean where there are positions.

    Raises:
        ConfigError: There is no such group, or no such pooling. `build` raises it where the model
            cannot be cut there or its output cannot be pooled so.
    """
    check_pool(pool)
    names = list(architecture.layout)
    kept = names[: _index(names, group) + 1]
    gone = [path for name in names if name not in kept for path in architecture.layout[name]]
    gone += [path for path in architecture.auxiliary if path not in gone]
    head = "head"
    taken = {path.partition(".")[0] for paths in architecture.layout.values() for path in paths}
    while head in taken:  # or weights of the whole model would be taken for its own
        head += "_"
    body = {n: tuple(p for p in architecture.layout[n] if p not in gone) for n in kept}
    build = functools.partial(_build, architecture, len(kept) - 1, pool, gone, head)
    return dataclasses.replace(
        architecture,
        build=build,
        layout=body | {"head": (head,)},
        auxiliary=(),
        auxiliary_weight=0.0,
        gone=tuple(gone),
    )


def _index(names: list[str], group: int | str) -> int:
    body = names[:-1]
    if group in body:
        return body.index(str(group))
    if not isinstance(group, bool) and isinstance(group, int) and 0 <= group < len(body):
        return group
    hint = nearest(group, body) if isinstance(group, str) else ""
    raise ConfigError(
        f"group is {group!r}, but must be the name or the index of one of the model's layer groups "
        f"below the head: {', '.join(f'{index} {name}' for index, name in enumerate(body))}{hint}"
    )


def _build(
    architecture: Architecture,
    index: int,
    pool: str | None,
    gone: Iterable[str],
    head: str,
    channels: int,
    classes: int,
    size: int | None,
) -> nn.Module:
    model = architecture.build(channels, classes, size)
    at = size or (architecture.input.size if architecture.input else None) or _SIZE
    cut, called = _place(architecture, index, channels, size, at)
    width = pooled_width(cut.shape, pool, group=list(architecture.layout)[index])
    for path in gone:
        _remove(model, path, called)
    with torch.random.fork_rng(devices=[]):
        return _Truncated(model, cut, pool, head, nn.Linear(width, classes))


def _place(
    architecture: Architecture, index: int, channels: int, size: int | None, at: int
) -> tuple[Cut, set[str]]:
    """Return where the group ends, and the paths of all modules that a pass calls.

    Raises:
        ConfigError: The model cannot be cut there.
    """
    whole = skeleton(lambda: architecture.build(channels, 2, size))
    x = torch.empty(2, channels, at, at, device="meta")
    try:
        cut = group_cut(whole, layer_groups(whole, architecture.layout), index, x)
    except NoCut as error:
        name = list(architecture.layout)[index]
        raise ConfigError(
            f"group is {name!r}, but {architecture.name} cannot be cut off behind it "
            f"({error.reason}); choose another group, or another model.granularity"
        ) from error
    return cut, set(trace(whole, size=at, channels=channels).entered)


def _remove(model: nn.Module, path: str, called: set[str]) -> None:
    """Take the layers or the single tensor at `path` out; what is called has its place kept."""
    above, _, name = path.rpartition(".")
    parent = model.get_submodule(above)
    if name not in parent._modules:
        delattr(parent, name)
    elif path in called or not list(parent.get_submodule(name).children()):
        setattr(parent, name, nn.Identity())
    else:
        module = parent.get_submodule(name)
        for part in (*module._modules, *module._parameters, *module._buffers):
            _remove(model, f"{path}.{part}", called)


class _Truncated(nn.Module):
    """The layers of a model up to a cut, by their names there, and a linear head.

    Args:
        body: The model, without the layers behind the cut.
        cut: Where it ends.
        pool: How the activations there are pooled.
        name: Of the head.
        head: The head.
    """

    def __init__(
        self, body: nn.Module, cut: Cut, pool: str | None, name: str, head: nn.Module
    ) -> None:
        super().__init__()
        body.add_module(name, head)
        self._cut, self._pool, self._name = cut, pool, name
        # Past Module's way to set an attribute: its layers are this module's, under the same names.
        self.__dict__["_body"] = body
        for kind in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[kind] = body.__dict__[kind]

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, c, h, w] to logits [b, classes]."""
        body: nn.Module = self.__dict__["_body"]
        body.training = self.training
        features = pooled(activations(body, self._cut, x), self._pool)
        # Another value than what ended the pass of the body: a cut is to find the head, not there.
        logits: Tensor = self.get_submodule(self._name)(features.view_as(features))
        return logits
