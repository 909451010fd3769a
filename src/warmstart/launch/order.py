"""In which order jobs start, and how long all of them take on so many devices. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from warmstart.errors import ConfigError
from warmstart.launch.jobs import Job

_TOLERANCE = 1e-6
"""Three thirds of a GPU are one GPU."""


def ordered(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs in the order in which to start them.

    First those that others need, the one with the longest way behind it first; then the rest, the
    longest first, so that none is left over when all other devices are idle. Jobs that are alike
    keep their order. Whoever needs a job stands behind it. A key in `needs` that no job has counts
    as done.

    Raises:
        ValueError: Jobs need one another in a circle.
    """
    needs = _needs(jobs)
    dependents: list[list[int]] = [[] for _ in jobs]
    for index, needed in enumerate(needs):
        for other in needed:
            dependents[other].append(index)
    # The seconds from a job's start to the end of the last one that waits for it, and the number
    # of jobs on the longest such chain, which keeps jobs of unknown length in order.
    tail, height = [0.0] * len(jobs), [0] * len(jobs)
    for index in reversed(_topological(jobs, needs, dependents)):
        behind = dependents[index]
        tail[index] = max(0.0, jobs[index].seconds) + max((tail[i] for i in behind), default=0.0)
        height[index] = 1 + max((height[i] for i in behind), default=0)
    order = sorted(range(len(jobs)), key=lambda i: (not dependents[i], -tail[i], -height[i], i))
    return [jobs[index] for index in order]


def makespan(jobs: Sequence[Job], devices: int) -> float:
    """Return the seconds until the last job ends, if each takes what it was predicted to.

    Whenever something ends, the first job in order whose needs are met and that fits is started.
    A device is a GPU where any of the jobs asks for one (those that ask for none then run beside
    them), else a core.

    Raises:
        ConfigError: A job asks for more than there is.
    """
    queue = ordered(jobs)
    simulation = _Simulation(queue, devices)
    return simulation.run()


def demands(jobs: Sequence[Job]) -> list[float]:
    """Return how many devices each job takes, by the rule of `makespan`."""
    if any(job.resources.gpus for job in jobs):
        return [job.resources.gpus for job in jobs]
    return [float(job.resources.cpus) for job in jobs]


class _Simulation:
    """List scheduling: jobs by their place in the queue, `free` what is left of each device."""

    def __init__(self, queue: Sequence[Job], devices: int) -> None:
        self.queue = queue
        self.demands = demands(queue)
        self.free = [1.0] * devices
        self.held: dict[int, list[int]] = {}
        self.waits_for = _needs(queue)
        self.dependents: list[list[int]] = [[] for _ in queue]
        # One heap of ready jobs for each demand: only their heads are looked at.
        self.ready: dict[float, list[int]] = {demand: [] for demand in self.demands}
        for index, needed in enumerate(self.waits_for):
            for other in needed:
                self.dependents[other].append(index)
            if not needed:
                heapq.heappush(self.ready[self.demands[index]], index)
        for job, demand in zip(queue, self.demands, strict=True):
            if demand > devices + _TOLERANCE:
                raise ConfigError(
                    f"the run {job.label} takes {demand:g} devices, but there are {devices}; "
                    f"give --devices {demand:g} or more, or ask for less with resources.*"
                )

    def run(self) -> float:
        """Return the time at which the last job ends."""
        now, running = 0.0, list[tuple[float, int]]()
        while True:
            while (index := self._next()) is not None:
                self._take(index)
                heapq.heappush(running, (now + max(0.0, self.queue[index].seconds), index))
            if not running:
                return now
            now, index = heapq.heappop(running)
            self._end(index)
            while running and running[0][0] <= now:
                self._end(heapq.heappop(running)[1])

    def _next(self) -> int | None:
        """Return the first job that is ready and fits, taken from its heap."""
        heads = [(heap[0], demand) for demand, heap in self.ready.items() if heap]
        for index, demand in sorted(heads):
            if self._fits(demand) is not None:
                heapq.heappop(self.ready[demand])
                return index
        return None

    def _fits(self, demand: float) -> list[int] | None:
        """Return the devices that a job would get: whole ones, or the fullest that has room."""
        if demand < 1 - _TOLERANCE:
            room = [i for i, free in enumerate(self.free) if free >= demand - _TOLERANCE]
            return [min(room, key=lambda i: self.free[i])] if room else None
        whole = [i for i, free in enumerate(self.free) if free >= 1 - _TOLERANCE]
        count = round(demand)
        return whole[:count] if len(whole) >= count else None

    def _take(self, index: int) -> None:
        demand = self.demands[index]
        devices = self._fits(demand) or []
        for device in devices:
            self.free[device] -= min(1.0, demand)
        self.held[index] = devices

    def _end(self, index: int) -> None:
        for device in self.held.pop(index):
            self.free[device] += min(1.0, self.demands[index])
        for other in self.dependents[index]:
            self.waits_for[other].discard(index)
            if not self.waits_for[other]:
                heapq.heappush(self.ready[self.demands[other]], other)


def _needs(jobs: Sequence[Job]) -> list[set[int]]:
    """Return for each job the places of those that it needs."""
    places: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        places.setdefault(job.key, []).append(index)
    return [{place for key in job.needs for place in places.get(key, ())} for job in jobs]


def _topological(
    jobs: Sequence[Job], needs: Sequence[set[int]], dependents: Sequence[Sequence[int]]
) -> list[int]:
    """Return the places so that each stands behind those that it needs."""
    missing = [len(needed) for needed in needs]
    order = [index for index, count in enumerate(missing) if count == 0]
    for index in order:  # grows while it is walked
        for other in dependents[index]:
            missing[other] -= 1
            if missing[other] == 0:
                order.append(other)
    if len(order) < len(jobs):
        stuck = sorted({jobs[index].label for index, count in enumerate(missing) if count})
        raise ValueError(f"these jobs need one another in a circle: {', '.join(stuck)}")
    return order
