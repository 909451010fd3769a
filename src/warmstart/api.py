"""What notebooks call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.configs import compose
from warmstart.results.record import Record

if TYPE_CHECKING:
    from warmstart.exporting import Export


def train(overrides: Sequence[str] = (), *, config_dirs: Sequence[str] = ()) -> Record:
    """Run one config, or return the record of the finished run that it describes.

    Args:
        overrides: As on the command line, for example ``["data=digits", "steps=100"]``.
        config_dirs: Folders with configs of your own.

    Raises:
        ConfigError: The config, the data or the weights are wrong.
        RunError: The run failed.
    """
    from warmstart.run.execution import execute
    from warmstart.run.preparing import forget, prepare

    forget()
    return execute(prepare(compose(overrides, config_dirs=config_dirs)))


def extract_features(
    overrides: Sequence[str] = (),
    *,
    group: str | int = "all",
    pool: str | None = None,
    log: str | Path | None = None,
    config_dirs: Sequence[str] = (),
) -> Export:
    """Return the activations of all images at one layer group, or at all of them from one pass.

    The model is that of a run before step 0: with ``init=pretrained`` it has the weights, and
    ``init.weights=run:KEY`` takes those that a run has trained. Images are shown once, as they
    are. Features are kept in the store, and who is killed goes on there.

    Args:
        overrides: As on the command line. ``test=false`` leaves the test split closed;
            ``features.dtype=float16`` takes half the room.
        group: Name or number of a layer group; ``all`` for all but the head.
        pool: ``gap`` (the mean over positions), ``flatten``, ``cls`` (the first token); None takes
            the mean where there are positions.
        log: Where each opening of the test split is written down; by default
            ``OUT/features/KEY.test_openings``.
        config_dirs: Folders with configs of your own.

    Raises:
        ConfigError: The config, the data or the weights are wrong, there is no such group, or
            activations there cannot be had or pooled so.
        RunError: The source run, from which the model starts, failed.
    """
    from warmstart.exporting import export_of
    from warmstart.run.preparing import forget, prepare

    forget()
    run = prepare(compose(overrides, config_dirs=config_dirs))
    return export_of(run, group=group, pool=pool, log=None if log is None else Path(log))


def rank(
    models: Sequence[str], overrides: Sequence[str] = (), *, config_dirs: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return what features of candidate weights predict about their transfer, the best first.

    See `warmstart.ranking.rank`, also for what is in a row.

    Args:
        models: Each ``MODEL`` or ``MODEL@WEIGHTS``, where MODEL is an option of ``model=``, or
            ``timm/NAME`` or ``torchvision/NAME``.
        overrides: Of every candidate, for example ``["data=digits"]``.
        config_dirs: Folders with configs of your own.

    Raises:
        ConfigError: The config, the data or the weights are wrong.
        RunError: A source run, from which a candidate starts, failed.
    """
    from warmstart.ranking import rank as ranked
    from warmstart.run.preparing import forget

    forget()
    return ranked(models, overrides, config_dirs=config_dirs)
