"""On what a run computes, and how exactly."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import logging
import os
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import PassThroughProfiler

from warmstart.errors import ConfigError, choose

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
        workers: Processes that make batches; 0 makes them in the run itself, None takes one per
            spare core where single images have to be decoded or transformed. Not part of a run's
            identity: any number gives the same batches.
    """

    accelerator: str = "auto"
    precision: str = "32-true"
    channels_last: bool = False
    deterministic: bool | None = None
    threads: int = 1
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.accelerator not in _ACCELERATORS:
            raise choose("trainer.accelerator", self.accelerator, _ACCELERATORS)
        if self.precision not in _PRECISIONS:
            raise choose("trainer.precision", self.precision, _PRECISIONS)
        for name, least in (("threads", 1), ("workers", 0)):
            value = getattr(self, name)
            if name == "workers" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"trainer.{name} is {value!r}, but must be a whole number, {least} or more"
                )
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise ConfigError(
                "trainer.accelerator is 'gpu', but torch sees no GPU; use trainer=auto or =cpu"
            )

    @property
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
        return min(_MOST_LOADERS, max(1, cores - 1)) if busy else 0

    def apply(self) -> None:
        """Set threads, memory and exactness of this process, for all that the run computes."""
        torch.set_num_threads(self.threads)
        if self.device == "cpu":
            _keep_freed_memory()
        torch.use_deterministic_algorithms(self.resolved()["deterministic"])
        # A debugging aid that writes NaN into all new memory in deterministic mode, at every step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def trainer(self, *, steps: int, val_every: int, callbacks: list[pl.Callback]) -> pl.Trainer:
        """Return a Lightning trainer that runs one epoch: the `steps` that are left of the run.

        Lightning keeps no logs, checkpoints or bars here: the recorder does that, at a fraction
        of the cost per step.
        """
        self.apply()
        _quiet()
        return pl.Trainer(
            accelerator=self.device,
            devices=1,
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


def _quiet() -> None:
    """Silence what Lightning says about every trainer; none of it is news to the user here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    # Few workers are a choice: batches are cut from memory, and workers would slow that down.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*eval mode at start of training.*")
    # Lightning's use of torch, not the user's.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
