"""How long runs will take: from runs like them that are finished, else from their operations."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from warmstart.launch.jobs import Job
from warmstart.launch.order import demands, makespan
from warmstart.results import record as records
from warmstart.results.outlook import duration
from warmstart.run.identity import identity

if TYPE_CHECKING:
    from warmstart.run.plan import Run

ALIKE = "finished runs like them"
SAME_MODEL = "finished runs of the same model with another strategy"
OPERATIONS = "their operations alone (rough: a factor of five either way)"
UNKNOWN = "nothing: their model cannot be counted without numbers"

_MOST = 300
"""Records that are read, the newest: a millisecond each at most."""
# Operations per second of training in float32, and the seconds that a step takes besides: of one
# core as measured on small nets (20 to 80 billion), of a GPU as an order of magnitude.
_RATE = {"cpu": 5e10, "gpu": 1e13}
_STEP_SECONDS = {"cpu": 0.003, "gpu": 0.008}
_START_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Past:
    """The time that a finished run took.

    Attributes:
        recipe: What else of its config decides its time, as text.
        strategy: Its node.
        cached: Whether frozen layers ran once for each image, and not at every step.
        steps: Of its training.
        train_seconds: Seconds of its training, validations included.
        rest_seconds: Seconds before and after: the initial model, the evaluation, the files.
    """

    recipe: str
    strategy: dict[str, Any]
    cached: bool
    steps: int
    train_seconds: float
    rest_seconds: float


class History:
    """What finished runs took, by the kind of run: model, batch, images, device.

    Args:
        past: By kind, as text.
    """

    def __init__(self, past: Mapping[str, Sequence[Past]] | None = None) -> None:
        self.past = dict(past or {})
        self._known: dict[tuple[object, ...], tuple[float, str]] = {}

    @classmethod
    def read(cls, out: Path) -> History:
        """Return the history in an output folder: its newest runs and source runs."""
        past: dict[str, list[Past]] = {}
        for folder in _newest([out / "runs", out / "store" / "runs"]):
            try:
                content = json.loads((folder / records.FILE).read_text())
                kind, entry = _past(content)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # none, or of a version that wrote down something else
            past.setdefault(kind, []).append(entry)
        return cls(past)

    def recall(
        self, place: tuple[object, ...], say: Callable[[], tuple[float, str]]
    ) -> tuple[float, str]:
        """Return what `say` said the first time that it was asked for `place`."""
        if place not in self._known:
            self._known[place] = say()
        return self._known[place]


def predict(run: Run, history: History) -> tuple[float, str]:
    """Return the seconds that a run will take on what it is given, and where that is from.

    The second part is one of `ALIKE`, `SAME_MODEL`, `OPERATIONS` and, with 0 seconds, `UNKNOWN`.
    Runs of one kind, recipe and length are asked about once.
    """
    config = identity(run.config)
    kind, recipe = _kind(config, dataclasses.asdict(run.input)), _recipe(config)
    images = (len(run.images.val), len(run.images.test))
    return history.recall(
        (kind, recipe, run.steps, images, run.config["val_every_steps"]),
        lambda: _predict(run, history.past.get(kind, ()), recipe),
    )


def _predict(run: Run, past: Sequence[Past], recipe: str) -> tuple[float, str]:
    alike = [one for one in past if one.recipe == recipe]
    if alike:
        # Of the same length where there are any: validations do not grow with the steps.
        alike = [one for one in alike if one.steps == run.steps] or alike
        step = median(one.train_seconds / one.steps for one in alike)
        return step * max(1, run.steps) + median(one.rest_seconds for one in alike), ALIKE
    from warmstart.operations import cached_phases, run_operations, training_operations

    try:
        cached = cached_phases(run)
        training, evaluation = run_operations(run, cached)
        # Steps on stored features say nothing of the pace at which a model computes.
        live = [one for one in past if not one.cached]
        done = [(one, training_operations(run, one.strategy, one.steps)) for one in live]
        pace = [one.train_seconds / count for one, count in done if count]
        if pace and training:
            rest = median(one.rest_seconds for one in live) + _own_steps(run, cached)
            return median(pace) * training + rest, SAME_MODEL
    except Exception:  # a model's own code, without numbers, may fail in any way
        return 0.0, UNKNOWN
    hardware = run.hardware
    processors = hardware.devices * (hardware.threads if hardware.device == "cpu" else 1)
    # Only one process evaluates at the end, but most evaluations are shared.
    computing = (training + evaluation) / (_RATE[hardware.device] * processors)
    return _START_SECONDS + _STEP_SECONDS[hardware.device] * run.steps + computing, OPERATIONS


def _own_steps(run: Run, cached: Sequence[bool]) -> float:
    """Return the seconds that steps on stored features take beside their few operations."""
    ends = [*(phase.start for phase in run.phases[1:]), run.steps]
    spans = [end - phase.start for phase, end in zip(run.phases, ends, strict=True)]
    steps = sum(span for span, once in zip(spans, cached, strict=True) if once)
    return _STEP_SECONDS[run.hardware.device] * steps


def describe_plan(
    jobs: Sequence[Job], basis: Mapping[str, str], *, finished: int, devices: int
) -> str:
    """Return what would run, and how long it takes, in a few lines.

    Args:
        jobs: What is left to do, source runs included.
        basis: By key, where its prediction is from.
        finished: Cells that are finished already.
        devices: To share the jobs out on: GPUs where they ask for some, else cores.

    Raises:
        ConfigError: A job asks for more devices than there are.
    """
    shared = [job for job in jobs if job.source]
    left = len(jobs) - len(shared)
    lines = [f"{_count(finished + left, 'run')}: {finished} finished, {left} to do"]
    if shared:
        names = ", ".join(job.label.removeprefix("shared: ") for job in shared)
        lines.append(f"{_count(len(shared), 'shared stage')}, each once: {names}")
    if not jobs:
        return "\n".join([*lines, "nothing is left to do"])
    word = "GPU" if any(job.resources.gpus for job in jobs) else "core"
    costs = [job.seconds * demand for job, demand in zip(jobs, demands(jobs), strict=True)]
    of_shared = sum(cost for job, cost in zip(jobs, costs, strict=True) if job.source)
    part = f", {_hours(of_shared)} of them for shared stages" if of_shared else ""
    longest = max(jobs, key=lambda job: job.seconds)
    lines += [
        f"predicted: {_hours(sum(costs))} {word}-hours{part}",
        f"on {_count(devices, word)}: about {duration(makespan(jobs, devices))}; the longest run "
        f"takes {duration(longest.seconds)} ({longest.label})",
    ]
    for source, count in Counter(basis.get(job.key, UNKNOWN) for job in jobs).most_common():
        lines.append(f"{_count(count, 'prediction')} from {source}")
    return "\n".join(lines)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def _newest(parents: Sequence[Path]) -> list[Path]:
    found: list[tuple[float, str]] = []
    for parent in parents:
        try:
            with os.scandir(parent) as entries:
                found += [
                    (entry.stat().st_mtime, entry.path) for entry in entries if entry.is_dir()
                ]
        except OSError:
            continue
    return [Path(path) for _, path in sorted(found, reverse=True)[:_MOST]]


def _past(content: Mapping[str, Any]) -> tuple[str, Past]:
    """Return the kind of a finished run, and the time that it took.

    Raises:
        KeyError, TypeError, ValueError: It is not finished, or lacks something.
    """
    if content["status"] != "finished":
        raise ValueError(content["status"])
    config, timing = content["config"], content["timing"]
    train, total = float(timing["train_seconds"]), float(timing["total_seconds"])
    # Of a run that was resumed, the whole is that of its last attempt, but the training all of it.
    rest = max(0.0, total - train)
    cached = any(phase["cached"] for phase in content.get("features", ()))
    steps = max(1, content.get("stopped_at") or config["steps"])
    entry = Past(_recipe(config), config["strategy"], cached, steps, train, rest)
    return _kind(config, content["input"]), entry


def _kind(config: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    """Return what decides how long a step of a model takes, on which device, as text."""
    trainer, data = config["trainer"], config["data"]
    return json.dumps(
        [
            [config["model"], config.get("group")],
            config["batch_size"],
            [trainer["accelerator"], trainer["precision"], trainer["channels_last"]],
            [trainer["threads"], trainer.get("devices", 1)],
            [taken["size"], taken["channels"], data.get("size"), data["_target_"]],
        ],
        sort_keys=True,
    )


def _recipe(config: Mapping[str, Any]) -> str:
    """Return what else decides it, as text; older records lack some of it."""
    names = ("strategy", "augment", "eval", "test", "features")
    parts = [config.get(name) for name in names]
    return json.dumps([*parts, config.get("accumulate", 1)], sort_keys=True)
