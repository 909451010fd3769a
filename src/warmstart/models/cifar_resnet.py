"""Residual networks for 32x32 images: ResNet-20, -56 and others of depth 6n + 2.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2: n blocks at each
of 16, 32 and 64 channels, and shortcuts without parameters ("option A"): where the shape changes,
every second pixel is taken and the new channels are zero. Parameters are named as in the
widespread checkpoints for this family (``layer1.0.conv1.weight``, ``linear.weight``).
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from warmstart.errors import ConfigError
from warmstart.models.architecture import Architecture, Input
from warmstart.models.grouping import check_granularity, layout
from warmstart.models.layers import Layout
from warmstart.models.trace import trace

# The published weights of this family were trained with ImageNet's statistics.
_INPUT = Input(size=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_WIDTHS = (16, 32, 64)


def cifar_resnet(*, depth: int = 20, granularity: str = "stage") -> Architecture:
    """Return a ResNet for 32x32 RGB images.

    Args:
        depth: 6n + 2, for example 20 or 56.
        granularity: ``stage`` (5 groups) or ``block`` (one group per residual block).

    Raises:
        ConfigError: `depth` is not of that form.
    """
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise ConfigError(
            f"model.depth is {depth!r}, but must be 6n + 2, for example 20, 32, 44, 56 or 110"
        )
    blocks = (depth - 2) // 6
    check_granularity(granularity)
    return Architecture(
        # Not resnet50, which is another net with weights of its own.
        name=f"cifar_resnet{depth}",
        build=functools.partial(_CifarResNet, blocks),
        layout=_layout(blocks, granularity),
        input=_INPUT,
    )


@functools.lru_cache
def _layout(blocks: int, granularity: str) -> Layout:
    with torch.random.fork_rng(devices=[]):
        model = _CifarResNet(blocks, 3, 2, None)
    return layout(model, ["linear"], trace(model, size=32), granularity=granularity)


class Block(nn.Module):
    """A residual block.

    Attributes:
        drop_rate: For how many images of a batch, as a share, its branch is left out in training
            (stochastic depth).
    """

    drop_rate = 0.0

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.stride = 1 if before == width else 2
        self.conv1 = nn.Conv2d(before, width, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, before, h, w] to [n, width, h / stride, w / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.drop_rate:
            out = stochastic_depth(out, self.drop_rate, "row", self.training)
        if self.stride != 1:
            new = out.shape[1] - x.shape[1]
            # Option A centres the old channels among the new zeros.
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new // 2, new - new // 2))
        return F.relu(out + x)


class _CifarResNet(nn.Module):
    def __init__(self, blocks: int, channels: int, classes: int, size: int | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        before = _WIDTHS[0]
        for index, width in enumerate(_WIDTHS, start=1):
            stage = nn.Sequential(Block(before, width))
            stage.extend(Block(width, width) for _ in range(blocks - 1))
            self.add_module(f"layer{index}", stage)
            before = width
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, channels, h, w] to logits [n, classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        for index in (1, 2, 3):
            x = self.get_submodule(f"layer{index}")(x)
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))  # type: ignore[no-any-return]
