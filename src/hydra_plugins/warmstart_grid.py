"""How Hydra finds our sweeper: it asks for plugins in this namespace package."""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from warmstart.cells import Sweep
from warmstart.sweep import Composer
from warmstart.tuning.tuner import Tuner


class GridSweeper(Sweeper):
    """Give what is swept to the task, which composes its runs, and the launcher's engine."""

    def __init__(self, params: DictConfig | None) -> None:
        self.params: dict[str, Any] = {str(k): v for k, v in (params or {}).items()}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        # Imported here, since Hydra imports its plugins before there are any.
        from hydra.core.plugins import Plugins

        self.compose = Composer(hydra_context.config_loader, config)
        self.task: Sweep | Tuner = task_function  # type: ignore[assignment]
        launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.engine = launcher.engine

    def sweep(self, arguments: list[str]) -> list[Any]:
        params = [f"{key}={value}" for key, value in self.params.items()]
        self.task.sweep(self.compose, params, arguments, self.engine)
        return []
