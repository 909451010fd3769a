"""Loaded tensors made to fit a model of another input: channels, image size, convolution or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from warmstart.models.layers import LayerGroup

# A tensor in the wanted shape and type, and how its shape was changed ("": not at all).
Adapted = tuple[Tensor, str]

_EMBEDDINGS = (
    "pos_embed",
    "pos_embedding",
    "position_embedding",
    "position_embeddings",
    "positional_embedding",
)
_BIAS_TABLE = "relative_position_bias_table"


def input_convolutions(model: nn.Module, groups: Sequence[LayerGroup]) -> frozenset[str]:
    """Return the names of the weights that see the image itself.

    These are the first convolution of group 0 and those of the group that take as many channels as
    it does: models with two branches (CrossViT) have two.
    """
    modules = {
        name: model.get_submodule(name.removesuffix(".weight"))
        for name in groups[0].parameters
        if name.endswith(".weight")
    }
    convolutions = {n: m for n, m in modules.items() if isinstance(m, nn.Conv2d)}
    first = next(iter(convolutions.values()), None)
    return frozenset(
        name
        for name, module in convolutions.items()
        if first is not None and module.in_channels == first.in_channels and module.groups == 1
    )


def adapt(
    name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype, *, sees_image: bool = False
) -> Adapted | None:
    """Return a loaded `tensor` in the model's shape, or None if there is no way.

    Args:
        name: Of the tensor in the model, which tells positional tensors from others.
        tensor: As in the file.
        shape: What the model has.
        dtype: What the model has; whole numbers never become real ones, nor the reverse.
        sees_image: It is the weight of a convolution on the image, whose channels may differ.
    """
    if tensor.is_floating_point() != dtype.is_floating_point or tensor.is_complex():
        return None
    tensor, shape = tensor.to(dtype), torch.Size(shape)
    if tensor.shape == shape:
        return tensor, ""
    last = name.rpartition(".")[2]
    change: Callable[[Tensor, torch.Size], Adapted | None] = _reshape
    if sees_image and tensor.ndim == len(shape) == 4:
        change = _channels
    elif last in _EMBEDDINGS:
        change = _embedding
    elif last == _BIAS_TABLE:
        change = _bias_table
    return change(tensor, shape)


def _channels(weight: Tensor, shape: torch.Size) -> Adapted | None:
    """Sum [o, c, k, k] over c for one channel, or repeat it cyclically, scaled by c / n, for n.

    A gray image gets the response that its copies in c channels had, up to differences between
    the channels' normalization; for n, where c divides n.
    Carreira and Zisserman, Quo Vadis, Action Recognition?, CVPR 2017, section 2.4 (repeat and
    divide), over channels instead of time. Other numbers of channels than one and three are no
    colours: which of them match is unknown, so they only sum to one.
    """
    count, wanted = weight.shape[1], shape[1]
    if weight.shape[0] != shape[0] or weight.shape[2:] != shape[2:]:
        return None
    if wanted == 1:
        return weight.sum(dim=1, keepdim=True), f"{count} input channels summed to 1"
    if count not in (1, 3):
        return None
    inflated = weight[:, torch.arange(wanted) % count] * (count / wanted)
    return inflated, (
        f"{count} input channel{'s' * (count > 1)} repeated for {wanted}, times {count}/{wanted}"
    )


def _embedding(embedding: Tensor, shape: torch.Size) -> Adapted | None:
    """Resize positional embeddings: [1, tokens, width], [tokens, width] or [1, h, w, width].

    The grid is interpolated bicubically; tokens before it (class, distillation, registers) are
    kept. Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, section 3.2. Pixels, not
    corners, are aligned, and shrinking is antialiased, as in timm's ``resample_abs_pos_embed``;
    torchvision's ``interpolate_embeddings`` aligns corners.
    """
    if embedding.ndim != len(shape) or embedding.shape[-1] != shape[-1]:
        return None
    width = shape[-1]
    if len(shape) == 4:
        rows, columns = embedding.shape[1:3]
        # Elsewhere (NesT) the two middle dimensions are blocks and places in a block.
        if rows != columns or shape[1] != shape[2] or embedding.shape[0] != shape[0]:
            return None
        grid = _resize(embedding.movedim(-1, 1), shape[1], antialias=True).movedim(1, -1)
        return grid, f"positions interpolated from {rows}x{rows} to {shape[1]}x{shape[1]}"
    tokens = embedding.reshape(-1, width)
    wanted = math.prod(shape[:-1])
    sides = _sides(len(tokens), wanted, extras=range(6))
    if embedding.shape[:-2] not in ((), (1,)) or sides is None:
        return None
    before, after, extra = sides
    grid = tokens[extra:].T.reshape(1, width, before, before)
    grid = _resize(grid, after, antialias=True).reshape(width, -1).T
    return torch.cat([tokens[:extra], grid]).reshape(shape), (
        f"positions interpolated from {before}x{before} to {after}x{after}"
    )


def _bias_table(table: Tensor, shape: torch.Size) -> Adapted | None:
    """Resize a table of relative positions, [(2 * window - 1)^2, heads], bicubically.

    Liu et al., Swin Transformer, ICCV 2021, section 3.2. Three entries of BEiT at its end, for the
    class token, are kept.
    """
    if table.ndim != 2 or len(shape) != 2 or table.shape[1] != shape[1]:
        return None
    sides = _sides(len(table), shape[0], extras=(0, 3))
    if sides is None:
        return None
    before, after, extra = sides
    grid = table[: before**2].T.reshape(1, -1, before, before)
    grid = _resize(grid, after, antialias=False).reshape(shape[1], -1).T
    return torch.cat([grid, table[len(table) - extra :]]), (
        f"relative positions interpolated from {before}x{before} to {after}x{after}"
    )


def _sides(before: int, after: int, *, extras: Sequence[int]) -> tuple[int, int, int] | None:
    """Return the sides of two square grids with equally many extra tokens, and how many those are.

    Up to five extra tokens there is one answer at most: no two pairs of squares differ by equal
    numbers so small.
    """
    for extra in extras:
        sides = [math.isqrt(max(0, count - extra)) for count in (before, after)]
        if all(sides) and [side**2 + extra for side in sides] == [before, after]:
            return sides[0], sides[1], extra
    return None


def _resize(grid: Tensor, side: int, *, antialias: bool) -> Tensor:
    """Interpolate [1, width, h, w] to [1, width, side, side]."""
    return F.interpolate(
        grid, size=(side, side), mode="bicubic", align_corners=False, antialias=antialias
    )


def _reshape(weight: Tensor, shape: torch.Size) -> Adapted | None:
    """Reshape [o, c * k * k] to [o, c, k, k] or the reverse: one layer in two forms."""
    kinds = {2: "linear layer", 4: "convolution"}
    if {weight.ndim, len(shape)} != {2, 4} or weight.shape[0] != shape[0]:
        return None
    if weight.numel() != math.prod(shape):
        return None
    return weight.reshape(shape), f"{kinds[weight.ndim]} reshaped to a {kinds[len(shape)]}"
