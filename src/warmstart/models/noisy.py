"""Layers that draw random numbers in training and none in evaluation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoisyLinear(nn.Linear):
    """A linear layer with dropout on its input, and DropConnect on its weights.

    DropConnect is that of Wan et al., Regularization of Neural Networks using DropConnect, ICML
    2013, section 3: for every image other weights and biases are zero. The others are scaled up, so
    that the mean over all draws is the layer of evaluation. The masks take the memory of the
    weights, times the images of a batch.

    Attributes:
        dropout: Share of the inputs that are zero in training.
        drop_connect: Share of the weights that are.
    """

    dropout = 0.0
    drop_connect = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., features] to [..., classes]."""
        x = F.dropout(x, self.dropout, self.training)
        if not (self.training and self.drop_connect):
            return super().forward(x)
        weight = self._dropped(self.weight.expand(*x.shape[:-1], -1, -1))
        out = torch.matmul(weight, x[..., None])[..., 0]
        return out if self.bias is None else out + self._dropped(self.bias.expand_as(out))

    def _dropped(self, tensor: Tensor) -> Tensor:
        kept = 1 - self.drop_connect
        mask = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        return tensor * mask.bernoulli_(kept).div_(kept)


class NoisyConv2d(nn.Conv2d):
    """A convolution with dropout on its input; `dropout` as in `NoisyLinear`."""

    dropout = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, channels, h, w] to [b, classes, h', w']."""
        return super().forward(F.dropout(x, self.dropout, self.training))


def noisy(layer: nn.Module, *, dropout: float, drop_connect: float) -> NoisyLinear | NoisyConv2d:
    """Return a linear layer or a convolution with the parameters of `layer`, and its noise.

    Args:
        layer: Linear, or a convolution without groups.
        dropout: Share of its inputs that are zero in training.
        drop_connect: Share of its weights that are, of a linear layer.
    """
    new: NoisyLinear | NoisyConv2d
    # On meta no random number is drawn for weights that are not kept.
    if isinstance(layer, nn.Linear):
        new = NoisyLinear(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
        )
        new.drop_connect = drop_connect
    else:
        assert isinstance(layer, nn.Conv2d)
        new = NoisyConv2d(
            layer.in_channels,
            layer.out_channels,
            (layer.kernel_size[0], layer.kernel_size[1]),
            stride=(layer.stride[0], layer.stride[1]),
            padding=layer.padding if isinstance(layer.padding, str) else layer.padding[:2],  # type: ignore[arg-type]
            dilation=(layer.dilation[0], layer.dilation[1]),
            bias=layer.bias is not None,
            device="meta",
        )
    new.weight, new.bias, new.dropout = layer.weight, layer.bias, dropout
    return new.train(layer.training)


class FractionalMaxPool(nn.Module):
    """Max pooling by the square root of 2, over squares of 2x2 pixels at random places.

    Graham, Fractional Max-Pooling, 2014: overlapping regions, the places pseudorandom. For every
    image and channel others are drawn in training; in evaluation they are always the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, channels, h, w] to [b, channels, int(h / sqrt 2), int(w / sqrt 2)]."""
        size = [int(side / math.sqrt(2)) for side in x.shape[2:]]
        places = torch.full((*x.shape[:2], 2), 0.5, dtype=x.dtype, device=x.device)
        if self.training:
            places.uniform_()
        return F.fractional_max_pool2d(x, 2, output_size=size, _random_samples=places)
