"""Layer groups of any model, cut along one forward pass: units, stages of them, and their names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

from torch import nn

from warmstart.errors import choose
from warmstart.models.layers import Layout
from warmstart.models.trace import Calls
from warmstart.models.units import Block, merge, own_tensors, take_apart

GRANULARITIES = ("stage", "block")
_MOST_STAGES = 8


def check_granularity(granularity: str) -> None:
    """Raise ConfigError unless `granularity` is ``stage`` or ``block``."""
    if granularity not in GRANULARITIES:
        raise choose("model.granularity", granularity, GRANULARITIES)


def layout(
    model: nn.Module,
    heads: Sequence[str],
    calls: Calls,
    *,
    auxiliary: Sequence[str] = (),
    granularity: str = "stage",
) -> Layout:
    """Cut a model into layer groups.

    Args:
        model: Any classifier.
        heads: Paths of the classifier: the last group. It holds nothing else.
        calls: What a forward pass of the model did.
        auxiliary: Paths of auxiliary heads; each joins the group of the unit that ran before it.
        granularity: ``block`` gives one group per unit, except that single layers before the
            first block are one, the stem. ``stage`` gives at most 8 groups: as ``block`` if those
            are so few, otherwise units of one resolution together, or four near-equal parts where
            the resolution hardly changes (transformers). Blocks nest in stages.

    Raises:
        ConfigError: `granularity` is neither.
    """
    check_granularity(granularity)
    blocks = take_apart(model, heads, auxiliary, calls)
    stem = _stem_length(blocks)
    if stem > 1:
        blocks = [merge(blocks[:stem]), *blocks[stem:]]
    groups = [[block] for block in blocks]
    if granularity == "stage":
        groups = _stages(blocks, stem=stem > 0)
    cut = [merge(group) for group in groups]
    return _named(model, heads, cut, stem=stem > 0)


def _stem_length(blocks: Sequence[Block]) -> int:
    """Return how many single layers come before the first block, in a model of blocks."""
    large = [block.weights > 1 for block in blocks]
    return large.index(True) if 2 * sum(large) > len(large) else 0


def _stages(blocks: list[Block], *, stem: bool) -> list[list[Block]]:
    if len(blocks) < _MOST_STAGES:
        return [[block] for block in blocks]
    first, rest = [blocks[:1]] if stem else [], blocks[1:] if stem else blocks
    stages = [list(run) for _, run in groupby(rest, lambda block: block.positions)]
    if len(stages) < 3:
        ends = [math.ceil(len(rest) * part / 4) for part in range(5)]
        stages = [rest[start:end] for start, end in pairwise(ends)]
    while len(first) + len(stages) + 1 > _MOST_STAGES:
        sizes = [len(one) + len(two) for one, two in pairwise(stages)]
        index = sizes.index(min(sizes))
        stages[index : index + 2] = [stages[index] + stages[index + 1]]
    return first + stages


def _named(
    model: nn.Module, heads: Sequence[str], cut: Sequence[Block], *, stem: bool
) -> dict[str, tuple[str, ...]]:
    owner = {path: index for index, block in enumerate(cut) for path in block.paths}
    paths = _whole(model, owner, len(cut))
    named: dict[str, tuple[str, ...]] = {}
    for index, block in enumerate(cut):
        name = "stem" if stem and index == 0 else _name(block.main, paths[index])
        while name in named or name == "head":
            name += "_"
        named[name] = tuple(paths[index])
    return named | {"head": tuple(heads)}


def _whole(model: nn.Module, owner: dict[str, int], groups: int) -> list[list[str]]:
    """Return the paths of each group, a module in place of its parts where it holds them all."""
    paths: list[list[str]] = [[] for _ in range(groups)]

    def visit(path: str, module: nn.Module, inherited: int | None) -> set[int | None]:
        inherited = owner.get(path, inherited)
        below = {f"{path}.{name}".lstrip("."): child for name, child in module.named_children()}
        own = [f"{path}.{name}".lstrip(".") for name, _ in own_tensors(module)]
        found = {child: visit(child, part, inherited) for child, part in below.items()}
        found |= {name: {owner.get(name, inherited)} for name in own}
        union = set().union(*found.values())
        if len(union) > 1 or not path:
            for name, (index, *others) in ((n, [*s]) for n, s in found.items() if s):
                if not others and index is not None:
                    paths[index].append(name)
        return union

    visit("", model, None)
    return paths


def _name(main: Sequence[str], paths: Iterable[str]) -> str:
    """Name a group after its units: ``layer1``, ``features.2-3``, ``inception3a-inception3b``."""
    places = [p for unit in main for p in paths if unit == p or unit.startswith(f"{p}.")]
    first, last = places[0], places[-1]
    if first == last:
        return first
    one, two = re.fullmatch(r"(.*?)(\d+)", first), re.fullmatch(r"(.*?)(\d+)", last)
    if one and two and one[1] == two[1]:
        return f"{first}-{two[2]}"
    shared = first.rpartition(".")[0] + "."
    return f"{first}-{last.removeprefix(shared)}"
