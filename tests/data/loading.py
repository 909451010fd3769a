"""From the samples of a source to a data set, as a run gets it."""

from pathlib import Path

from warmstart.data.dataset import Dataset, assemble
from warmstart.data.preparation import Preparation
from warmstart.data.samples import Samples


def load(
    samples: Samples,
    store: Path,
    *,
    cache_gib: float = 1.0,
    wanted: int | None = None,
    originals: bool = False,
    **keys: object,
) -> Dataset:
    """Return the data set with the `keys` of a preparation."""
    return assemble(
        samples,
        Preparation(**keys),
        store=store,
        cache_gib=cache_gib,
        size=wanted,
        originals=originals,
    )
