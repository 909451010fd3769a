"""A model taken apart into units: the smallest parts that a layer group may consist of.

A unit is a residual block, an inception module, a transformer block, or a single layer where there
are no such blocks: a list of blocks is opened, a block is not. Units are ordered by their first
execution; norms and other small tensors join the unit that ran before them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from warmstart.models.trace import Calls

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclasses.dataclass(frozen=True)
class Block:
    """One unit with weights, or several, and what goes with it.

    Attributes:
        main: Paths of the units with weights, in the order of their execution.
        paths: Those, and all other modules and tensors of the block.
        weights: Number of matrices and kernels.
        positions: Pixels (or tokens) of the output.
        first: When it was entered.
    """

    main: list[str]
    paths: list[str]
    weights: int
    positions: int | None
    first: int


def merge(blocks: Sequence[Block]) -> Block:
    """Return consecutive blocks as one."""
    return Block(
        main=[path for block in blocks for path in block.main],
        paths=[path for block in blocks for path in block.paths],
        weights=sum(block.weights for block in blocks),
        positions=blocks[-1].positions,
        first=blocks[0].first,
    )


def take_apart(
    model: nn.Module, heads: Sequence[str], auxiliary: Sequence[str], calls: Calls
) -> list[Block]:
    """Return the blocks of a model without its classifiers, in the order of the forward pass."""
    return _tied(model, _Parts(model, heads, auxiliary, calls).blocks())


def _tied(model: nn.Module, blocks: list[Block]) -> list[Block]:
    """Merge the blocks that share a tensor, with all between them: a tensor is in one group."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if len(parameters) == len({*map(id, parameters.values())}):
        return blocks
    last: dict[int, int] = {}
    owners = [_prefixed(parameters, block.paths) for block in blocks]
    for index, tensors in enumerate(owners):
        last |= dict.fromkeys(tensors, index)
    merged, start = [], 0
    while start < len(blocks):
        end = start
        for index, tensors in enumerate(owners[start:], start=start):
            if index <= end:
                end = max([end, *(last[tensor] for tensor in tensors)])
        merged.append(merge(blocks[start : end + 1]))
        start = end + 1
    return merged


def _prefixed(parameters: Mapping[str, nn.Parameter], paths: Sequence[str]) -> set[int]:
    prefixes = tuple(f"{path}." for path in paths)
    return {id(p) for name, p in parameters.items() if f"{name}.".startswith(prefixes)}


class _Parts:
    """A model taken apart: units in order, and tensors that belong to no unit."""

    def __init__(
        self, model: nn.Module, heads: Sequence[str], auxiliary: Sequence[str], calls: Calls
    ) -> None:
        self.heads, self.auxiliary, self.calls = heads, auxiliary, calls
        self.units: list[tuple[int, str, nn.Module]] = []
        self.loose: list[tuple[int, str]] = []
        self._open("", model, 0)
        self.units.sort(key=lambda unit: unit[0])

    def _open(self, path: str, module: nn.Module, entered: int) -> None:
        first = self.calls.first(path, module)
        entered = entered if first is None else first
        for name, _ in own_tensors(module):
            self.loose.append((entered, f"{path}.{name}".lstrip(".")))
        for name, child in module.named_children():
            below = f"{path}.{name}".lstrip(".")
            if below in self.heads or not _has_tensors(child):
                continue
            if self._is_opened(below, child):
                self._open(below, child, entered)
            elif (first := self.calls.first(below, child)) is None:
                self.loose.append((entered, below))
            else:
                self.units.append((first, below, child))

    def _is_opened(self, path: str, module: nn.Module) -> bool:
        if path in self.auxiliary:
            return False
        if any(head.startswith(f"{path}.") for head in self.heads):
            return True
        if weights(module) < 2:
            return False
        return type(module) in _LISTS or any(map(_holds_blocks, _lists(module)))

    def blocks(self) -> list[Block]:
        """Return one block per unit with weights; what has none joins the one before."""
        blocks: list[Block] = []
        early: list[str] = []
        for first, path, module in self.units:
            count = 0 if path in self.auxiliary else weights(module)
            if count:
                positions = self.calls.last_positions(path, module)
                if positions is None and blocks:
                    positions = blocks[-1].positions
                blocks.append(Block([path], [*early, path], count, positions, first))
                early = []
            else:
                (blocks[-1].paths if blocks else early).append(path)
        if early:
            blocks.append(Block(early[:1], early, 0, None, 0))
        for entered, path in self.loose:
            before = [block for block in blocks if block.first < entered]
            if blocks:
                (before[-1] if before else blocks[0]).paths.append(path)
        return blocks


def weights(module: nn.Module) -> int:
    """Count the matrices and kernels; biases, scales and shifts vary along one dimension only."""
    return sum(sum(n > 1 for n in p.shape) > 1 for p in module.parameters())


def _lists(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, _LISTS):
        yield module
    for child in module.children():
        if type(child) in _LISTS:
            yield from _lists(child)


def _holds_blocks(container: nn.Module) -> bool:
    elements = [child for child in container.children() if any(True for _ in child.parameters())]
    return 2 * sum(weights(child) > 1 for child in elements) > len(elements)


def own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers of the module itself, not of its children."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())
