"""Pairs of images that become one, with both labels."""

from __future__ import annotations

import torch
from torch import Tensor


class Mix:
    """Blend each image with the one before it in the batch, or paste a rectangle of that into it.

    Sources: "mixup: Beyond Empirical Risk Minimization", Zhang et al. 2018, equation 2; "CutMix",
    Yun et al. 2019, equations 1 and 2; both by torchvision's transforms (v2).

    Args:
        mixup: Parameter alpha of the beta distribution of the share; 0 leaves mixup out.
        cutmix: Likewise; where neither is 0, each batch gets one of both at random.
    """

    def __init__(self, *, mixup: float, cutmix: float) -> None:
        self.mixup = mixup
        self.cutmix = cutmix

    def __call__(self, x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Mix a batch, with numbers from torch's default generator, which the caller seeds.

        Args:
            x: Model inputs, float32 [n, channels, height, width].
            labels: int64 [n].
            classes: Their number.

        Returns:
            The mixed inputs, and for each its share of every class: float32 [n, classes].

        """
        from torchvision.transforms import v2

        both = self.mixup and self.cutmix
        if self.mixup and not (both and torch.rand(()) < 0.5):
            mix = v2.MixUp(alpha=self.mixup, num_classes=classes)
        else:
            mix = v2.CutMix(alpha=self.cutmix, num_classes=classes)
        mixed: tuple[Tensor, Tensor] = mix(x, labels)
        return mixed
