"""What becomes of runs in Slurm's queue: submitted, found again, ended, lost."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from warmstart.errors import ConfigError
from warmstart.launch import slurm_arrays, slurm_queue
from warmstart.launch.jobs import Job, Outcome
from warmstart.launch.slurm_arrays import Batch, Later, Options
from warmstart.launch.slurm_queue import Entry, Place
from warmstart.launch.slurm_task import Work, note_failure
from warmstart.launch.work import outcome_line
from warmstart.results import pruning
from warmstart.results import record as records
from warmstart.results import state as states
from warmstart.results.state import State

_KILLED_SECONDS = 3.0
"""A task that Slurm has ended: its last words may still be on their way to this machine."""
_FORGOTTEN_SECONDS = 20.0
"""One that has ended by itself, or that the queue does not know: its result may be on its way."""
_AGAIN = 2
"""So often a run is submitted again whose job the scheduler lost."""
_NEVER = ("Held", "held", "PartitionTimeLimit", "BadConstraints", "WallDuration", "Invalid")
"""Parts of Slurm's reasons for waiting that do not go away by themselves."""


class Follower:
    """The jobs of one sweep: where in the queue each one is, and what is still to come.

    Args:
        jobs: To bring to their ends.
        options: What the user asks of Slurm.
        folder: For logs and scripts.
        poll_seconds: Between two looks at the queue.
        say: Takes lines for the user.
        work: What a job does with each run.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        options: Options,
        *,
        folder: Path,
        poll_seconds: float,
        say: Callable[[str], None],
        work: Work,
    ) -> None:
        self.options = options
        self.folder = folder
        self.poll_seconds = poll_seconds
        self.say = say
        self.work = work
        self.jobs = {job.key: job for job in jobs}
        self.open = dict(self.jobs)
        self.tasks: dict[Place, list[Job]] = {}
        self.unsent: list[Batch] = []
        self.names: dict[Place, str] = {}
        self.gone: dict[Place, float] = {}
        self.again: collections.Counter[str] = collections.Counter()
        self.failures = 0  # of Slurm to answer
        self.said: set[str] = set()

    def follow(self) -> Generator[Outcome, None, None]:
        """Submit, wait, and yield outcomes until all jobs have ended."""
        try:
            self._begin()
            while self.open:
                entries = slurm_queue.listing()
                self._mind(entries is not None)
                if entries is not None:
                    self._send()
                    for place in list(self.tasks):
                        entry = entries.get(place)
                        # A scheduler that lost its state gives the same numbers again.
                        known = entry is not None and entry.name == self.names[place]
                        yield from self._look(place, entry if known else None)
                if self.open:
                    time.sleep(self.poll_seconds)
        finally:
            if self.open:
                self._leave()

    def _begin(self) -> None:
        """Find what is in the queue already, and cut the rest into arrays."""
        while (entries := slurm_queue.listing()) is None:
            self._mind(False)
            time.sleep(self.poll_seconds)
        known: set[str] = set()
        for place, entry in entries.items():
            if entry.ended or not entry.name.startswith(slurm_arrays.PREFIX):
                continue
            keys = slurm_arrays.keys_of(self.folder, entry.name, place)
            found = [self.open[key] for key in keys if key in self.open and key not in known]
            if found:
                self._note(place, entry.name, found)
                known |= {job.key for job in found}
        if known:
            self.say(f"in Slurm's queue already: {_runs(len(known))}")
        self._queue([job for job in self.jobs.values() if job.key not in known])

    def _note(self, place: Place, name: str, jobs: Sequence[Job]) -> None:
        self.tasks[place], self.names[place] = list(jobs), name
        self.gone.pop(place, None)

    def _queue(self, jobs: Sequence[Job]) -> None:
        """Let jobs be submitted at the next look."""
        for job in jobs:
            state = states.read(job.folder) or State("waiting")
            waiting = dataclasses.replace(state, state="waiting", stage="", reason="", job="")
            waiting.write(job.folder)
        largest = slurm_queue.largest_array()
        per_job = self.options.cells_per_job
        self.unsent += slurm_arrays.batches(jobs, cells_per_job=per_job, largest=largest)

    def _send(self) -> None:
        """Submit the arrays that wait here, as far as Slurm takes them."""
        while self.unsent:
            batch = self.unsent[0]
            try:
                name, places = slurm_arrays.submit(
                    batch,
                    self.options,
                    folder=self.folder,
                    sources=self.jobs,
                    after=self._after(batch),
                    work=self.work,
                )
            except Later as reason:
                self._say_once(f"Slurm takes no more jobs now ({reason}); trying again")
                return
            del self.unsent[0]
            for place, jobs in zip(places, batch.tasks, strict=True):
                if place in self.tasks:  # the scheduler lost that one, and its number with it
                    self._note(Place(f"{place.array}?", place.task), "", self.tasks[place])
                self._note(place, name, jobs)
            count = _runs(sum(map(len, batch.tasks)))
            self.say(f"submitted {count} to Slurm as job {places[0].array}")

    def _after(self, batch: Batch) -> list[str]:
        """Return what an array waits for: the runs that it needs, with a limit all before it."""
        if self.options.max_running is not None:
            return list(dict.fromkeys(place.array for place in self.tasks))
        needed = set(batch.needs) & self.open.keys()
        return [
            place.name
            for place, jobs in self.tasks.items()
            if any(job.key in needed for job in jobs)
        ]

    def _look(self, place: Place, entry: Entry | None) -> Iterator[Outcome]:
        """Yield what has become of a task's runs."""
        gone = entry is None or entry.ended
        if not gone:
            self.gone.pop(place, None)
        if entry is not None and not gone and not entry.started:
            if any(part in entry.reason for part in _NEVER):
                self._say_once(
                    f"job {place.array} waits for ever, says Slurm ({entry.reason}); "
                    f"release it, or end it with: scancel {place.array}"
                )
            return
        for job in self._left(place):
            outcome = _result(job, gone=gone)
            if outcome is not None:
                yield self._end(outcome)
        left = self._left(place)
        since = self.gone.setdefault(place, time.monotonic()) if gone else None
        if not left:
            del self.tasks[place]
        elif since is not None and time.monotonic() - since >= self._patience(entry):
            yield from self._lose(place, left, entry)

    def _patience(self, entry: Entry | None) -> float:
        """Return how many seconds a result may take to show up after its task has gone."""
        killed = entry is not None and (
            entry.state in ("CANCELLED", "OUT_OF_MEMORY", "TIMEOUT")
            or (entry.state == "FAILED" and entry.code not in (0, 1))
        )
        return _KILLED_SECONDS if killed else _FORGOTTEN_SECONDS

    def _lose(self, place: Place, left: Sequence[Job], entry: Entry | None) -> Iterator[Outcome]:
        """Yield the failures of a task that has gone without results for all its runs.

        A death costs the run that was under way; those that the task had not begun go into the
        queue again, unless somebody cancelled it or it had begun none. So does what a scheduler
        has lost.
        """
        entry = entry or slurm_queue.past(place)
        begun = [job for job in left if _begun(job)]
        if entry is None and any(_alive(job) for job in begun):
            return  # the scheduler has lost its job, but not the node
        whole = len(left) == len(self.tasks[place])
        cancelled = entry is not None and entry.state == "CANCELLED"
        if entry is None and (self.failures or not begun):
            failed = [job for job in left if self.again[job.key] >= _AGAIN]
        else:
            failed = list(left) if cancelled or (whole and not begun) else begun
        reason = f"its job {place.name} {slurm_queue.cause(entry)}{self._last_line(place)}"
        del self.tasks[place]
        for job in failed:
            note_failure(job, reason)
            yield self._end(Outcome(job, error=reason))
        rest = [job for job in left if job not in failed]
        self.again.update(job.key for job in rest)
        self._queue(rest)

    def _last_line(self, place: Place) -> str:
        path = slurm_arrays.log(self.folder, place)
        try:
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
        except OSError:
            return f" (and without a log in {path.parent})"
        # What srun says of a death is known already.
        told = [line for line in lines if line and not line.startswith("srun:")]
        return f" ({path} ends with {told[-1]!r})" if told else f" (see {path})"

    def _left(self, place: Place) -> list[Job]:
        return [job for job in self.tasks[place] if job.key in self.open]

    def _end(self, outcome: Outcome) -> Outcome:
        del self.open[outcome.job.key]
        return outcome

    def _leave(self) -> None:
        """Say how to find what goes on without us."""
        arrays = sorted({place.array for place in self.tasks})
        submitted = sum(len(self._left(place)) for place in self.tasks)
        if submitted:
            self.say(
                f"{_runs(submitted)} left to Slurm; look with: warmstart status "
                f"{self.folder.parent}, end them with: scancel {' '.join(arrays)}"
            )
        if len(self.open) > submitted:
            waiting = _runs(len(self.open) - submitted)
            self.say(f"not submitted: {waiting}; the same command does it")

    def _mind(self, answers: bool) -> None:
        line = "Slurm does not answer; waiting for it (jobs go on meanwhile)"
        if not answers:
            self.failures += 1
            self._say_once(line)
        elif line in self.said:
            self.said.remove(line)
            self.say("Slurm answers again")

    def _say_once(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            self.say(line)


def _result(job: Job, *, gone: bool) -> Outcome | None:
    """Return how the run has ended, by its files; None while they do not say."""
    state = states.read(job.folder)
    if state is not None and state.state == "failed":
        return Outcome(job, error=state.reason or "it failed")
    ended = pruning.read(job.folder) if state is not None and state.state == "stopped" else None
    if ended is not None:
        return Outcome(job, text=f"pruned at step {ended['step']}")
    if gone or (state is not None and state.state == "finished"):
        try:
            record = records.read(job.folder)
        except ConfigError as error:
            return Outcome(job, error=str(error))
        if record is not None and record.status == "finished":
            return Outcome(job, text=outcome_line(record))
    return None


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _begun(job: Job) -> bool:
    """Return whether the run's process has come to it since it was submitted."""
    state = states.read(job.folder)
    return state is not None and state.state != "waiting"


def _alive(job: Job) -> bool:
    state = states.read(job.folder)
    return state is not None and state.state == "running" and states.alive(state, job.folder)
