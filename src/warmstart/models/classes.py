"""The classifier taken over from weights of other classes: rows of classes with equal names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from warmstart.models.adapt import adapt


def matching_rows(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Return the index of each of our classes that is one of theirs, to its index there.

    Case, spaces, underscores and hyphens do not count. Equal names come first; what they leave is
    matched by the parts between commas, for ImageNet's names ("tench, Tinca tinca"). A class with
    two possible counterparts has none (ImageNet has two cranes).
    """
    rows: dict[int, int] = {}
    for keys in (_whole, _parts):
        taken = set(rows.values())
        places: dict[str, set[int]] = defaultdict(set)
        for j, name in enumerate(theirs):
            for key in keys(name) if j not in taken else ():
                places[key].add(j)
        candidates = {
            i: set().union(*(places.get(key, set()) for key in keys(name)))
            for i, name in enumerate(ours)
            if i not in rows
        }
        claims = Counter(j for found in candidates.values() for j in found)
        single = {i: next(iter(found)) for i, found in candidates.items() if len(found) == 1}
        rows |= {i: j for i, j in single.items() if claims[j] == 1}
    return dict(sorted(rows.items()))


def _whole(name: str) -> set[str]:
    key = "".join(character for character in name.casefold() if character not in " \t_-")
    return {key} - {""}


def _parts(name: str) -> set[str]:
    return set().union(*(_whole(part) for part in name.split(",")))


def copied(
    head: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    *,
    rows: Mapping[int, int] | None,
    classes: int | None,
) -> dict[str, Tensor] | None:
    """Return the values of a classifier taken over from `state`, or None where it does not fit.

    Args:
        head: The model's tensors, [our classes, ...] each, which stay as they are.
        state: The tensors in the file.
        rows: Our class to theirs, the others keep the model's rows; None takes all, in order.
        classes: How many classes theirs are; needed with `rows`.
    """
    values = {}
    for name, own in head.items():
        wanted = own.shape if rows is None else (classes or 0, *own.shape[1:])
        fitted = adapt(name, state[name], wanted, own.dtype) if name in state else None
        if fitted is None:
            return None
        value = fitted[0]
        if rows is not None:
            value = own.clone()
            value[list(rows)] = fitted[0][list(rows.values())]
        values[name] = value
    return values
