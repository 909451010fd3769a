"""The training of heads on stored features: those of any number of runs as one computation.

A linear head behind frozen layers needs neither Lightning nor a graph. Each run sees its own
batches, rates and validations, and becomes the same as alone, to the bit (on a CPU, with one
thread); see `warmstart.optim.stacked`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from warmstart import configs, stopping
from warmstart.callbacks import checkpoint
from warmstart.callbacks.proof import FreezeProof
from warmstart.errors import RunError
from warmstart.optim.stacked import Member
from warmstart.optim.stacked_updates import Update, update_of
from warmstart.run.beat import Report
from warmstart.run.head_features import Reach, batches, stored_at, validation
from warmstart.run.lockstep import Course, Lockstep, Plan, Stream
from warmstart.run.out_of_memory import OutOfMemory, free_memory, is_out_of_memory
from warmstart.run.stages import Ready
from warmstart.task import class_weights

_log = logging.getLogger(__name__)

State = dict[str, Any]
"""Of a run after its last step, as a checkpoint of any other training holds it."""


@dataclasses.dataclass(frozen=True)
class Trainee:
    """A run whose head is trained here.

    Attributes:
        ready: The run.
        path: Of the head in its model.
        course: Of its head.
        update: Its optimizer's step.
    """

    ready: Ready
    path: str
    course: Course
    update: Update


def trainee(ready: Ready, report: Report) -> Trainee | None:
    """Return a run as a trainee; None where its training is not of the kind, or is over.

    Args:
        ready: The run.
        report: Is told its steps.
    """
    run, path = ready.run, _head(ready)
    if path is None:
        return None
    optimizer = configs.build("optimizer", run.config["optimizer"], ready.fitted.groups[-1:])
    update = update_of(optimizer)
    if update is None:
        return None
    resume = checkpoint.load_newest(run.folder)
    if resume is not None and "head" not in resume:
        return None
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    head = ready.model.get_submodule(path)
    weight, bias = ready.head[f"{path}.weight"], ready.head.get(f"{path}.bias")
    member = Member(
        weight=weight.cpu().clone(),
        bias=None if bias is None else bias.cpu().clone(),
        rate=run.phases[0].rates(run.config["optimizer"]["lr"], len(ready.fitted.groups))[-1],
        decay=(decays[id(head.weight)], 0.0 if bias is None else decays[id(head.bias)]),
    )
    course = Course(
        run.folder, member, ready.loggers, progress=lambda step: report.step(step, run.steps)
    )
    if resume is not None:
        _log.info("going on after step %d of %d", resume["step"], run.steps)
        course.restore(resume)
    return Trainee(ready, path, course, update)


def train_alone(ready: Ready, report: Report) -> State | None:
    """Train the head of one run, where it is of the kind; return the state after the last step.

    Raises:
        RunError: It failed.
        Stopped: On request; a checkpoint is written.
    """
    found = trainee(ready, report)
    if found is None:
        return None
    report.stage("training", step=found.course.step)
    train([found])
    if found.course.error is not None:
        raise found.course.error
    return trained(found)


def train(trainees: Sequence[Trainee]) -> None:
    """Bring the heads of runs that share their model to their last steps.

    Those that fail have the reason in their course's `error`.

    Raises:
        Stopped: On request; checkpoints are written.
    """
    kinds: dict[str, list[Trainee]] = {}
    for one in trainees:
        kinds.setdefault(_kind(one), []).append(one)
    for group in kinds.values():
        try:
            _train_fitting(group)
        except stopping.Stopped:
            raise
        except Exception as error:
            for one in group:
                one.course.error = one.course.error or error


def trained(one: Trainee) -> State:
    """Return the state of a run after its last step."""
    model, course = one.ready.model, one.course
    best = course.best

    def whole(member: Member) -> dict[str, Tensor]:
        head = {f"{one.path}.weight": member.weight, f"{one.path}.bias": member.bias}
        return model.state_dict() | {name: t for name, t in head.items() if t is not None}

    return {
        "step": course.step,
        "model": whole(course.member),
        "optimizer": None,
        "rows": course.rows,
        "best": best and {**best, "model": whole(best["member"])},
        "seconds": course.seconds,
        "window": torch.zeros(3),
        "proof": course.proof,
        "accumulated": 0,
        "validated": True,
    }


def _head(ready: Ready) -> str | None:
    """Return the path of the head, where it is a linear layer, all that trains, and at the end."""
    run, groups, (decision, *more) = ready.run, ready.fitted.groups, ready.fitted.decisions
    if more or decision.cut is None or run.phases[0].groups > 1 or not run.steps:
        return None
    if run.probe is not None or run.config.get("prune") or len(run.architecture.heads) != 1:
        return None
    (path,) = run.architecture.heads
    head, names = ready.model.get_submodule(path), {f"{path}.weight", f"{path}.bias"}
    if type(head) is not nn.Linear or not set(groups[-1].parameters) <= names:
        return None
    cut, tail = stored_at(ready)
    _, val = ready.shortcuts.stored(cut)
    features = val[0][0][:2].to(head.weight.device).float()
    ready.model.eval()
    with torch.no_grad():
        given = features if cut.module == path else tail.until(path, features)
        wanted = tail(features)
        if given.ndim != 2 or not isinstance(wanted, Tensor):
            return None
        found = F.linear(given, head.weight, head.bias)
    return path if torch.equal(found, wanted) else None


def _kind(one: Trainee) -> str:
    """Return what trainees have in common that take their steps together."""
    run, course = one.ready.run, one.course
    config = run.config
    names = ("steps", "log_every_steps", "val_every_steps", "checkpoint_seconds", "accumulate")
    optimizer = {k: v for k, v in config["optimizer"].items() if k not in ("lr", "weight_decay")}
    batch = one.ready.batches.batch_size
    _, val = one.ready.shortcuts.stored(stored_at(one.ready)[0])
    common = {name: config[name] for name in (*names, "scheduler")}
    same = [id(one.ready.model), id(val.features), batch, course.step, optimizer, common]
    return json.dumps([*same, list(course.member.weight.shape)], sort_keys=True)


def _train_fitting(group: Sequence[Trainee]) -> None:
    """Train a group; where memory does not suffice, one half after the other."""
    before = [one.course.state() for one in group]
    try:
        _train(group)
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first = group[0]
        if len(group) == 1:
            step, config = first.course.step, first.ready.run.config
            raise OutOfMemory(error, config, accumulated=0, step=step) from error
    free_memory()
    _log.warning("out of memory with %d heads at a time: once more with half of them", len(group))
    for one, state in zip(group, before, strict=True):
        one.course.restore(state)
    for half in (group[: len(group) // 2], group[len(group) // 2 :]):
        _train_fitting(half)


def _train(group: Sequence[Trainee]) -> None:
    """Train heads that take their steps together."""
    first = group[0].ready
    run, model = first.run, first.model
    proof = FreezeProof(run.phases, first.fitted.groups, steps=run.steps)
    proof.begin(model)
    going = [one for one in group if not _moved(one, proof)]
    if not going:
        return
    reach = Reach(first, group[0].path)
    _, val = first.shortcuts.stored(reach.cut)
    plan = Plan(
        steps=run.steps,
        log_every=run.config["log_every_steps"],
        val_every=run.config["val_every_steps"],
        checkpoint_seconds=run.config["checkpoint_seconds"],
        schedule=run.schedule,
        update=group[0].update,
        validation=lambda: validation(reach, val),
    )
    streams: dict[tuple[int, bytes], list[Trainee]] = {}
    for one in going:
        rows = one.ready.run.images.train.rows.tobytes()
        streams.setdefault((one.ready.run.config["seed"], rows), []).append(one)
    for alike in _of_like_length([_stream(own, reach) for own in streams.values()]):
        Lockstep(alike, plan, device=reach.device).run()
    proof.end(model)
    for one in going:
        one.course.proof = proof.state()


def _stream(alike: Sequence[Trainee], reach: Reach) -> Stream:
    """Return the stream of runs that see the same batches."""
    ready = alike[0].ready
    run, weights = ready.run, None
    if run.config["balance"] == "loss":
        weights = class_weights(run.images.train.labels, len(run.images.classes))
    return Stream([one.course for one in alike], batches(ready, reach), weights)


def _of_like_length(streams: Sequence[Stream]) -> list[list[Stream]]:
    """Return streams in groups; in a stack each has as many places as the longest takes."""
    groups: list[list[Stream]] = []
    for stream in sorted(streams, key=lambda stream: -len(stream.courses)):
        if groups and 2 * len(stream.courses) >= len(groups[-1][0].courses):
            groups[-1].append(stream)
        else:
            groups.append([stream])
    return groups


def _moved(one: Trainee, proof: FreezeProof) -> bool:
    """Note the proof's state; a body that is not that of the checkpoint is an error."""
    course, now = one.course, proof.state()
    if course.step and course.proof["held"] != now["held"]:
        course.error = RunError(
            "frozen tensors are not what they were when the checkpoint was written; delete "
            f"{course.folder} to start again"
        )
        return True
    course.proof = {**now, "entries": []}
    return False
