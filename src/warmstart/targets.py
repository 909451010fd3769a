"""What a config's groups may name, and the check of a group's node against its target."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.utils import get_object

from warmstart.data.preparation import Preparation
from warmstart.errors import ConfigError, nearest

# Each group's `_target_` must lie in one module of ours; nothing else is ever imported or called.
TARGETS = {
    "data": "warmstart.data.",
    "augment": "warmstart.data.augment.",
    "model": "warmstart.models.",
    "init": "warmstart.models.init.",
    "strategy": "warmstart.strategies.",
    "optimizer": "warmstart.optim.optimizers.",
    "scheduler": "warmstart.optim.schedules.",
    "regularization": "warmstart.optim.regularization.",
    "average": "warmstart.callbacks.averaging.",
    "trainer": "warmstart.trainer.",
    "logger": "warmstart.callbacks.",
}
# What the run itself reads in a group's node: for data, what all sources share.
PREPARATION = inspect.signature(Preparation).parameters
OWN_KEYS = {"data": set(PREPARATION), "model": {"weights", "channels"}}
# What the run passes to the targets: no keys of a config.
_PASSED = {"groups", "steps", "steps_per_epoch", "store", "folder", "labels"}
# The types in the targets' signatures, in words and as a config holds them.
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "Mapping": ("a mapping", (dict,)),
    "None": ("null", (type(None),)),
    "Path": ("a path", (str,)),
    "Sequence": ("a list", (list,)),
    "bool": ("true or false", (bool,)),
    "float": ("a number", (int, float)),
    "int": ("a whole number", (int,)),
    "str": ("text (a number in quotes: '\"5\"')", (str,)),
    "tuple": ("a list", (list,)),
}


@functools.cache
def parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a target, which cost more to find than most targets to call."""
    return inspect.signature(target).parameters


def check_node(name: str, node: Any) -> None:
    """Check the node of a config group: its target, the keys that this takes, and their types.

    Raises:
        ConfigError: What is wrong, in one sentence.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{name} must name one of the options of conf/{name}; choose one")
    target = str(node["_target_"])
    if not target.startswith(TARGETS[name]):
        raise ConfigError(f"{name}._target_ is {target!r}, but must lie in {TARGETS[name]}*")
    try:
        found = get_object(target)
    except Exception as error:
        raise ConfigError(f"{name}._target_ is {target!r}, which does not exist") from error
    if not str(getattr(found, "__module__", "")).startswith("warmstart.") or not callable(found):
        raise ConfigError(f"{name}._target_ is {target!r}, which is not of warmstart")
    takes = parameters(found)
    typed = {**(PREPARATION if name == "data" else {}), **takes}
    allowed = set(typed) | OWN_KEYS.get(name, set())
    for key, value in node.items():
        if key != "_target_" and key not in allowed:
            raise no_key(f"{name}.{key}", allowed - (_PASSED - set(node)))
        if key in typed:
            _check_type(f"{name}.{key}", value, str(typed[key].annotation))
    for key, parameter in takes.items():
        if parameter.default is parameter.empty and key not in {*node, *_PASSED, "name"}:
            raise ConfigError(f"{name}.{key} has no value; give it one: {name}.{key}=VALUE")


def _check_type(name: str, value: Any, annotation: str) -> None:
    """Refuse a value that is not of the type that a target's signature names, and empty paths."""
    names = annotation.replace("str | Path", "Path").split(" | ")
    kinds = [_KINDS.get(kind.partition("[")[0]) for kind in names]
    known = [kind for kind in kinds if kind is not None]
    fits = any(
        isinstance(value, types) and (bool in types or not isinstance(value, bool))
        for _, types in known
    )
    if (len(known) == len(kinds) and not fits) or (value == "" and "Path" in names):
        words = " or ".join(word for word, _ in known)
        raise ConfigError(f"{name} is {value!r}, but must be {words}")


def missing(path: str, node: Any) -> Iterator[str]:
    """Yield the keys without a value at and below a node of a plain config."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from missing(f"{path}.{key}", value)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from missing(f"{path}[{number}]", value)
    elif node == "???":
        yield path


def check_missing(keys: Sequence[str]) -> None:
    """Refuse a config in which these keys have no value; the first of them is named."""
    if keys:
        raise ConfigError(f"{keys[0]} has no value; give it one: {keys[0]}=VALUE")


def no_key(key: str, known: Iterable[str]) -> ConfigError:
    """Return the error about a key that does not exist, with those that do."""
    names = sorted(name for name in known if name not in ("_target_", "hydra"))
    above, _, name = key.rpartition(".")
    if not names:
        return ConfigError(
            f"there is no key {key!r}, and what was chosen for {above} takes no keys at all; "
            f"choose another option ({above}=NAME), or leave {name} out"
        )
    return ConfigError(
        f"there is no key {key!r}; allowed are {', '.join(names)}{nearest(name, names)}"
    )
