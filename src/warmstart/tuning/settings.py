"""How a search goes: the checked content of ``search=``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from warmstart.errors import ConfigError, choose
from warmstart.targets import no_key
from warmstart.tuning import space
from warmstart.tuning.space import Choice, Space

SAMPLERS = ("random", "grid", "tpe")


@dataclasses.dataclass(frozen=True)
class Search:
    """How much is searched for every arm, and how. See ``conf/search/_space.yaml``.

    Attributes:
        trials: Of an arm, in the first and in the second round.
        seeds: That of all trials, and those of the finalists.
    """

    sampler: str
    space: Space
    trials: tuple[int, int]
    coarse: float
    narrow: float
    finalists: int
    seeds: tuple[int, ...]
    seed: int
    batch: int
    prune: bool
    name: str | None

    def fixed(self) -> dict[str, Any]:
        """Return what may not change when a search goes on: what its trials follow from."""
        names = ("sampler", "coarse", "narrow", "seed", "batch", "prune")
        return {name: getattr(self, name) for name in names} | {
            "trials": list(self.trials),
            "seeds": self.seeds[0],
            "space": {key: repr(axis) for key, axis in self.space.items()},
        }


def read(node: Mapping[str, Any]) -> Search:
    """Return the search that a node describes.

    Raises:
        ConfigError: What is wrong, in one sentence.
    """
    names = {field.name for field in dataclasses.fields(Search)} | {"refine"}
    for name in node:
        if name not in names:
            raise no_key(f"search.{name}", names)
    if node["sampler"] not in SAMPLERS:
        raise choose("search.sampler", node["sampler"], SAMPLERS)
    for name, least in (("finalists", 1), ("seed", 0), ("batch", 1)):
        _check_whole(name, node[name], least)
    if not isinstance(node["prune"], bool):
        raise ConfigError(f"search.prune is {node['prune']!r}, but must be true or false")
    coarse, refine = _number(node, "coarse"), _number(node, "refine")
    if not 0 < coarse <= 1:
        raise ConfigError(
            f"search.coarse is {coarse:g}, but must be a fraction of the arm's length above 0 and "
            "up to 1"
        )
    narrow = _number(node, "narrow")
    if narrow <= 1:
        raise ConfigError(
            f"search.narrow is {narrow:g}, but the ranges of the second round are narrower by it; "
            "give more than 1"
        )
    if refine and not any(
        not isinstance(axis, Choice) for axis in space.read(node["space"]).values()
    ):
        raise ConfigError(
            f"search.refine is {refine:g}, but the space has lists alone, which have nothing to "
            "narrow; give search.refine=0"
        )
    searched = space.read(node["space"])
    trials = _trials(node, searched, refine)
    if node["finalists"] > sum(trials):
        raise ConfigError(
            f"search.finalists is {node['finalists']}, but they are the best of the arm's "
            f"{sum(trials)} trial{'' if sum(trials) == 1 else 's'}; give at most so many, or more "
            "trials"
        )
    return Search(
        sampler=node["sampler"],
        space=searched,
        trials=trials,
        coarse=coarse,
        narrow=narrow,
        finalists=node["finalists"],
        seeds=_seeds(node["seeds"]),
        seed=node["seed"],
        batch=node["batch"],
        prune=node["prune"],
        name=node["name"],
    )


def _trials(node: Mapping[str, Any], searched: Space, refine: float) -> tuple[int, int]:
    """Return the number of trials in each of the two rounds."""
    trials = node["trials"]
    if node["sampler"] != "grid":
        _check_whole("trials", trials, 1)
        if not 0 <= refine < 1:
            raise ConfigError(
                f"search.refine is {refine:g}, but must be a share of the trials from 0 to below 1"
            )
        second = min(trials - 1, round(trials * refine))
        return trials - second, second
    for key, axis in searched.items():
        if not isinstance(axis, Choice) and axis.points is None:
            raise ConfigError(
                f"search.space.{key} has neither points nor values, which a grid needs; give "
                f"search.space.{key}.points=4, for example"
            )
    count = math.prod(len(axis.grid()) for axis in searched.values())
    if refine not in (0, 0.5):
        raise ConfigError(
            f"search.refine is {refine:g}, but the second round of a grid is as large as the "
            "first; give 0.5, or 0 for none"
        )
    if trials is not None and trials != count * (2 if refine else 1):
        raise ConfigError(
            f"search.trials is {trials!r}, but the points of the grid make "
            f"{count * (2 if refine else 1)}; change search.space.KEY.points, and leave trials out"
        )
    return count, count if refine else 0


def _seeds(seeds: Any) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"search.seeds is {seeds!r}, but must be at least two different whole numbers: one of "
            "the trials, the others of the finalists; for example search.seeds=[100,101,102]"
        )
    return tuple(seeds)


def _check_whole(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise ConfigError(
            f"search.{name} is {value!r}, but must be a whole number of at least {least}"
        )


def _number(node: Mapping[str, Any], name: str) -> float:
    value = node[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"search.{name} is {value!r}, but must be a number")
    return float(value)
