"""What the rest of the program knows about a model before it is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import nn

from warmstart.models.layers import Layout


@dataclasses.dataclass(frozen=True)
class Input:
    """The images that weights expect.

    Attributes:
        size: Height and width in pixels; None where any size goes.
        channels: 1 (gray) or 3 (RGB).
        mean: Per channel, of pixel values in [0, 1].
        std: Per channel, likewise.
    """

    size: int | None
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model that can be built for any number of classes.

    Attributes:
        name: For messages and tables.
        build: ``build(channels, classes, size)`` returns the module as its authors' constructor
            leaves it, for images of `size` pixels (None: any). Everything but the classifiers is
            equal for every number of classes, given the same state of torch's generator.
        layout: The layer groups, input first; the last one holds the classifier alone.
        input: What the family's published weights expect; None where the data decide.
        auxiliary: Paths of the auxiliary classifiers, which only training uses.
        auxiliary_weight: Factor on the loss of each.
        gone: Paths of layers that published weights hold and the model has not.
    """

    name: str
    build: Callable[[int, int, int | None], nn.Module]
    layout: Layout
    input: Input | None = None
    auxiliary: tuple[str, ...] = ()
    auxiliary_weight: float = 0.0
    gone: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """The paths of the classifier: one, or several that are averaged (distilled DeiT)."""
        return tuple(list(self.layout.values())[-1])
