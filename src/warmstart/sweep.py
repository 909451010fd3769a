"""The cells of a sweep: all combinations of the swept values, composed.

Composing a config costs Hydra 60 to 80 ms. Cells of a grid differ mostly in values, so each
combination of group options is composed and resolved once, and values are set in copies of that.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from warmstart.configs import config_dirs_of, resolved, without_hydra
from warmstart.errors import ConfigError

# An interpolation that says which key it reads: "${init.groups}"; no resolver and no relative one.
_REFERENCE = re.compile(r"\$\{(\w[\w.]*)\}")


class Cell:
    """One combination of the swept values.

    Attributes:
        overrides: As on the command line.
        swept: Those among them that differ between cells.
        config: The config of the run, resolved, as plain dicts and lists. Cells share those parts
            of it that are equal: never to be changed.
    """

    def __init__(self, overrides: list[str], swept: list[str], config: Mapping[str, Any]) -> None:
        self.overrides = overrides
        self.swept = swept
        self.config = config


class Composer:
    """Compose the cells of one sweep."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._parser = OverridesParser.create(config_loader=loader)
        self._groups: dict[str, bool] = {}
        # Caches of this sweep. Each cell that differs in a list or a mapping needs an entry in the
        # last one, which therefore is bounded.
        self._parsed = functools.cache(lambda line: self._parser.parse_overrides([line])[0])
        self._composed = functools.cache(self._compose)
        self._bases = functools.lru_cache(maxsize=256)(self._base)

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the resolved config of one cell, without Hydra's own node.

        What it shares with other cells must not be changed.
        """
        parsed = self.parse(overrides)
        # Only a plain KEY=VALUE can be set in a copy; +, ~ and packages are left to Hydra.
        values = [o for o in parsed if self._is_plain_value(o)]
        others = tuple(str(o.input_line) for o in parsed if not self._is_plain_value(o))
        late = self._independent(values, self._composed(others)[1])
        early = tuple(str(o.input_line) for o in values if o.key_or_group not in late)
        base = self._bases(others, early)
        for override in values:
            if override.key_or_group in late:
                base = _with(base, override.key_or_group.split("."), override.value())
        return base

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Return overrides as Hydra reads them."""
        return [self._parsed(line) for line in overrides]

    def _compose(self, others: tuple[str, ...]) -> tuple[DictConfig, _Frame]:
        """Return the config with these group options, and where values can be set in it."""
        config = self._loader.load_sweep_config(self._master, list(others))
        dirs = config_dirs_of(self._master.hydra)
        config = without_hydra(config, config.hydra, dirs)
        return config, _Frame(config)

    def _base(self, others: tuple[str, ...], early: tuple[str, ...]) -> dict[str, Any]:
        """Return the resolved config after those values that only OmegaConf sets right."""
        config = self._composed(others)[0]
        if early:
            config = copy.deepcopy(config)
        for override in self.parse(early):
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return resolved(config)

    @staticmethod
    def _independent(values: Sequence[Override], frame: _Frame) -> set[str]:
        """Return the keys that can be set last, in the resolved config."""
        late = {o.key_or_group for o in values if frame.takes(o.key_or_group)}
        late -= {o.key_or_group for o in values if not _is_scalar(o.value())}
        early = {o.key_or_group for o in values} - late
        # A mapping that is merged above or below a key has to keep its place in the order.
        return {key for key in late if not any(_related(key, other) for other in early)}

    def _is_plain_value(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._groups:
            # Without the filter, folders count too: arms lie in folders of their own.
            self._groups[key] = bool(self._loader.get_group_options(key, results_filter=None))
        plain = override.is_force_add() is False and override.is_add() is False
        # A mapping given to a group sets values in it (data={per_class: 3}).
        value = not self._groups[key] or isinstance(override.value(), dict)
        return plain and value and not override.is_delete() and not override.package


class _Frame:
    """Where a composed config takes a plain value without any effect on another key."""

    def __init__(self, config: DictConfig) -> None:
        content = OmegaConf.to_container(config, resolve=False)
        text = json.dumps(content, default=str)
        self._read = set(_REFERENCE.findall(text))
        # Nobody knows what other interpolations read.
        opaque = "${" in _REFERENCE.sub("", text)
        self._leaves = set() if opaque else set(_leaves(content))

    def takes(self, key: str) -> bool:
        """Return whether `key` is a leaf that no interpolation reads."""
        return key in self._leaves and not any(_related(key, name) for name in self._read)


def grid(compose: Composer, params: Sequence[str], given: Sequence[str]) -> list[Cell]:
    """Return all combinations of the swept values, composed.

    Args:
        compose: Of this sweep.
        params: What the config sweeps over, for example ``["seed=0,1"]``.
        given: The overrides of the command line, which replace what the config says of a key.

    Raises:
        ConfigError: A value is a range or a distribution, which no grid can list.
    """
    merged = {o.get_key_element(): o for o in (*compose.parse(params), *compose.parse(given))}
    axes = [values_of(override) for override in merged.values()]
    swept = {o.get_key_element() for o in compose.parse(params)}
    swept |= {key for key, axis in zip(merged, axes, strict=True) if len(axis) > 1}
    cells = []
    for lines in itertools.product(*axes):
        named = [line for key, line in zip(merged, lines, strict=True) if key in swept]
        try:
            cells.append(Cell(list(lines), named, compose(lines)))
        except ConfigError as error:
            raise ConfigError(f"{error} (in the cell {' '.join(named) or 'run'})") from error
    return cells


def values_of(override: Override) -> list[str]:
    """Return an override for each of the values that it sweeps over, or the one that it is."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line!r} is no list of values; sweep over values with commas, "
            f"for example {key}=1,2,3"
        )
    try:
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    except HydraException as error:
        raise ConfigError(f"{override.input_line!r} does not parse: {error}") from error


def _leaves(node: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of all plain values that are reached through mappings alone."""
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(key, str) and "." not in key:
                yield from _leaves(value, f"{path}.{key}" if path else key)
    elif not isinstance(node, list):
        yield path


def _with(node: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy with a value set; whatever does not lie on the path is shared."""
    first, *rest = path
    return {**node, first: _with(node[first], rest, value) if rest else value}


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return "${" not in value and value != "???"
    return value is None or isinstance(value, bool | int | float)


def _related(one: str, other: str) -> bool:
    """Return whether two keys are equal, or one lies within the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
