"""Several runs as one job: their heads train together, all else is as if each ran alone."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart import stopping, store
from warmstart.callbacks import checkpoint
from warmstart.results.record import Record
from warmstart.run import stack
from warmstart.run.beat import Beat, Progress, place
from warmstart.run.execution import execute, record_failure, with_enough_memory
from warmstart.run.identity import identity
from warmstart.run.obstacles import standing_reason
from warmstart.run.plan import Run
from warmstart.run.stack import Trainee
from warmstart.run.stages import Ready, conclude, ready

_log = logging.getLogger(__name__)

# In what runs may differ that train together. Lengths and batches may follow from the images.
_DIFFER = (
    *("optimizer.lr", "optimizer.weight_decay", "seed", "data.per_class", "data.fraction"),
    *("batch_size", "steps", "epochs", "val_every_steps", "log_every_steps"),
)

Results = dict[Path, Record | Exception]
"""By the folder of a run: its record, or why it failed."""


def stack_key(run: Run) -> str:
    """Return what runs have in common whose heads can be trained together; empty for others."""
    if run.config.get("prune"):
        return ""
    if run.probe is not None or not run.steps or [phase.groups for phase in run.phases] != [1]:
        return ""
    if standing_reason(run, run.groups(), 0) is not None:
        return ""
    content = {
        "config": _without(identity(run.config), ""),
        "input": dataclasses.asdict(run.input),
        "data": run.dataset.digest,
        # Without weights the frozen layers follow from the seed.
        "weights": run.config["seed"] if run.weights is None else run.weights.digest,
        "out": run.config["out"],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def execute_together(runs: Sequence[Run], *, progress: Progress | None = None) -> Results:
    """Bring runs of one `stack_key` to their ends, as `execute` does each.

    Those that turn out not to share their frozen layers come one after the other.

    Args:
        runs: As `warmstart.run.preparing.prepare` returns them.
        progress: Called with the finished steps and all steps.

    Raises:
        Stopped: On request; checkpoints are written.
    """
    results: Results = {}
    with contextlib.ExitStack() as held:
        # In one order everywhere, so that no two jobs wait for one another.
        distinct = sorted({run.folder: run for run in runs}.values(), key=lambda run: run.folder)
        share = 1 / max(1, len(distinct))
        members = [held.enter_context(_Member(run, progress, results, share)) for run in distinct]
        members = [member for member in members if not member.over]
        stopping.check()
        first: Ready | None = None
        for member in members:
            with member.guarded():
                first = member.prepare(first, progress)
        trainees = [member.trainee for member in members if member.trainee and not member.over]
        stack.train(trainees)
        for member in members:
            if not member.over:
                with member.guarded():
                    stopping.check()
                    member.finish()
    return results


class _Member:
    """A run among others, with its lock and its sign of life while it is entered.

    Args:
        run: Which.
        progress: Called with the finished steps and all steps.
        results: Where its record goes, or its error.
        share: Of the time, which is its own.

    Attributes:
        trainee: Its head, where that trains with the others'.
        over: Nothing is left to do.
    """

    def __init__(self, run: Run, progress: Progress | None, results: Results, share: float) -> None:
        self.run = run
        self.trainee: Trainee | None = None
        self.over = False
        self._results = results
        self._held = contextlib.ExitStack()
        devices, device = place(run.config, run.hardware.device)
        self._beat = Beat(
            run.folder,
            steps=run.steps,
            devices=devices,
            device=device,
            progress=progress,
            share=share,
        )
        self._ready: Ready | None = None
        self._idle = self._before = 0.0

    def __enter__(self) -> _Member:
        self._held.enter_context(store.lock(self.run.folder))
        record = self.run.finished()
        if record is None:
            self.run.folder.mkdir(exist_ok=True)
            self._held.enter_context(self._beat)
        else:
            checkpoint.remove(self.run.folder)  # of a run that was killed right after its record
            self._end(record)
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Write down why the run fails, and let the others go on."""
        try:
            yield
        except stopping.Stopped:
            raise
        except Exception as error:
            record_failure(self.run, error)
            self._results[self.run.folder] = error
            self.over = True
            self._held.__exit__(type(error), error, error.__traceback__)

    def prepare(self, first: Ready | None, progress: Progress | None) -> Ready | None:
        """Make the run's model, unless it is that of the first run; return the first run.

        A run with a model of its own is left for later, so that only one is in memory.
        """
        run = self.run
        if run.source is not None and run.source.finished() is None:
            _log.info("the source run comes first, once: %s", run.source.folder)
            execute(run.source, progress=progress)
        stopping.check()
        made = ready(run, self._beat, like=first)
        if first is not None and made.model is not first.model:
            return first
        self.trainee = stack.trainee(made, self._beat)
        if self.trainee is not None:
            self._beat.stage("training", step=self.trainee.course.step)
            self._before, self._idle = self.trainee.course.seconds, time.monotonic()
        return made if first is None and self.trainee is not None else first

    def finish(self) -> None:
        """Evaluate what has been trained, or do all of it."""
        if self.trainee is None:
            record = with_enough_memory(self.run, self._beat)
        else:
            course = self.trainee.course
            if course.error is not None:
                raise course.error
            spent = course.seconds - self._before
            record = conclude(
                self.trainee.ready,
                self._beat,
                trained=stack.trained(self.trainee),
                waited=time.monotonic() - self._idle - spent,
            )
        assert record is not None
        self._end(record)

    def _end(self, record: Record) -> None:
        self._results[self.run.folder] = record
        self.over = True
        self._held.close()


def _without(node: Any, path: str) -> Any:
    """Return a config without the keys in which runs may differ."""
    if not isinstance(node, Mapping):
        return node
    below = {name: f"{path}.{name}" if path else str(name) for name in node}
    return {
        name: _without(value, below[name])
        for name, value in node.items()
        if below[name] not in _DIFFER
    }
