"""What a launcher gets, and what it gives back. Imports no torch: it may be missing here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Resources:
    """What one run is given.

    Attributes:
        gpus: Whole GPUs, or a share of one: 0, 0.5, 1, 4. 0.5 means that two runs share a GPU.
        cpus: Cores, at least one.
        timeout: Seconds after which a run counts as hanging and is killed; None waits for ever.
    """

    gpus: float = 0.0
    cpus: int = 1
    timeout: float | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to be brought to its end, by whatever launcher.

    Attributes:
        key: The run's identity.
        label: What tables and lines call it, for example ``arm=digits/full seed=0``.
        folder: The run's folder: its record, its state, its checkpoints.
        config: Resolved and plain, as `warmstart.run.preparing.prepare` takes it.
        source: 0 is the run of the config itself, 1 the run that its weights come from, 2 that
            one's source, ...
        needs: Keys of the jobs that must have ended before this one starts.
        seconds: Predicted, on what it is given; only the order follows from it.
        stack: Jobs that have the same here, if it is not empty, can be made one.
        members: Of such a one: the jobs that it stands for, of which the first gives the rest.
    """

    key: str
    label: str
    folder: Path
    config: dict[str, Any]
    resources: Resources = Resources()
    source: int = 0
    needs: tuple[str, ...] = ()
    seconds: float = 0.0
    stack: str = ""
    members: tuple[Job, ...] = ()

    @property
    def runs(self) -> tuple[Job, ...]:
        """The jobs of its single runs."""
        return self.members or (self,)

    @property
    def timeout(self) -> float | None:
        """Seconds after which it counts as hanging."""
        seconds = self.resources.timeout
        return None if seconds is None else seconds * len(self.runs)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        job: Which.
        error: Why it failed, in one sentence; None for a finished run.
        text: Of a finished run: its metric and its time, in one line.
        members: Of several runs: how each has ended.
    """

    job: Job
    error: str | None = None
    text: str = ""
    members: tuple[Outcome, ...] = ()


def unmet(job: Job, failed: Mapping[str, str]) -> Outcome | None:
    """Return the outcome of a job that needs one of the failed ones (key to label), or None."""
    for key in job.needs:
        if key in failed:
            return Outcome(job, error=f"it starts from {failed[key]}, which failed")
    return None


class Engine(Protocol):
    """A launcher's engine.

    Attributes:
        elsewhere: Whether the runs go to other machines than this one.
        parallel: Whether several of them run at a time.
    """

    elsewhere: bool
    parallel: bool

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Return ``function(*args)``, computed in a process that may import torch.

        Function and arguments can be pickled; what it raises is raised here.
        """
        ...

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Bring all jobs to an end, in an order that `needs` allows; yield each one's outcome.

        A job that dies costs only itself. Closing the generator ends what is under way (or, on a
        cluster, leaves it running).
        """
        ...
