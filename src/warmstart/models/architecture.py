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
        build: ``build(channels, classes)`` returns the module; its weights are then initialized
            by `warmstart.models.init`.
        layout: The layer groups, input first; the last one is the head.
        input: What the family's published weights expect; None where the data decide.
    """

    name: str
    build: Callable[[int, int], nn.Module]
    layout: Layout
    input: Input | None = None

    @property
    def head(self) -> str:
        """The path of the classifier."""
        return list(self.layout.values())[-1][0]
