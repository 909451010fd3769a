"""What is wrong or odd with a data set, in sentences for its user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from warmstart.data.index import Headers, Index
from warmstart.data.preparation import Preparation
from warmstart.data.samples import SPLITS, Samples
from warmstart.errors import ConfigError

_NAMED = 5  # damaged images in a message


def check_shrink(preparation: Preparation, headers: Headers) -> None:
    """Raise where ``data.shrink`` changes nothing."""
    largest = int(np.minimum(headers.heights, headers.widths).max())
    if preparation.shrink is not None and largest <= preparation.shrink:
        raise ConfigError(
            f"data.shrink is {preparation.shrink}, but no image has more pixels on its shorter "
            f"side (at most {largest}); leave it at null"
        )


def check_near(preparation: Preparation, index: Index) -> None:
    """Raise where near duplicates are to be left out, and none can be found."""
    if preparation.near_duplicates == "drop" and not index.hashed.any():
        raise ConfigError(
            "data.near_duplicates=drop has no effect: no image has 32 pixels on its shorter side "
            "and anything on it; leave it at list"
        )


def check_trained(
    samples: Samples, cut: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray]
) -> None:
    """Raise for a class that trains on nothing, and say who took its images."""

    def has(rows: np.ndarray) -> np.ndarray:
        return np.bincount(samples.labels[rows], minlength=len(samples.classes)) > 0

    listed = {split: has(rows) for split, rows in cut.items()}
    for label in np.flatnonzero(~has(parts["train"])).tolist():
        name = samples.classes[label]
        if listed["train"][label]:
            raise ConfigError(
                f"all training images of the class {name!r} are in val or test too, and are left "
                "out; remove them there, or keep both with data.duplicates=keep"
            )
        if any(classes[label] for classes in listed.values()):
            raise ConfigError(
                f"all images of the class {name!r} lie in val or test, none in train; move some, "
                "or cut again with another data.split_seed or data.group_pattern"
            )


def damaged(bad: Mapping[int, str], ids: Sequence[str]) -> str:
    """Return how many images cannot be read, and why the first ones."""
    named = [f"{ids[row]} ({reason})" for row, reason in list(bad.items())[:_NAMED]]
    more = [f"and {len(bad) - _NAMED} more"] if len(bad) > _NAMED else []
    return (
        f"{len(bad)} of {len(ids)} images cannot be read: {'; '.join([*named, *more])}; replace or "
        "remove them, or leave them out with data.on_bad=skip (warmstart look lists them all)"
    )


def kept(cut: Mapping[str, np.ndarray], exact: Sequence[np.ndarray]) -> Iterator[str]:
    """Yield which pairs of splits share images."""
    members = {name: set(rows.tolist()) for name, rows in cut.items()}
    for first, second in combinations(SPLITS, 2):
        sets = [set(rows.tolist()) for rows in exact]
        count = sum(len(rows & members[second]) for rows in sets if rows & members[first])
        if count:
            yield (
                f"{count} images of {second} are in {first} too (data.duplicates=keep): results on "
                f"{second} are better than on new images"
            )


def left_out(
    samples: Samples,
    index: Index,
    near: Sequence[tuple[int, int, int]],
    dropped: Mapping[int, str],
    preparation: Preparation,
) -> Iterator[str]:
    """Yield what was left out, and what could have been."""
    if index.bad:
        row, reason = next(iter(index.bad.items()))
        yield (
            f"{len(index.bad)} of {len(samples)} images cannot be read and are left out, the first "
            f"is {samples.ids[row]} ({reason})"
        )
    if dropped:
        row, reason = next(iter(dropped.items()))
        yield (
            f"{len(dropped)} images are left out because another split has them too, the first is "
            f"{samples.ids[row]} ({reason})"
        )
    if near and preparation.near_duplicates == "list":
        pairs = "1 pair" if len(near) == 1 else f"{len(near)} pairs"
        yield (
            f"{pairs} of images in different splits look alike; warmstart look shows "
            "them, data.near_duplicates=drop leaves out the one that is not evaluated"
        )
