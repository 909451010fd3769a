"""Which image trains, validates or tests, and what is doubtful about that, as pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from warmstart.data.preparation import Preparation
from warmstart.data.subsets import equal_folds, stratified_split
from warmstart.errors import ConfigError


def cut(
    labels: np.ndarray,
    given: Sequence[str],
    *,
    groups: Sequence[str] | None,
    usable: np.ndarray,
    preparation: Preparation,
) -> dict[str, np.ndarray]:
    """Return the rows of train, val and test.

    A split that the source gives stays as it is, and its fraction in `preparation` has no effect.
    Val and test where it gives none are cut from all other images, class by class, by group where
    there are groups. Images that the source puts into no split count as train.

    With ``preparation.folds``, all images but those of a given test split are cut into equal
    parts, a given val split among them. Part ``fold`` is val where the source gives test; else it
    is test, and val is cut from the other parts.

    Args:
        labels: int64 of shape [n].
        given: ``train``, ``val``, ``test`` or `OPEN` for each image.
        groups: What must stay together, for each image; None for images on their own.
        usable: bool of shape [n]; the others, damaged ones, are in no split.
        preparation: Of which the fractions, the folds and the seed of the cut are read.

    Returns:
        int64 rows in ascending order; the splits share none, and together hold all usable ones.

    Raises:
        ConfigError: No image is left to train on, the fractions are impossible, or there are
            fewer images or groups than parts to cut.
    """

    def of(rows: np.ndarray) -> list[str] | None:
        return None if groups is None else [groups[row] for row in rows]

    split_of = np.asarray(given)
    held = {
        split: np.flatnonzero((split_of == split) & usable)
        for split in ("val", "test")
        if (split_of == split).any()
    }
    seed, folds, fold = preparation.split_seed, preparation.folds, preparation.fold
    if folds is not None:
        held.pop("val", None)
    pool = np.setdiff1d(np.flatnonzero(usable), np.concatenate([np.arange(0), *held.values()]))
    if len(pool) == 0:
        raise ConfigError(
            "the data has no image to train on: all usable ones are in its val and test splits; "
            "put some into its train split"
        )
    if folds is not None and fold is not None:
        part = equal_folds(labels[pool], folds, seed=seed, groups=of(pool))[fold]
        held["val" if "test" in held else "test"] = pool[part]
        pool = np.delete(pool, part)
    fractions = {"val": preparation.val_fraction, "test": preparation.test_fraction}
    absent = {split: share for split, share in fractions.items() if split not in held}
    if absent:
        parts = stratified_split(labels[pool], list(absent.values()), seed=seed, groups=of(pool))
        held |= {split: pool[part] for split, part in zip(absent, parts, strict=False)}
        pool = pool[parts[-1]]
    return {"train": pool, "val": held["val"], "test": held["test"]}


def groups_of(
    ids: Sequence[str], own: Sequence[str] | None, pattern: str | None
) -> tuple[str, ...] | None:
    """Return what must stay together, for each image; None for images on their own.

    Args:
        ids: Of the images, for example ``cat/patient12_03.png``.
        own: The groups that the source gives; None for none.
        pattern: Regular expression that is searched in each id: its first group, or the whole
            match, names the image's group, in place of the source's own; None for none.

    Raises:
        ConfigError: The pattern is no regular expression, or finds nothing in an id.
    """
    if pattern is None:
        return None if own is None else tuple(own)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"data.group_pattern is {pattern!r}, which is no regular expression ({error}); "
            r"give one such as '(patient\d+)_'"
        ) from error
    found = []
    for name in ids:
        match = compiled.search(name)
        group = match.group(min(1, compiled.groups)) if match else None
        if not group:
            raise ConfigError(
                f"data.group_pattern is {pattern!r}, but finds nothing in the image {name!r}; "
                "give one that names the group of every image"
            )
        found.append(group)
    return tuple(found)


def warnings(
    classes: Sequence[str],
    parts: Mapping[str, np.ndarray],
    *,
    labels: np.ndarray,
    groups: Sequence[str] | None,
    conflicts: Sequence[np.ndarray],
) -> tuple[str, ...]:
    """Return what makes the figures of this data doubtful, one sentence each.

    Args:
        classes: Class names.
        parts: The rows of train, val and test.
        labels: int64 of shape [n].
        groups: What must stay together, for each image, or None.
        conflicts: See `duplicates.conflicts`.
    """
    found = []
    for split in ("val", "test"):
        absent = sorted(set(range(len(classes))) - set(labels[parts[split]].tolist()))
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            found.append(
                f"the {split} split has no image of the class {classes[absent[0]]!r}{more}: "
                f"nothing is measured there on {len(absent)} of the {len(classes)} classes"
            )
    if groups is not None:
        members = {split: {groups[row] for row in rows} for split, rows in parts.items()}
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            shared = sorted(members[first] & members[second])
            if shared:
                found.append(
                    f"{len(shared)} group(s) have images in both {first} and {second}, for "
                    f"example {shared[0]!r}: results on {second} are better than on new groups"
                )
    if conflicts:
        sets = "1 set" if len(conflicts) == 1 else f"{len(conflicts)} sets"
        found.append(
            f"{sum(map(len, conflicts))} images have an equal one with another label ({sets} of "
            "equal images): some of these labels are wrong"
        )
    return tuple(found)
