"""How Hydra finds our sweeper and our launcher: it asks for plugins in this namespace package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from warmstart.sweep import Composer, Task, grid


class GridSweeper(Sweeper):
    """Run all combinations of the swept values that are not finished yet."""

    def __init__(self, params: DictConfig | None) -> None:
        self.params: dict[str, Any] = {str(k): v for k, v in (params or {}).items()}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        # Imported here, since Hydra imports its plugins before there are any.
        from hydra.core.plugins import Plugins

        self.compose = Composer(hydra_context.config_loader, config)
        self.task: Task = task_function  # type: ignore[assignment]
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Any]:
        assert self.launcher is not None
        params = [f"{key}={value}" for key, value in self.params.items()]
        cells = grid(self.compose, params, arguments)
        left = self.task.plan(cells, self.compose.parse(arguments))
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


# Not a file in conf/: Hydra would merge it with its own entry of this name, and warn.
ConfigStore.instance().store(
    group="hydra/launcher",
    name="basic",
    node={"_target_": f"{InProcessLauncher.__module__}.{InProcessLauncher.__qualname__}"},
    provider="warmstart",
)
