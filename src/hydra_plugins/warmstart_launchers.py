"""How Hydra finds our launchers. Each is a thin way from its options to an engine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from warmstart.errors import ConfigError
from warmstart.launch.jobs import Engine
from warmstart.progress import Display


class EngineLauncher(Launcher):
    """A launcher whose engine gets whole jobs from our sweeper, not overrides one by one."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        sweep: Any = task_function
        self.engine = self.engine_of(sweep.display, config)

    @abstractmethod
    def engine_of(self, display: Display, config: DictConfig) -> Engine:
        """Return the engine that shows its runs on `display`."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        raise ConfigError(
            "the launchers of warmstart need its own sweeper; leave hydra/sweeper as it is"
        )


class BasicLauncher(EngineLauncher):
    """One run after the other, in this process."""

    def engine_of(self, display: Display, config: DictConfig) -> Engine:
        from warmstart.launch.basic import BasicEngine

        return BasicEngine(display)


class LocalLauncher(EngineLauncher):
    """Many runs at a time on this machine; the options are those of `LocalEngine`."""

    def engine_of(self, display: Display, config: DictConfig) -> Engine:
        from warmstart.launch.local import LocalEngine

        return LocalEngine(**self.options)


class SlurmLauncher(EngineLauncher):
    """Job arrays on a Slurm cluster; the options are those of `SlurmEngine`."""

    def engine_of(self, display: Display, config: DictConfig) -> Engine:
        from warmstart.launch.slurm import SlurmEngine

        return SlurmEngine(Path(config.out) / "slurm", **self.options)


# Not a file in conf/: Hydra would merge it with its own entry of this name, and warn.
ConfigStore.instance().store(
    group="hydra/launcher",
    name="basic",
    node={"_target_": f"{BasicLauncher.__module__}.{BasicLauncher.__qualname__}"},
    provider="warmstart",
)
