"""Several crops of an image at test time, and the mean of what a model says about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from warmstart.data.images import Split
from warmstart.data.resize import fit_side, with_shorter_side
from warmstart.errors import ConfigError, choose

CROPS = ("center", "ten", "scales")
AVERAGES = ("probabilities", "logits")

# Shorter sides at an input of 224 pixels: "Deep Residual Learning for Image Recognition", He et
# al. 2016, section 3.4.
_INPUT, _TEN, _SCALES = 224, 256, (224, 256, 384, 480, 640)
# Shares of the margin that lie above and left of a crop: four corners and the center.
_PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class View:
    """One way to cut a square out of an image.

    Attributes:
        short: Shorter side in pixels to which the image is scaled before the cut.
        down: Share of the margin that lies above the square, in [0, 1].
        right: Share of the margin that lies left of it, in [0, 1].
        mirrored: Whether left and right are exchanged after the cut.
    """

    short: int
    down: float = 0.5
    right: float = 0.5
    mirrored: bool = False

    def cut(self, scaled: np.ndarray, size: int) -> np.ndarray:
        """Return `size` x `size` pixels of an image whose shorter side is `short` already."""
        height, width = scaled.shape[:2]
        top, left = round((height - size) * self.down), round((width - size) * self.right)
        square = scaled[top : top + size, left : left + size]
        return square[:, ::-1] if self.mirrored else square


def views_of(crops: str, size: int) -> tuple[View, ...]:
    """Return the views of ``eval.crops`` for an input of `size` x `size` pixels.

    ``center`` is the square that a run's pictures hold. ``ten`` is the standard of 224 pixels cut
    out of 256, at any size in that proportion: four corners and the center, each also mirrored
    ("ImageNet Classification with Deep Convolutional Neural Networks", Krizhevsky et al. 2012,
    section 4.1). ``scales`` is ten at each of five scales, shorter sides of 224, 256, 384, 480 and
    640 pixels for an input of 224 ("Deep Residual Learning for Image Recognition", He et al. 2016,
    section 3.4; they applied the net to the whole scaled image, not to crops of it).
    """
    if crops == "center":
        return (View(fit_side(size)),)
    sides = (_TEN,) if crops == "ten" else _SCALES
    return tuple(
        View(round(size * side / _INPUT), down, right, mirrored)
        for side in sides
        for mirrored in (False, True)
        for down, right in _PLACES
    )


@dataclass(frozen=True)
class Crops:
    """What an evaluation shows of each image, and how it makes one prediction of that.

    Attributes:
        views: One or more.
        size: Height and width of the model's input, in pixels.
        average: ``probabilities`` or ``logits``.
    """

    views: tuple[View, ...]
    size: int
    average: str = "probabilities"

    def __len__(self) -> int:
        return len(self.views)

    def __call__(self, split: Split, indices: np.ndarray) -> np.ndarray:
        """Return the crops of images: uint8 [b * views, size, size, c], image by image."""
        assert split.originals is not None
        originals = (split.originals[row] for row in split.rows[indices].tolist())
        return np.concatenate([self.of(original) for original in originals])

    def of(self, image: np.ndarray) -> np.ndarray:
        """Return the crops of one image, uint8 [h, w, c]: uint8 [views, size, size, c].

        Each is resampled once, straight from the image.
        """
        scaled = {
            short: with_shorter_side(image, short) for short in {view.short for view in self.views}
        }
        return np.stack([view.cut(scaled[view.short], self.size) for view in self.views])

    def mean(self, logits: Tensor) -> Tensor:
        """Return one prediction per image.

        The mean of probabilities comes back as its logarithm, whose softmax it is.

        Args:
            logits: float [b * views, classes], image by image.

        Returns:
            float [b, classes].
        """
        by_image = logits.reshape(-1, len(self), logits.shape[1])
        if self.average == "logits":
            return by_image.mean(dim=1)
        return by_image.log_softmax(dim=2).logsumexp(dim=1) - math.log(len(self))


def needs_originals(crops: str) -> bool:
    """Return whether ``eval.crops`` cuts out of the images at their own size."""
    return crops != "center"


def check_eval(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError unless ``eval`` of a run's config is possible, and all of it counts."""
    node = config["eval"]
    if not isinstance(node, Mapping) or set(node) != {"crops", "average"}:
        raise ConfigError(
            f"eval is {node!r}, but must have the keys crops and average; for example "
            "eval.crops=ten eval.average=probabilities"
        )
    for name, allowed in (("crops", CROPS), ("average", AVERAGES)):
        if node[name] not in allowed:
            raise choose(f"eval.{name}", node[name], allowed)
    if node["crops"] == "center" and node["average"] != AVERAGES[0]:
        raise ConfigError(
            f"eval.average is {node['average']!r}, but eval.crops=center leaves nothing to "
            "average; give eval.crops=ten or scales, or leave eval.average at probabilities"
        )


def crops_of(config: Mapping[str, Any], split: Split) -> Crops | None:
    """Return what ``eval`` of a run's config shows of the images; None for their pictures.

    Args:
        config: Checked by `check_eval`.
        split: Any of the data set: its size and whether there are originals count.

    Raises:
        ConfigError: The images leave no margin to move a crop in.
    """
    crops, average = config["eval"]["crops"], config["eval"]["average"]
    if not needs_originals(crops):
        return None
    height, width, _ = split.shape
    if split.originals is None:
        raise ConfigError(
            f"eval.crops is {crops!r}, but all images are {width}x{height}, the size of the input, "
            f"and leave no margin; give a data.size below {min(height, width)} or eval.crops=center"
        )
    return Crops(views_of(crops, height), height, average)
