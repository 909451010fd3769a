"""What a check has measured, as plain data: verdicts and pictures are made from it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Start:
    """The model before step 0, on the first batches without augmentation and regularization.

    Attributes:
        loss: Mean cross-entropy.
        error: Its standard error over the images.
        images: Their number.
        classes: Likewise.
        informed: Whether the head is made from labels (``class_means``, ``copy``).
        input: Mean and standard deviation of each channel of the model's input.
        outputs: For each layer group its name, and mean and standard deviation of what it puts
            out.
    """

    loss: float
    error: float
    images: int
    classes: int
    informed: bool
    input: Sequence[tuple[float, float]]
    outputs: Sequence[tuple[str, float, float]]


@dataclasses.dataclass(frozen=True)
class Broken:
    """Where a number stopped being one.

    Attributes:
        step: The first at which the loss, or a weight after the update, is NaN or infinite.
        group: The layer group whose update was the largest against its weights.
        ratio: That update over these weights, of the last step that had finite ones; None for none.
        rate: The base rate of `step`.
    """

    step: int
    group: str
    ratio: float | None
    rate: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """Some steps from the initialization.

    Attributes:
        rates: Base rate of each step.
        losses: Mean loss of its batch, before the update.
        accuracies: Likewise.
        broken: Where a number stopped being one; the lists end before it.
        moved: For each layer group that trains, the mean ratio of its updates to its weights.
    """

    rates: list[float]
    losses: list[float]
    accuracies: list[float]
    broken: Broken | None
    moved: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Overfit:
    """The attempt to learn a few batches by heart.

    Attributes:
        trial: Its steps.
        batches: Their number.
        images: Of all of them.
        fitted: The steps after which all were right, or None.
        rate: The base rate.
        peak: The highest factor of the schedule in this phase, so that `rate` is that of the run.
        trains: How many layer groups do.
        groups: How many there are.
        contradictions: Images of the batches that are equal but have several labels.
    """

    trial: Trial
    batches: int
    images: int
    fitted: int | None
    rate: float
    peak: float
    trains: int
    groups: int
    contradictions: int


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """The training loss at exponentially growing rates, under the rates of one phase.

    Attributes:
        phase: Index of the phase.
        first_step: Of the phase.
        trained: Names of the layer groups that train.
        trial: Its steps.
        rate: The highest base rate that the run has in this phase.
    """

    phase: int
    first_step: int
    trained: tuple[str, ...]
    trial: Trial
    rate: float


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """How well the nearest training images predict labels.

    Attributes:
        what: The distance is taken in: ``pixels`` or ``features``.
        train: Training images.
        val: Images of validation.
        right: How many of these are predicted right.
        chance: The accuracy that guessing with the same frequencies would have.
        train_right: How many training images the others predict right.
        train_chance: Likewise.
    """

    what: str
    train: int
    val: int
    right: int
    chance: float
    train_right: int
    train_chance: float


@dataclasses.dataclass(frozen=True)
class Modes:
    """How BatchNorm normalizes in a phase.

    Attributes:
        phase: Index of the phase.
        first_step: Of the phase.
        groups: Name of each layer group to ``train`` (by the batch), ``eval`` (by the running
            statistics), or None without BatchNorm.
    """

    phase: int
    first_step: int
    groups: dict[str, str | None]


@dataclasses.dataclass(frozen=True)
class Measurements:
    """All that a check has measured.

    Attributes:
        key: Of the run.
        start: Before step 0.
        overfit: At the run's own rate.
        retry: At the rate that the range test suggests, where `overfit` failed and it differs.
        ranges: One for each phase that was tested.
        untested: Indices of the phases that train others than these, but were left out.
        neighbours: In pixels, and in features where pixels say nothing.
        modes: Of each phase.
        batch: Images that BatchNorm sees at once.
        order: Digest of the order of the training images, as the record of the run has it.
    """

    key: str
    start: Start
    overfit: Overfit
    retry: Overfit | None
    ranges: list[RangeTest]
    untested: list[int]
    neighbours: list[Neighbours]
    modes: list[Modes]
    batch: int
    order: str
