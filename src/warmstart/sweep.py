"""The cells of a sweep: all combinations of the swept values, composed.

Composing a config costs Hydra 60 to 80 ms. Cells of a grid differ mostly in values, so each
combination of group options is composed once, and values are set in a copy.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Protocol

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from warmstart.configs import config_dirs_of, without_hydra
from warmstart.errors import ConfigError


class Task(Protocol):
    """What Hydra calls for each cell, after it was asked which cells are left to run."""

    def plan(self, cells: Sequence[Cell], arguments: Sequence[Override]) -> Sequence[Cell]:
        """Return the cells to run; called once, before the first one runs."""
        ...

    def __call__(self, cfg: DictConfig) -> Any:
        """Run one cell; never raises."""
        ...


class Cell:
    """One combination of the swept values.

    Attributes:
        overrides: As on the command line.
        swept: Those among them that differ between cells.
        config: The composed config of the run.
    """

    def __init__(self, overrides: list[str], swept: list[str], config: DictConfig) -> None:
        self.overrides = overrides
        self.swept = swept
        self.config = config


class Composer:
    """Compose the cells of one sweep."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._parser = OverridesParser.create(config_loader=loader)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of one cell, without Hydra's own node."""
        parsed = self.parse(overrides)
        # Only a plain KEY=VALUE can be set in a copy; +, ~ and packages are left to Hydra.
        simple = [o for o in parsed if self._is_plain_value(o)]
        others = tuple(str(o.input_line) for o in parsed if not self._is_plain_value(o))
        if others not in self._composed:
            config = self._loader.load_sweep_config(self._master, list(others))
            dirs = config_dirs_of(self._master.hydra)
            self._composed[others] = without_hydra(config, config.hydra, dirs)
        config = copy.deepcopy(self._composed[others])
        for override in simple:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return config

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Return overrides as Hydra reads them."""
        return self._parser.parse_overrides(list(overrides))

    def _is_plain_value(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._groups:
            # Without the filter, folders count too: arms lie in folders of their own.
            self._groups[key] = bool(self._loader.get_group_options(key, results_filter=None))
        plain = override.is_force_add() is False and override.is_add() is False
        # A mapping given to a group sets values in it (data={per_class: 3}).
        value = not self._groups[key] or isinstance(override.value(), dict)
        return plain and value and not override.is_delete() and not override.package


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
    axes = [_values(override) for override in merged.values()]
    swept = {o.get_key_element() for o in compose.parse(params)}
    swept |= {key for key, axis in zip(merged, axes, strict=True) if len(axis) > 1}
    cells = []
    for lines in itertools.product(*axes):
        named = [line for key, line in zip(merged, lines, strict=True) if key in swept]
        cells.append(Cell(list(lines), named, compose(lines)))
    return cells


def _values(override: Override) -> list[str]:
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
