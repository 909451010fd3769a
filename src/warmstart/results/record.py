"""The record of one run: what ``OUT/runs/KEY/result.json`` holds. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError
from warmstart.store import publish

# Raised by every commit that changes a number in a record; part of every key.
RESULT_VERSION = 4

FILE = "result.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """One run, finished or failed.

    Two records are equal when everything but `environment` and `timing` is.

    Attributes:
        key: The identity of the run (64 hexadecimal digits), also the name of its folder.
        status: ``finished`` or ``failed``.
        seed: The run's seed.
        config: The resolved config without what cannot change a result.
        choices: The option chosen in each config group, for example ``{"init": "scratch"}``.
        digests: SHA-256 of ``data``, ``split``, ``order``, ``augment``, ``init`` and ``weights``.
            Runs are paired when split, order and augment agree.
        versions: The versions of the libraries that compute, and of ``warmstart``.
        result_version: `RESULT_VERSION` of the program that wrote it.
        test_opened: How often the test split was opened: once, or again after a kill between the
            opening and the file of predictions.
        data: ``counts`` per split, ``skipped`` (damaged images) and ``dropped`` (duplicates) by id
            with the reason, ``near_duplicates`` (how many pairs), ``warnings``, and the number of
            ``classes``.
        metrics: ``split/name`` to value, e.g. ``{"test/accuracy": 0.93}``; means over samples.
        curves: ``{"train": {"step": [...], "loss": [...]}, "val": {...}}``, lists of one length;
            with looks at the layer groups also ``watch``, with columns such as
            ``update_ratio/conv1`` and None where the group was frozen. A run whose loss was not
            finite any more has those up to there, though it failed.
        groups: One row per layer group, input first: name, parameters, buffers.
        input: What the model sees: size, channels, mean and std.
        init: What the weights were before step 0, and for loaded ones what matched.
        freeze_proof: One entry per phase: ``phase``, ``first_step``, ``last_step``, ``groups``
            (each frozen group's SHA-256, equal at the phase's start and end), and
            ``moving_statistics`` (frozen groups whose BatchNorm statistics moved by choice).
        accumulated: Micro-batches into which a lack of memory made each step's batch be cut;
            0 where memory sufficed (``accumulate`` of the config says what was asked for).
        stopped_at: After how many steps early stopping ended the training; None where it did not.
        rank_divergence: Of a run in several processes (``trainer.devices``), for each phase the
            largest difference of any parameter or buffer between two of them at its end: 0.0, or
            the run has failed. Empty for one process.
        features: One entry per phase: ``phase``, ``cached`` (whether its frozen layers ran once),
            ``reason`` (why not, else None), ``at`` (the module before which they end), ``shape``
            (of one image's feature there) and ``views`` (of each training image, else None).
            Empty in records of older versions.
        probe: Of a strategy that fits the head to features: ``features`` (their number), what was
            chosen (``C`` or ``k``), and ``candidates`` (an entry for each choice there was). Empty
            where steps train.
        error: For a failed run, the reason in one sentence.
        environment: Machine, command and paths.
        timing: ``train_seconds``, ``total_seconds``, and ``curves``: for the lists ``train`` and
            ``val`` the seconds of training at each of their entries.
    """

    key: str
    status: str
    seed: int
    config: dict[str, Any]
    choices: dict[str, str]
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    result_version: int = RESULT_VERSION
    test_opened: int = 0
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)
    groups: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    input: dict[str, Any] = dataclasses.field(default_factory=dict)
    init: dict[str, Any] = dataclasses.field(default_factory=dict)
    freeze_proof: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    accumulated: int = 0
    stopped_at: int | None = None
    rank_divergence: list[float] = dataclasses.field(default_factory=list)
    features: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    probe: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None
    environment: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    timing: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def write(self, folder: Path) -> None:
        """Write ``folder/result.json`` atomically."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        publish(folder / FILE, lambda part: _write_text(part, text))


def read(folder: Path) -> Record | None:
    """Return the record in a run's folder, or None where none was written.

    Raises:
        ConfigError: The file is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text())
        return Record(**content)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a record of warmstart ({error}); delete it and run the cell again"
        ) from error


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
