"""Hydra plugins: all combinations of the swept values, and runs in this process.

Composing a config costs Hydra 60 to 80 ms. Cells of a grid differ mostly in values, so each
combination of group options is composed once, and values are set in a copy.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Protocol

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
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
        parsed = self._parser.parse_overrides(list(overrides))
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

    def _is_plain_value(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = bool(self._loader.get_group_options(key))
        plain = override.is_force_add() is False and override.is_add() is False
        return plain and not override.is_delete() and not self._groups[key] and not override.package


class GridSweeper(Sweeper):
    """Run all combinations of the swept values that are not finished yet."""

    def __init__(self, params: DictConfig | None) -> None:
        self.params = params or {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.task: Task = task_function  # type: ignore[assignment]
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Any]:
        assert self.hydra_context is not None and self.config is not None
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        lines = [f"{key}={value}" for key, value in self.params.items()]
        given = parser.parse_overrides(arguments)
        # What the command line says of a swept key replaces what the config says.
        merged = {o.get_key_element(): o for o in [*parser.parse_overrides(lines), *given]}
        axes = [_values(override) for override in merged.values()]
        swept = {key for key, axis in zip(merged, axes, strict=True) if len(axis) > 1}
        swept |= {str(key) for key in self.params}
        compose = Composer(loader, self.config)
        cells = []
        for combination in itertools.product(*axes):
            named = zip(merged, combination, strict=True)
            cells.append(
                Cell(
                    list(combination),
                    [line for key, line in named if key in swept],
                    compose(combination),
                )
            )
        left = self.task.plan(cells, given)
        if not left:
            return []
        assert self.launcher is not None
        return list(self.launcher.launch([cell.overrides for cell in left], initial_job_idx=0))


class InProcessLauncher(Launcher):
    """Run one cell after the other in this process, where imports and data are there already."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.compose = Composer(hydra_context.config_loader, config)
        self.task = task_function

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        returns = []
        for overrides in job_overrides:
            config = self.compose(overrides)
            result = JobReturn(overrides=list(overrides), cfg=config, status=JobStatus.COMPLETED)
            result.return_value = self.task(config)
            returns.append(result)
        return returns


def register() -> None:
    """Make the plugins known to Hydra, ours as the launcher named ``basic``."""
    for plugin in (GridSweeper, InProcessLauncher):
        Plugins.instance().register(plugin)
    target = f"{InProcessLauncher.__module__}.{InProcessLauncher.__qualname__}"
    # Not a file: Hydra would merge it with its own entry of this name, and warn.
    ConfigStore.instance().store(
        group="hydra/launcher", name="basic", node={"_target_": target}, provider="warmstart"
    )


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
