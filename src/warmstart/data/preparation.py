"""What is done to the images of any source before a run sees them."""

from __future__ import annotations

import dataclasses

from warmstart.errors import ConfigError, choose

_LARGEST = 4096  # pixels
_BAD = ("error", "skip")
_EXACT = ("drop", "keep")
_NEAR = ("list", "drop")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The keys of ``data=`` that all sources share.

    Attributes:
        size: Height and width in pixels to bring the images to; None takes what the weights want,
            or the images' own if all have one.
        shrink: Shorter side in pixels to which larger images are brought when they are decoded,
            before everything else; None leaves them. It changes pixels, so it is never automatic.
        val_fraction: Share of the images that becomes val, where the source gives none.
        test_fraction: Share of the images that becomes test, where the source gives none.
        folds: Number of parts of a cross-validation, or None.
        fold: Which of them is evaluated: as test, or as val where the source gives a test split.
        split_seed: Of all these cuts, not of the run: all runs see the same parts.
        group_pattern: Regular expression that finds in an image's id what must stay together
            (its first group, or the whole match); None takes the source's own groups.
        per_class: Training images of each class; None takes all.
        fraction: Share of each class's training images; None takes all.
        on_bad: ``error`` refuses data with damaged images; ``skip`` leaves these out and counts.
        duplicates: ``drop`` leaves out of train what val or test have too (and out of val what
            test has), pixel by pixel; ``keep`` only says so.
        near_duplicates: ``list`` shows what looks alike; ``drop`` also leaves it out.

    Raises:
        ConfigError: A value is not possible.
    """

    size: int | None = None
    shrink: int | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    folds: int | None = None
    fold: int | None = None
    split_seed: int = 0
    group_pattern: str | None = None
    per_class: int | None = None
    fraction: float | None = None
    on_bad: str = "error"
    duplicates: str = "drop"
    near_duplicates: str = "list"

    def __post_init__(self) -> None:
        self._check_numbers()
        if (self.folds is None) != (self.fold is None):
            raise ConfigError(
                f"data.folds is {self.folds} and data.fold {self.fold}, but a cross-validation "
                "needs both: how many parts, and which of them is evaluated"
            )
        if self.folds is not None and self.fold is not None:
            if self.folds < 2:
                raise ConfigError(f"data.folds is {self.folds}, but must be at least 2")
            if not 0 <= self.fold < self.folds:
                raise ConfigError(
                    f"data.fold is {self.fold}, but must be one of 0 ... {self.folds - 1}"
                )
        for name, allowed in (
            ("on_bad", _BAD),
            ("duplicates", _EXACT),
            ("near_duplicates", _NEAR),
        ):
            if getattr(self, name) not in allowed:
                raise choose(f"data.{name}", getattr(self, name), allowed)

    def _check_numbers(self) -> None:
        for name in ("size", "shrink"):
            value = getattr(self, name)
            if value is not None and (not _whole(value) or not 1 <= value <= _LARGEST):
                raise ConfigError(
                    f"data.{name} is {value!r}, but must be a whole number of pixels or null, "
                    f"at most {_LARGEST}"
                )
        if self.group_pattern is not None and not isinstance(self.group_pattern, str):
            raise ConfigError(
                f"data.group_pattern is {self.group_pattern!r}, but must be a regular expression "
                "or null"
            )
        for name in ("folds", "fold", "split_seed"):
            value = getattr(self, name)
            if not _whole(value) and (value is not None or name == "split_seed"):
                raise ConfigError(f"data.{name} is {value!r}, but must be a whole number")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
