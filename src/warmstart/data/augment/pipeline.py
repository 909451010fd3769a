"""All augmentation of a run, as one object with the keys of ``augment=``.

The order is fixed:

- on single images, uint8, where batches are made (`Augment.sample`): crop, mirror, policy, noise;
- on whole batches, on the device (`Augment.__call__`): brightness, contrast, saturation, hue,
  lighting, cutout, erasing;
- on the model's input (`Augment.mix`): mixup or cutmix.

A crop that is stretched moves to the whole batches where it can (see `Geometry`).

All random numbers are handed in, one row of uniforms per image and pass; an image's result depends
on its own row alone, so that it is the same in any batch.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from warmstart.data.augment import options
from warmstart.data.augment.colour import Jitter, Lighting
from warmstart.data.augment.crops import Resized, Scaled, Shift
from warmstart.data.augment.drawn import Noise, Policy
from warmstart.data.augment.erasing import Cutout, Erasing
from warmstart.data.augment.geometry import Geometry
from warmstart.data.augment.mixing import Mix
from warmstart.data.images import Split
from warmstart.data.preprocess import moments
from warmstart.errors import ConfigError, choose

Range = tuple[float, float] | None

# Images that tell mean and principal colours of a data set well enough.
_ENOUGH = 4096


class Augment:
    """The augmentation of a run; every option is off unless it is given.

    Args:
        crop: ``shift`` (see `Shift`), ``resized`` (`Resized`), ``scaled`` (`Scaled`) or None.
        padding: Of ``shift``; None is 4.
        scale: Of ``resized``; None is [0.25, 1].
        ratio: Of ``resized``; None is [3/4, 4/3].
        short_side: Of ``scaled``; None is [256/224, 480/224].
        flip: Share of the images to mirror left to right, in [0, 1].
        vertical_flip: Share of the images to mirror top to bottom, in [0, 1].
        policy: One of `drawn.POLICIES` or None.
        operations: Of the policy, see `Policy`.
        magnitude: Of the policy, see `Policy`.
        noise: See `Noise`; 0 for none.
        brightness: See `Jitter`, as the next three; 0 for none.
        contrast: 0 for none.
        saturation: 0 for none.
        hue: At most 0.5; 0 for none.
        lighting: See `Lighting`; 0 for none.
        cutout: See `Cutout`, as a share of the side in (0, 1]; 0 for none.
        erasing: Share of the images to erase a part of, see `Erasing`.
        erasing_scale: None is [0.02, 0.4].
        erasing_ratio: None is [0.3, 3.33].
        mixup: See `Mix`; 0 for none.
        cutmix: See `Mix`; 0 for none.

    Attributes:
        columns: Uniforms that an image needs in each pass.
        needs_originals: The crop is to be cut out of the images at their own sizes.
        draws: Single images draw numbers of their own, which takes time where batches are made.
        mix: What the training step does with the model's inputs and labels, or None.

    Raises:
        ConfigError: A value is not possible, or takes no effect.
    """

    def __init__(
        self,
        *,
        crop: str | None = None,
        padding: int | None = None,
        scale: tuple[float, float] | None = None,
        ratio: tuple[float, float] | None = None,
        short_side: tuple[float, float] | None = None,
        flip: float = 0.0,
        vertical_flip: float = 0.0,
        policy: str | None = None,
        operations: int | None = None,
        magnitude: int | None = None,
        noise: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        lighting: float = 0.0,
        cutout: float = 0.0,
        erasing: float = 0.0,
        erasing_scale: tuple[float, float] | None = None,
        erasing_ratio: tuple[float, float] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        self._policy = _policy(policy, operations, magnitude)
        self._noise = Noise(noise) if options.number("noise", noise, most=1) else None
        self.draws = bool(self._policy or self._noise)
        self._geometry = Geometry(
            _crop(crop, padding, scale, ratio, short_side),
            flip=options.share("flip", flip),
            vertical_flip=options.share("vertical_flip", vertical_flip),
            singly=self.draws,
        )
        self.needs_originals = self._geometry.stretches
        self._jitter = Jitter(
            brightness=options.number("brightness", brightness),
            contrast=options.number("contrast", contrast),
            saturation=options.number("saturation", saturation),
            hue=options.number("hue", hue, most=0.5),
        )
        self.lighting = options.number("lighting", lighting)
        self._cutout = Cutout(cutout) if options.number("cutout", cutout, most=1) else None
        self._erasing = _erasing(erasing, erasing_scale, erasing_ratio)
        self.mix = _mix(mixup, cutmix)
        self._lit: Lighting | None = None
        self._paint: Tensor | None = None
        self._numbers, self.columns = self._allotted()

    def _allotted(self) -> tuple[dict[str, slice], int]:
        """Return which columns each operation reads, and the number of all columns."""
        counts = {
            "geometry": self._geometry.columns,
            "policy": self._policy.columns if self._policy else 0,
            "noise": self._noise.columns if self._noise else 0,
            "jitter": self._jitter.columns,
            "lighting": Lighting.columns if self.lighting else 0,
            "cutout": self._cutout.columns if self._cutout else 0,
            "erasing": self._erasing.columns if self._erasing else 0,
        }
        slices, end = {}, 0
        for name, count in counts.items():
            slices[name] = slice(end, end + count)
            end += count
        return slices, end

    def bind(self, split: Split) -> Augment:
        """Return the augmentation of these training images.

        What is painted over takes their mean colour: 0 for a model, after the normalization.

        Raises:
            ConfigError: They do not have the channels that an operation on colour needs.
        """
        self._check_channels(split.shape[2])
        bound = copy.copy(self)
        bound._geometry = self._geometry.bind(split)
        if self.lighting or self._cutout or self._erasing:
            mean, covariance = moments(split, most=_ENOUGH)
            bound._paint = torch.from_numpy(255 * mean).float()
            bound._lit = Lighting(self.lighting, covariance) if self.lighting else None
        return bound

    def _check_channels(self, channels: int) -> None:
        for name in (*self._jitter.names, *(("lighting",) if self.lighting else ())):
            usable = (1, 3) if name in ("brightness", "contrast") else (3,)
            _check_usable(f"augment.{name}", channels, usable, off="0")
        if self._policy:
            _check_usable(f"augment.policy={self._policy.name}", channels, (1, 3), off="null")

    def sample(self, split: Split, indices: np.ndarray, uniforms: Tensor) -> Tensor:
        """Return images of the split after what happens to single images.

        Args:
            split: The one that `bind` got, or a part of it.
            indices: int64 [n], places within it.
            uniforms: float32 [n, columns].

        Returns:
            uint8 [n, height, width, channels].
        """
        pixels = torch.from_numpy(
            self._geometry.sample(split, indices, uniforms[:, self._numbers["geometry"]])
        )
        if self._policy:
            pixels = self._policy(pixels, uniforms[:, self._numbers["policy"]])
        if self._noise:
            pixels = self._noise(pixels, uniforms[:, self._numbers["noise"]])
        return pixels

    def __call__(self, x: Tensor, uniforms: Tensor) -> Tensor:
        """Return pixels after what happens to whole batches, on their device.

        Args:
            x: float32 [n, channels, height, width], 0 ... 255.
            uniforms: float32 [n, columns], those that `sample` got.
        """
        x = self._geometry(x, uniforms[:, self._numbers["geometry"]])
        x = self._jitter(x, uniforms[:, self._numbers["jitter"]])
        if self.lighting:
            assert self._lit is not None, "bind comes first"
            x = self._lit(x, uniforms[:, self._numbers["lighting"]])
        for name, operation in (("cutout", self._cutout), ("erasing", self._erasing)):
            if operation:
                assert self._paint is not None, "bind comes first"
                x = operation(x, uniforms[:, self._numbers[name]], self._paint)
        return x


def _crop(
    name: str | None, padding: int | None, scale: Range, ratio: Range, short_side: Range
) -> Shift | Resized | Scaled | None:
    if name not in (None, "shift", "resized", "scaled"):
        raise choose("augment.crop", name, ("null", "shift", "resized", "scaled"))
    readers = {"padding": "shift", "scale": "resized", "ratio": "resized", "short_side": "scaled"}
    values = {"padding": padding, "scale": scale, "ratio": ratio, "short_side": short_side}
    for key, reader in readers.items():
        if name != reader:
            options.refuse_idle(key, values[key], f"augment.crop={reader}")
    if name == "shift":
        return Shift(padding)
    if name == "resized":
        return Resized(scale, ratio)
    return Scaled(short_side) if name == "scaled" else None


def _policy(name: str | None, operations: int | None, magnitude: int | None) -> Policy | None:
    if name is not None:
        return Policy(name, operations=operations, magnitude=magnitude)
    options.refuse_idle("operations", operations, "augment.policy=rand_augment")
    options.refuse_idle("magnitude", magnitude, "augment.policy=rand_augment or aug_mix")
    return None


def _erasing(share: float, scale: Range, ratio: Range) -> Erasing | None:
    if options.share("erasing", share):
        return Erasing(share, scale=scale, ratio=ratio)
    options.refuse_idle("erasing_scale", scale, "augment.erasing above 0")
    options.refuse_idle("erasing_ratio", ratio, "augment.erasing above 0")
    return None


def _mix(mixup: float, cutmix: float) -> Mix | None:
    mixup, cutmix = options.number("mixup", mixup), options.number("cutmix", cutmix)
    return Mix(mixup=mixup, cutmix=cutmix) if mixup or cutmix else None


def _check_usable(name: str, channels: int, usable: tuple[int, ...], *, off: str) -> None:
    if channels not in usable:
        key = name.partition("=")[0]
        raise ConfigError(
            f"{name} changes colours, but the images have {channels} "
            f"channel{'s' if channels > 1 else ''}, and it needs {' or '.join(map(str, usable))}; "
            f"give {key}={off}"
        )
