"""Linear classifiers on stored features from step to step: curves, validations, checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from warmstart import stopping
from warmstart.callbacks import checkpoint
from warmstart.callbacks.recorder import Logger, Row
from warmstart.errors import RunError
from warmstart.optim.samples import Batch
from warmstart.optim.schedules import Schedule
from warmstart.optim.stacked import STEPS, Member, Stack
from warmstart.optim.stacked_updates import Update
from warmstart.task import means

_CPU = torch.device("cpu")
_TOLD_SECONDS = 0.1  # between two words about the progress of one of several


@dataclasses.dataclass
class Course:
    """One classifier on its way.

    Attributes:
        folder: Of its run, for checkpoints.
        member: Its weights, and what the optimizer keeps, after `step` steps.
        loggers: Mirrors of the rows.
        progress: Called with the number of finished steps.
        step: Finished steps.
        rows: Of the curves ``train`` and ``val``.
        best: The row of the best validation, with its classifier as ``member``.
        seconds: Of its training, of which the others beside it have theirs.
        proof: State of the proof that the body does not move.
        error: Why it failed.
    """

    folder: Path
    member: Member
    loggers: Sequence[Logger] = ()
    progress: Callable[[int], None] = lambda step: None
    step: int = 0
    rows: dict[str, list[Row]] = dataclasses.field(default_factory=lambda: {"train": [], "val": []})
    best: dict[str, Any] | None = None
    seconds: float = 0.0
    proof: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: Exception | None = None

    def state(self) -> dict[str, Any]:
        """Return, as plain data and tensors, what a resumed run needs."""
        best = self.best and {**self.best, "member": _plain(self.best["member"])}
        return {
            "step": self.step,
            "head": _plain(self.member),
            "rows": copy.deepcopy(self.rows),
            "best": best,
            "seconds": self.seconds,
            "proof": self.proof,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.step, self.rows, self.seconds = state["step"], state["rows"], state["seconds"]
        self.proof, best = state["proof"], state["best"]
        rate, decay = self.member.rate, self.member.decay
        self.member = Member(**state["head"], rate=rate, decay=decay)
        self.best = best and {**best, "member": Member(**best["member"], rate=rate, decay=decay)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the classifiers of a lockstep have in common.

    Attributes:
        steps: Of the whole run.
        log_every: Steps between two rows of the training curve.
        val_every: Steps between two validations.
        checkpoint_seconds: Least time between two checkpoints.
        schedule: Of the rates.
        update: The optimizer's step.
        validation: Returns the batches of a validation, as features and labels.
    """

    steps: int
    log_every: int
    val_every: int
    checkpoint_seconds: float
    schedule: Schedule
    update: Update
    validation: Callable[[], Iterable[Batch]]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Classifiers that see the same batches.

    Attributes:
        courses: At least one.
        batch: Returns the features and labels of a step.
        class_weights: Of the training loss, float32 [classes]; None for ones.
    """

    courses: list[Course]
    batch: Callable[[int], Batch]
    class_weights: Tensor | None = None


class Lockstep:
    """Classifiers that have taken equally many steps, and take the rest together.

    One whose loss is no number any more is left behind with an `error`, and the others go on.

    Args:
        streams: At least one; with batches of one size.
        plan: Of all of them.
        device: Where they train.
    """

    def __init__(self, streams: Sequence[Stream], plan: Plan, *, device: torch.device) -> None:
        self.plan = plan
        self.device = device
        self._streams = list(streams)
        self._build()
        self._since = self._saved = time.monotonic()
        self._told = 0.0

    def run(self) -> None:
        """Take the steps that are left.

        Raises:
            Stopped: On request; checkpoints are written.
        """
        plan, done = self.plan, self._courses[0].step
        while done < plan.steps:
            # The next row of a curve, or else as many steps as are laid out at a time.
            rows = (every - done % every for every in (plan.log_every, plan.val_every))
            steps = range(done, min(plan.steps, done + min(STEPS, *rows)))
            batches = [[stream.batch(step) for stream in self._streams] for step in steps]
            factors = [plan.schedule(step) for step in steps]
            self._stack.run(batches, factors=factors, step=done)
            done = steps.stop
            self._tell(done)
            if done % plan.log_every == 0 or done == plan.steps:
                self._log(done)
                if not self._courses:
                    return
            if done % plan.val_every == 0 or done == plan.steps:
                self._validate(done)
            if stopping.requested() or self._due():
                self.save(done)
                stopping.check()
        self._take(plan.steps)
        # Others are evaluated before the last of several.
        if len(self._courses) > 1:
            self.save(plan.steps)

    def save(self, done: int) -> None:
        """Write a checkpoint of each classifier."""
        self._take(done)
        for course in self._courses:
            checkpoint.save(course.folder, done, course.state())
        self._saved = time.monotonic()

    def _build(self) -> None:
        """Stack the classifiers of all streams, as they are."""
        self._courses = [course for stream in self._streams for course in stream.courses]
        members = [[_on(c.member, self.device) for c in s.courses] for s in self._streams]
        weights = [stream.class_weights for stream in self._streams]
        self._stack = Stack(members, self.plan.update, class_weights=weights)

    def _take(self, done: int) -> None:
        """Bring each course up to the step."""
        self._share()
        for index, course in enumerate(self._courses):
            course.step = done
            course.member = _on(self._stack.member(index), _CPU)

    def _share(self) -> None:
        """Give each classifier its share of the time that has gone by."""
        now = time.monotonic()
        for course in self._courses:
            course.seconds += (now - self._since) / len(self._courses)
        self._since = now

    def _tell(self, done: int) -> None:
        now = time.monotonic()
        often = len(self._courses) == 1 or done == self.plan.steps
        if often or now - self._told >= _TOLD_SECONDS:
            self._told = now
            for course in self._courses:
                course.progress(done)

    def _log(self, done: int) -> None:
        self._share()
        factor = self.plan.schedule(done - 1)
        for course, sums in zip(self._courses, self._stack.sums, strict=True):
            row = {"step": done, "seconds": course.seconds, **means(sums)}
            row["lr"] = course.member.rate * factor
            course.rows["train"].append(row)
            if not math.isfinite(row["loss"]):
                course.error = diverged(row)
        self._stack.clear()
        if any(course.error is not None for course in self._courses):
            self._leave(done)

    def _leave(self, done: int) -> None:
        """Go on without those that have failed."""
        self._take(done)
        rest = [[c for c in s.courses if c.error is None] for s in self._streams]
        pairs = zip(self._streams, rest, strict=True)
        self._streams = [dataclasses.replace(s, courses=left) for s, left in pairs if left]
        self._courses = [course for left in rest for course in left]
        if self._courses:
            self._build()

    def _validate(self, done: int) -> None:
        sums = torch.zeros(len(self._courses), 3, device=self.device)
        for batch in self.plan.validation():
            sums += self._stack.measure(batch)
        self._share()
        for index, (course, own) in enumerate(zip(self._courses, sums, strict=True)):
            row = {"step": done, "seconds": course.seconds, **means(own)}
            course.rows["val"].append(row)
            # As the recorder of all other runs decides.
            rank, best = (row["accuracy"], -row["loss"]), course.best
            if best is None or rank > (best["accuracy"], -best["loss"]):
                course.best = {**row, "member": _on(self._stack.member(index), _CPU)}
            for logger in course.loggers:
                logger.log(course.rows)

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= self.plan.checkpoint_seconds


def diverged(row: Row) -> RunError:
    """Return what to say of a training curve whose last row has no loss."""
    return RunError(
        f"the training loss is {row['loss']} at step {row['step']} with a rate of "
        f"{row['lr']:g} at the head; lower optimizer.lr or add scheduler.warmup_steps"
    )


def _plain(member: Member) -> dict[str, Any]:
    """Return what a member has but for its rate and decay, which its run's config says."""
    return {
        "weight": member.weight,
        "bias": member.bias,
        "slots": dict(member.slots),
        "sums": member.sums,
    }


def _on(member: Member, device: torch.device) -> Member:
    """Return a member with its tensors on a device."""
    return dataclasses.replace(
        member,
        weight=member.weight.to(device),
        bias=None if member.bias is None else member.bias.to(device),
        slots={name: [t.to(device) for t in kept] for name, kept in member.slots.items()},
        sums=None if member.sums is None else member.sums.to(device),
    )
