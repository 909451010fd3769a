"""On what a run computes, and how exactly."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    LightningEnvironment,
)
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.trainer.connectors import callback_connector

from warmstart.errors import ConfigError, choose
from warmstart.ranks import ALONE, Ranks

_ACCELERATORS = ("auto", "cpu", "gpu")
_PRECISIONS = ("32-true", "bf16-mixed")
_MOST_LOADERS = 8


@dataclasses.dataclass(frozen=True)
class Hardware:
    """The options of ``trainer=``.

    Attributes:
        accelerator: ``auto`` (a GPU when there is one), ``cpu`` or ``gpu``.
        precision: ``32-true`` or ``bf16-mixed``.
        channels_last: Memory format of images and weights; faster for convolutions.
        deterministic: Same seed, same result, bit for bit; refuses operations that cannot promise
            it. None: on a CPU, where it costs nothing.
        threads: Of torch on a CPU. One is right on a busy machine: two were 8 to 36 times slower.
        workers: Processes that make batches, for each device; 0 makes them in the run itself, None
            takes one per spare core where single images have to be decoded or transformed. Not
            part of a run's identity: any number gives the same batches.
        devices: GPUs of the run, or processes on a CPU. Each computes its part of every batch, and
            their gradients are averaged.
        sync_batchnorm: BatchNorm normalizes by the batch of all devices, not by a device's part
            of it. On GPUs alone.
    """

    accelerator: str = "auto"
    precision: str = "32-true"
    channels_last: bool = False
    deterministic: bool | None = None
    threads: int = 1
    workers: int | None = None
    devices: int = 1
    sync_batchnorm: bool = False

    def __post_init__(self) -> None:
        if self.accelerator not in _ACCELERATORS:
            raise choose("trainer.accelerator", self.accelerator, _ACCELERATORS)
        if self.precision not in _PRECISIONS:
            raise choose("trainer.precision", self.precision, _PRECISIONS)
        for name, least in (("threads", 1), ("workers", 0), ("devices", 1)):
            value = getattr(self, name)
            if name == "workers" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"trainer.{name} is {value!r}, but must be a whole number, {least} or more"
                )
        if self.sync_batchnorm and self.devices == 1:
            raise ConfigError(
                "trainer.sync_batchnorm is true, but trainer.devices is 1, with nothing to "
                "synchronize; use trainer.sync_batchnorm=false, or trainer=ddp"
            )

    def check(self) -> None:
        """Raise a ConfigError when this machine lacks the devices."""
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise ConfigError(
                "trainer.accelerator is 'gpu', but torch sees no GPU; use trainer=auto or =cpu"
            )
        if self.device == "gpu" and self.devices > torch.cuda.device_count():
            raise ConfigError(
                f"trainer.devices is {self.devices}, but torch sees {torch.cuda.device_count()} "
                "GPU(s); give at most so many, or trainer.accelerator=cpu"
            )
        if self.device == "cpu" and self.sync_batchnorm:
            raise ConfigError(
                "trainer.sync_batchnorm is true, but the run computes on a CPU, where torch has no "
                "synchronized BatchNorm; use trainer.sync_batchnorm=false, or GPUs"
            )

    @functools.cached_property
    def device(self) -> str:
        """``cpu`` or ``gpu``: what ``auto`` stands for on this machine."""
        if self.accelerator != "auto":
            return self.accelerator
        return "gpu" if torch.cuda.is_available() else "cpu"

    def loaders(self, *, busy: bool) -> int:
        """Return how many processes make batches, where single images are work or not."""
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        return min(_MOST_LOADERS, max(1, cores // self.devices - 1)) if busy else 0

    def apply(self) -> None:
        """Set threads, memory and exactness of this process, for all that the run computes."""
        torch.set_num_threads(self.threads)
        if self.device == "cpu":
            _keep_freed_memory()
        torch.use_deterministic_algorithms(self.resolved()["deterministic"])
        # A debugging aid that writes NaN into all new memory in deterministic mode, at every step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def trainer(
        self,
        *,
        steps: int,
        val_every: int,
        callbacks: list[pl.Callback],
        ranks: Ranks = ALONE,
        ddp: DDPStrategy | None = None,
    ) -> pl.Trainer:
        """Return a Lightning trainer that runs one epoch: the `steps` that are left of the run.

        Lightning keeps no logs, checkpoints or bars here: the recorder does that, at a fraction
        of the cost per step.

        Args:
            steps: That it takes at most.
            val_every: Steps between two validations.
            callbacks: In their order.
            ranks: This process among those of the run.
            ddp: What joins them; None trains or predicts in this process alone.
        """
        self.apply()
        _quiet()
        own: Any = [ranks.rank] if self.device == "gpu" else 1
        with _no_plugins():
            return pl.Trainer(
                accelerator=self.device,
                devices=own if ddp is None else self.devices,
                strategy=ddp or "auto",
                # Otherwise Lightning takes signals and the layout of processes from Slurm.
                plugins=[LightningEnvironment()],
                use_distributed_sampler=False,
                precision=self.precision,  # type: ignore[arg-type]
                deterministic=self.resolved()["deterministic"],
                max_epochs=1,
                max_steps=steps,
                val_check_interval=val_every,
                check_val_every_n_epoch=None,
                callbacks=callbacks,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                profiler=_NoProfiler(),
            )

    def resolved(self) -> dict[str, Any]:
        """Return the options with what ``auto`` and None stand for on this machine."""
        exact = self.device == "cpu" if self.deterministic is None else self.deterministic
        return {**dataclasses.asdict(self), "accelerator": self.device, "deterministic": exact}


@functools.cache
def _keep_freed_memory() -> None:
    """Let the C library keep large pieces of freed memory for the next step.

    It gives each back to the system, which clears it anew: a third of a training step of
    MobileNetV2 with 64 images of 96 pixels, and two thirds of its evaluation with 256.
    """
    no_mmap, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD in glibc's malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(no_mmap, 0)
        mallopt(trim_threshold, 2**31 - 1)


class _NoProfiler(PassThroughProfiler):
    """Measure nothing, at less cost: Lightning's own makes some 30 generators in every step."""

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = contextlib.nullcontext()


def ddp(*, unused: bool) -> DDPStrategy:
    """Return what averages the gradients of all ranks, which have joined before.

    Args:
        unused: Some parameters have no gradient at some steps: those of frozen groups.
    """
    return DDPStrategy(find_unused_parameters=unused, forward_sync_buffers=False)


@contextlib.contextmanager
def _no_plugins() -> Iterator[None]:
    """Let Lightning take no callbacks from other installed packages: a run is what its config says.

    Looking for them also reads the metadata of all packages, half of what a trainer costs.
    """
    connector: Any = callback_connector
    found = connector._load_external_callbacks
    connector._load_external_callbacks = lambda group: []
    try:
        yield
    finally:
        connector._load_external_callbacks = found


def _quiet() -> None:
    """Silence what Lightning says about every trainer; none of it is news to the user here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    # Few workers are a choice: batches are cut from memory, and workers would slow that down.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*eval mode at start of training.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # Lightning's use of torch, not the user's.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
