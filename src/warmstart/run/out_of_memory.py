"""Training that runs out of memory: how it is recognized, and what is tried."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Mapping
from typing import Any

import torch

from warmstart.errors import RunError

_FACTOR = 4
# What the allocators of CPU and GPU, cuDNN, cuBLAS, oneDNN and the C++ library say; torch gives
# all but the GPU's own a plain RuntimeError.
_WORDS = (
    *("out of memory", "can't allocate memory", "alloc_failed", "bad_alloc", "bad allocation"),
    "could not create a primitive",
)


class OutOfMemory(RunError):  # noqa: N818 - as torch calls its own
    """Training ran out of memory.

    Args:
        error: What was raised.
        config: Of the run, its length resolved.
        accumulated: Micro-batches of a step that an earlier attempt had forced; 0 for none.
        step: Finished steps.
    """

    def __init__(
        self, error: BaseException, config: Mapping[str, Any], *, accumulated: int, step: int
    ) -> None:
        self.accumulated, self.step = accumulated, step
        micro = accumulated or config["accumulate"]
        batch = config["batch_size"]
        cut = f" in {micro} micro-batches" if micro > 1 else ""
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        super().__init__(
            f"out of memory after {step} steps with {batch} images a step{cut} ({reason}); give a "
            "smaller batch_size, a larger accumulate, or a smaller model or data.size"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on whatever device."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, RunError):  # whatever it quotes
        return False
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def evaluation_error(error: BaseException, during: str = "the evaluation") -> RunError:
    """Return what to say of a pass without training for which memory did not suffice."""
    reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
    return RunError(
        f"out of memory in {during} ({reason}); free some memory and give the same command "
        "again, or give a smaller model or data.size"
    )


def smaller_micro_batches(config: Mapping[str, Any], error: OutOfMemory) -> int:
    """Return into how many micro-batches the batch is cut for a second try; 0 where none helps.

    There is one second try, with a quarter of the images at once, but two at least: BatchNorm can
    do nothing with one. The processes of ``trainer.devices`` cannot accumulate.

    Args:
        config: Of the run.
        error: Of the attempt that failed.
    """
    devices = config["trainer"].get("devices", 1)
    if config["on_oom"] == "fail" or error.accumulated or devices > 1:
        return 0
    found = min(_FACTOR * config["accumulate"], config["batch_size"] // 2)
    return int(found) if found > config["accumulate"] else 0


def free_memory() -> None:
    """Give back what a failed attempt has held; nothing may refer to its error any more."""
    gc.collect()  # a trainer and its loops refer to each other
    # The C library keeps what is freed for the next step, but nothing may be left for others then.
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
