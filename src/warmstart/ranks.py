"""The processes that compute one run together, one per device, and what they tell each other."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

T = TypeVar("T")

_HOST = "127.0.0.1"
# A rank that is gone is seen by the process that started it; one that is slow may be so.
_PATIENCE = timedelta(days=1)


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Ranks:
    """One of the processes of a run.

    Where there are several, every rank calls the methods below at the same places.

    Attributes:
        rank: Its number, from 0 on; the first one writes, logs and decides.
        world: How many there are.
        asked: Whether the run was asked to stop; only the first rank is told.
    """

    rank: int = 0
    world: int = 1
    asked: Callable[[], bool] = dataclasses.field(default=_never, compare=False)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def part(self) -> slice:
        """Which images of a training batch it takes: every `world`-th."""
        return slice(self.rank, None, self.world)

    def turns(self, count: int) -> list[int]:
        """Return which of `count` batches of an evaluation it takes: every `world`-th.

        All ranks take equally many, as one would wait for the others for ever. Who has none left
        at the end takes the last batch once more, which `collected` then leaves out.
        """
        rounds = -(-count // self.world)
        return [min(i * self.world + self.rank, count - 1) for i in range(rounds)]

    def add(self, tensor: Tensor) -> None:
        """Put the sum over all ranks in place of a tensor; bit-equal on all of them."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def collected(self, items: Sequence[T], count: int, *, everywhere: bool) -> list[T]:
        """Return what came of the `turns` of all ranks, in the order of the `count` batches.

        Args:
            items: One for each of this rank's turns; tensors among them lie on the CPU.
            count: Of all batches.
            everywhere: Otherwise only the first rank gets them, and the others an empty list.
        """
        if self.world == 1:
            return list(items)
        parts: list[Any] = [None] * self.world
        if everywhere:
            dist.all_gather_object(parts, list(items))
        else:
            dist.gather_object(list(items), parts if self.leads else None)
        if not everywhere and not self.leads:
            return []
        return [parts[index % self.world][index // self.world] for index in range(count)]

    def from_first(self, value: T) -> T:
        """Return the first rank's value."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def all_values(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank."""
        return self.collected([value], self.world, everywhere=True)

    def divergence(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """Return for each tensor the largest difference between the first rank and any other.

        Args:
            tensors: Of the same names and shapes on all ranks. NaN equals NaN here, and differs
                from numbers by infinity.
        """
        largest = torch.zeros(len(tensors), dtype=torch.float64)
        for place, tensor in enumerate(tensors.values()):
            own = tensor.detach().contiguous()
            own = own.byte() if own.dtype == torch.bool else own
            first = own.clone()
            dist.broadcast(first, src=0)
            largest[place] = _distance(first, own)
        if tensors:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return dict(zip(tensors, largest.tolist(), strict=True))


ALONE = Ranks()
"""The one process of a run that has no others."""


def _distance(one: Tensor, other: Tensor) -> float:
    equal = (one == other) | (one.isnan() & other.isnan())
    differences = (one.double() - other.double()).abs()[~equal]
    return float(differences.nan_to_num(nan=torch.inf).max()) if len(differences) else 0.0


def meeting_point() -> Any:
    """Return where ranks find each other, torch's `TCPStore`; the system chooses its `port`.

    It is kept by the process that starts them.
    """
    return TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)


@contextlib.contextmanager
def joined(ranks: Ranks, port: int, *, device: str) -> Iterator[None]:
    """Join the other ranks at the `meeting_point` with this port.

    Args:
        ranks: This process's place among them.
        port: Of the meeting point.
        device: ``gpu`` (that with the rank's number) or ``cpu``.
    """
    if sys.platform == "linux":  # all are on this machine, whatever its name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Lightning reads that somebody else has started the processes.
    os.environ.update(LOCAL_RANK=str(ranks.rank), WORLD_SIZE=str(ranks.world), NODE_RANK="0")
    if device == "gpu":
        torch.cuda.set_device(ranks.rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "gpu" else "gloo",
        store=TCPStore(_HOST, port, is_master=False),
        rank=ranks.rank,
        world_size=ranks.world,
        timeout=_PATIENCE,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
