"""The arms of a comparison that are tuned, each at one size and with everything but its recipe."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from warmstart.cells import arm_of
from warmstart.errors import ConfigError, nearest
from warmstart.sweep import Cell, Composer, grid, values_of
from warmstart.tuning import settings
from warmstart.tuning.settings import Search
from warmstart.tuning.space import Choice

# Of a swept one, the value that the search takes; what it says of it.
_PLACES = {
    "data.per_class": (max, "the largest"),
    "data.fraction": (max, "the largest"),
    "data.fold": (min, "the first"),
}
# What the search itself says, or what would change the question.
_FIXED = (
    *("seed", "steps", "epochs", "test", "out", "store", "arm", "comparison", "experiment"),
    *("search", *_PLACES),
)
_OWN = {
    "seed": "whose runs take those of search.seeds",
    "test": "which never evaluates the test split",
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """An arm of which the recipe is searched.

    Attributes:
        label: As tables call it.
        cell: Its config and overrides.
        steps: Its full length; 0 for a probe, which takes none.
        key: Of its run before tuning.
        stacks: Its heads train together, at little more than the price of one.
    """

    label: str
    cell: Cell
    steps: int
    key: str
    stacks: bool


@dataclasses.dataclass(frozen=True)
class Question:
    """What is tuned.

    Attributes:
        cells: One for each arm.
        search: How.
        notes: What a person should know about the choice of the cells.
        name: Of the folder in ``OUT/tunings``.
        of: ``comparison`` or ``experiment``.
    """

    cells: list[Cell]
    search: Search
    notes: list[str]
    name: str
    of: str


def question(compose: Composer, params: Sequence[str], arguments: Sequence[str]) -> Question:
    """Return what is tuned.

    Args:
        compose: Composes configs.
        params: What the config sweeps over.
        arguments: The overrides of the command line.

    Raises:
        ConfigError: The search or an override of it is wrong, or an arm lacks a searched key.
    """
    _check_arguments(compose.parse(arguments))
    kept, seeds, notes = _at_one_place(compose.parse(params), compose.parse(arguments))
    cells = grid(compose, kept, arguments)
    config = cells[0].config
    search = settings.read(config["search"])
    _check_searched(search, cells, compose.parse(arguments), compose.parse(kept))
    used = {*(seeds or [config["seed"]])}
    both = sorted(used & {*search.seeds})
    if both:
        free = [seed for seed in range(100, 103 + len(used)) if seed not in used][:3]
        raise ConfigError(
            f"search.seeds has {both[0]}, which the result uses too, so that it would be picked by "
            f"what it is measured on; give search.seeds={free}, for example"
        )
    declared = config["comparison"]
    name = search.name or (declared and declared["name"]) or config["experiment"]
    if str(name) != Path(str(name)).name or str(name).startswith("."):
        raise ConfigError(f"the name of the search is {name!r}, but must be that of a folder")
    of = "experiment" if config["experiment"] else "comparison"
    return Question(cells, search, notes, str(name), of)


def trial_words(arm: Arm, values: Mapping[str, Any], *, seed: int, steps: int) -> list[str]:
    """Return the overrides of a trial's run."""
    own = ("search=", "search.")
    words = [word for word in arm.cell.overrides if not word.lstrip("+").startswith(own)]
    length = [f"steps={steps}", "epochs=null"] if arm.steps else []
    found = [f"{key}={as_word(value)}" for key, value in values.items()]
    return [*words, *found, f"seed={seed}", "test=false", *length]


def as_word(value: Any) -> str:
    """Return a value as an override has it."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value):
        return value
    return json.dumps(value)


def _check_arguments(arguments: Sequence[Override]) -> None:
    for override in arguments:
        key = override.key_or_group
        if key in _OWN:
            raise ConfigError(
                f"{override.input_line!r} is not for a search, {_OWN[key]}; leave it out"
            )
        if override.is_sweep_override() and (key.startswith("search") or key in _PLACES):
            raise ConfigError(f"{override.input_line!r} has several values; a search takes one")


def _at_one_place(
    params: Sequence[Override], arguments: Sequence[Override]
) -> tuple[list[str], list[int], list[str]]:
    """Return what is swept but for seeds and sizes, the seeds, and what was chosen."""
    given = {override.key_or_group for override in arguments}
    kept, seeds, notes = [], list[int](), list[str]()
    for override in params:
        key = override.get_key_element()
        lines = values_of(override)
        if key == "seed":
            seeds = [int(line.partition("=")[2]) for line in lines]
        elif key in _PLACES and len(lines) > 1:
            pick, word = _PLACES[key]
            line = pick(lines, key=_amount)
            kept.append(line)
            if key not in given:
                notes.append(f"searched at {line}, {word} of the {len(lines)} of the comparison")
        else:
            kept.append(str(override.input_line))
    return kept, seeds, notes


def _amount(line: str) -> float:
    """Return the value of an override as a number; null takes all there is."""
    value = line.partition("=")[2]
    return math.inf if value == "null" else float(value)


def _check_searched(
    search: Search, cells: Sequence[Cell], given: Sequence[Override], swept: Sequence[Override]
) -> None:
    for key, axis in search.space.items():
        if key in _FIXED or key.partition(".")[0] in ("search", "hydra", "resources"):
            raise ConfigError(f"search.space has {key}, which no search can vary; take it out")
        for override in (*given, *swept):
            if f"{key}.".startswith(f"{override.key_or_group}.") and _is_value(override, key):
                out = "leave it out" if override in given else "take it out of what the file sweeps"
                raise ConfigError(
                    f"{override.input_line!r} gives {key}, which is searched; {out}, or give "
                    f"search.space.{key}=null"
                )
        for cell in cells:
            _check_key(key, arm_of(cell), cell.config)
            if isinstance(axis, Choice):
                continue
            value = _value(cell.config, key)
            if isinstance(value, (str, bool, list, Mapping)):
                raise ConfigError(
                    f"search.space has a range for {key}, which is {value!r} in the arm "
                    f"{arm_of(cell)}; give {{values: [...]}}"
                )


def _is_value(override: Override, key: str) -> bool:
    """Return whether an override gives a key its value, and does not choose an option around it."""
    return override.key_or_group == key or isinstance(override.value(), dict)


def _check_key(key: str, arm: str, config: Mapping[str, Any]) -> None:
    node: Any = config
    for number, name in enumerate(parts := key.split(".")):
        if not isinstance(node, Mapping) or name not in node:
            above = ".".join(parts[:number])
            known = sorted(n for n in node if n != "_target_") if isinstance(node, Mapping) else []
            raise ConfigError(
                f"search.space has {key}, which the arm {arm} does not have; "
                f"{above or 'a config'} has {', '.join(known) or 'no keys'}{nearest(name, known)}"
            )
        node = node[name]


def _value(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = node[name]
    return node


def before(config: Mapping[str, Any], search: Search) -> dict[str, Any]:
    """Return what the searched keys of an arm are without tuning; of a group, its option."""
    options = config["choices"]
    return {key: options.get(key, _value(config, key)) for key in search.space}
