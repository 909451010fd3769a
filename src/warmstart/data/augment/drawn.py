"""What single images draw their own numbers for: learned policies and noise.

Each image's generator is seeded from two of its uniforms, so that its result is its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from warmstart.data.augment import options
from warmstart.errors import choose

POLICIES = (
    "aug_mix",
    "auto_augment",
    "auto_augment_cifar10",
    "auto_augment_svhn",
    "rand_augment",
    "trivial_augment",
)


class Policy:
    """Operations on shape and colour as published, by torchvision's transforms (v2).

    Sources: AutoAugment, Cubuk et al. 2019 (one of the pairs of operations that were learned on
    ImageNet, CIFAR-10 or SVHN); RandAugment, Cubuk et al. 2020; TrivialAugment (wide), Mueller &
    Hutter 2021; AugMix, Hendrycks et al. 2020 (the images, without the paper's extra loss).

    Args:
        name: One of `POLICIES`.
        operations: RandAugment's N, operations per image; None is 2.
        magnitude: RandAugment's M, from 0 to 30, None is 9; AugMix's severity, from 1 to 10, None
            is 3.
    """

    columns = 2

    def __init__(self, name: str, *, operations: int | None, magnitude: int | None) -> None:
        if name not in POLICIES:
            raise choose("augment.policy", name, POLICIES)
        if name != "rand_augment":
            options.refuse_idle("operations", operations, "augment.policy=rand_augment")
        if name not in ("rand_augment", "aug_mix"):
            options.refuse_idle("magnitude", magnitude, "augment.policy=rand_augment or aug_mix")
        self.name = name
        operations = 2 if operations is None else operations
        self.operations = options.whole("operations", operations, least=1)
        least, most, usual = (1, 10, 3) if name == "aug_mix" else (0, 30, 9)
        magnitude = usual if magnitude is None else magnitude
        self.magnitude = options.whole("magnitude", magnitude, least=least, most=most)

    def __call__(self, pixels: Tensor, uniforms: Tensor) -> Tensor:
        """Map uint8 [n, height, width, 1 or 3] and uniforms [n, 2] to pixels of that shape."""
        transform = self._transform()
        generator = torch.default_generator
        state = generator.get_state()
        results = []
        for image, seed in zip(pixels.permute(0, 3, 1, 2), seeds(uniforms), strict=True):
            generator.manual_seed(seed)
            results.append(transform(image))
        generator.set_state(state)
        return torch.stack(results).permute(0, 2, 3, 1).contiguous()

    def _transform(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        makers: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
            "aug_mix": lambda: v2.AugMix(severity=self.magnitude),
            "auto_augment": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
            "auto_augment_cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
            "auto_augment_svhn": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
            "rand_augment": lambda: v2.RandAugment(self.operations, self.magnitude),
            "trivial_augment": lambda: v2.TrivialAugmentWide(),
        }
        return makers[self.name]()


class Noise:
    """Gaussian noise, independent for each pixel and channel; the sum is rounded and clipped.

    Args:
        std: Its standard deviation, for pixels in [0, 1].
    """

    columns = 2

    def __init__(self, std: float) -> None:
        self.std = std

    def __call__(self, pixels: Tensor, uniforms: Tensor) -> Tensor:
        """Map uint8 pixels of shape [n, ...] and uniforms [n, 2] to pixels of that shape."""
        noise = torch.empty(pixels.shape)
        generator = torch.Generator()
        for image, seed in zip(noise, seeds(uniforms), strict=True):
            image.normal_(generator=generator.manual_seed(seed))
        return noise.mul_(255 * self.std).add_(pixels).round_().clamp_(0, 255).to(torch.uint8)


def seeds(uniforms: Tensor) -> list[int]:
    """Return a seed of 48 bits for each row of two uniforms, which are multiples of 2^-24."""
    high, low = (uniforms.double() * 2**24).long().unbind(1)
    seeds: list[int] = (high * 2**24 + low).tolist()
    return seeds
