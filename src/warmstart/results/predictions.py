"""What a run predicted, as it stands in its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from warmstart.errors import ConfigError

FILE = "predictions.npz"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A run's predictions of a split, in ascending order of image ids.

    Attributes:
        folder: Of the run.
        classes: Their names, str [C].
        ids: Of the images, str [n].
        labels: int64 [n].
        logits: [n, C]; of the run's snapshots [k, n, C].
    """

    folder: Path
    classes: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether each prediction is: bool, of the shape of `logits` without the classes."""
        result: np.ndarray = self.logits.argmax(axis=-1) == self.labels
        return result


def read(folder: Path, split: str, *, snapshots: bool = False) -> Predictions | None:
    """Return what a run predicted of a split; None where it kept nothing of the kind.

    Args:
        folder: Of the run.
        split: ``test`` or ``val``.
        snapshots: With the weights at the ends of its cycles, in place of its last or best ones.

    Raises:
        ConfigError: The file is damaged.
    """
    path, name = folder / FILE, f"{split}_snapshot_logits" if snapshots else f"{split}_logits"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if name not in arrays:
                return None
            names = ("classes", f"{split}_ids", f"{split}_labels", name)
            classes, ids, labels, logits = (arrays[each] for each in names)
        order = ids.argsort()
        return Predictions(folder, classes, ids[order], labels[order], logits[..., order, :])
    except (ValueError, OSError, KeyError, IndexError, BadZipFile) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); delete its folder and run the cell again"
        ) from error
