"""Whose turn it is, and on which devices: pure functions of all requests and leases."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

# Three runs that each ask for 0.3333334 of a GPU share one.
_TOLERANCE = 1e-6

Place = tuple[tuple[str, ...], tuple[int, ...]]  # GPUs and cores
Load = defaultdict[str, float]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A request for devices, and what it was given.

    Attributes:
        number: Its place in the queue: whoever has a smaller one asked before.
        devices: GPUs, as in `Resources.gpus`: 0, a share below 1, or a whole number.
        cpus: Cores.
        from_gpus: All that it may be given.
        from_cores: All that it may be given.
        gpus: What it was given; None while it waits.
        cores: What it was given.
    """

    number: int
    devices: float
    cpus: int
    from_gpus: tuple[str, ...]
    from_cores: tuple[int, ...]
    gpus: tuple[str, ...] | None = None
    cores: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        """How much of each of its GPUs it takes."""
        return min(self.devices, 1.0)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Claim:
        """Return the claim of ``dataclasses.asdict``, also after a way through JSON."""
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})


def place(mine: Claim, claims: Sequence[Claim]) -> Place | None:
    """Return the devices that a waiting claim gets now; None while it has to wait.

    Devices with the least load come first, so runs spread out and wrap round. What an older claim
    waits for is kept free for it, also if it needs more before it can start: a run on four GPUs
    gets them one by one, however many small ones come after it.

    Args:
        mine: Waits.
        claims: All that live, `mine` among them or not, oldest first.
    """
    load, taken = _given(claims)
    for claim in _waiting(claims):
        if claim.number < mine.number:
            _take(load, taken, claim, _best(claim, load, taken))
    gpus, cores = _best(mine, load, taken)
    full, few = _lacks(mine, (gpus, cores), load)
    return None if full or few else (gpus, cores)


def wanted(mine: Claim, claims: Sequence[Claim]) -> bool:
    """Return whether somebody waits who could start sooner if a claim gave back its devices."""
    load, taken = _given(claims)
    for claim in _waiting(claims):
        devices = _best(claim, load, taken)
        full, few = _lacks(claim, devices, load)
        if full and set(mine.gpus or ()) & set(claim.from_gpus):
            return True
        if few and set(mine.cores) & set(claim.from_cores):
            return True
        _take(load, taken, claim, devices)
    return False


def _given(claims: Sequence[Claim]) -> tuple[Load, set[int]]:
    load: Load = defaultdict(float)
    taken: set[int] = set()
    for claim in claims:
        if claim.gpus is not None:
            _take(load, taken, claim, (claim.gpus, claim.cores))
    return load, taken


def _waiting(claims: Sequence[Claim]) -> list[Claim]:
    return [claim for claim in claims if claim.gpus is None]


def _best(claim: Claim, load: Mapping[str, float], taken: set[int]) -> Place:
    """Return the devices that are nearest to free, though they may be too full, or too few cores.

    Whoever keeps the least loaded ones free gets them in the end: their load only falls.
    """
    count = round(claim.devices) if claim.devices >= 1 else int(claim.devices > 0)
    gpus = sorted(claim.from_gpus, key=lambda name: load[name])[:count]
    cores = [core for core in claim.from_cores if core not in taken][: claim.cpus]
    return tuple(gpus), tuple(cores)


def _lacks(claim: Claim, devices: Place, load: Mapping[str, float]) -> tuple[bool, bool]:
    """Return whether a GPU is too full, and whether there are too few cores."""
    gpus, cores = devices
    full = any(load[name] + claim.share > 1 + _TOLERANCE for name in gpus)
    return full, len(cores) < claim.cpus


def _take(load: Load, taken: set[int], claim: Claim, devices: Place) -> None:
    for name in devices[0]:
        load[name] += claim.share
    taken.update(devices[1])
