"""Greedy unsupervised pretraining: convolutional autoencoders, one layer group at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warmstart.errors import ConfigError, RunError
from warmstart.models.activations import first_tensor, same_modes, watch
from warmstart.models.layers import LayerGroup
from warmstart.randomness import torch_generator

_POINTS = 11  # of a curve


def pretrain(
    model: nn.Module,
    groups: Sequence[LayerGroup],
    batches: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    seed: int,
    only: LayerGroup | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[float]]:
    """Train each group but the head to keep what it takes to reconstruct its own input.

    From the input up, a group is the encoder of an autoencoder: the activation behind it is the
    code, the one before it the target (of the first group, the images). The decoder, an upsampling
    and one 3x3 convolution, is trained with the group by Adam on the mean squared error and thrown
    away. All other groups are frozen and in eval mode; of the group itself BatchNorm alone is in
    train mode, and keeps its statistics. No labels are used.

    The code is the last feature map before the next group, so that a ReLU or a pooling between
    two groups belongs to the encoder; what comes after a global pooling is not trained.

    Sources: Y. Bengio et al., "Greedy Layer-Wise Training of Deep Networks", NIPS 2006; J. Masci
    et al., "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction", ICANN 2011.

    Args:
        model: A model with initial weights, which are changed.
        groups: Its layer groups, input first, the head last.
        batches: The batch of each step 0 ... steps * (len(groups) - 1) - 1: preprocessed images,
            float [b, channels, height, width], on the model's device.
        steps: Updates of each group.
        lr: Adam's learning rate.
        seed: Of the decoders' initial weights.
        only: Train this group alone; those before it have been trained.
        progress: Called after each step with the steps done and those of all groups.

    Returns:
        Up to 11 reconstruction losses of each group, from its first to its last step.

    Raises:
        ConfigError: A group takes or gives something else than feature maps: tokens, for example.
        RunError: A loss is not finite.
    """
    curves = []
    with same_modes(model), _same_trainable(model):
        model.eval().requires_grad_(False)
        decoders = _decoders(model, groups, batches(0)[:2], seed=seed)
        for group, decoder in zip(groups[:-1], decoders, strict=True):
            if only is not None and group is not only:
                continue
            train = _trainer(model, groups, group.index, decoder, lr=lr)
            curve = []
            for step in range(steps):
                done = group.index * steps + step
                loss = train(batches(done))
                if not math.isfinite(loss):
                    raise RunError(
                        f"the reconstruction loss of group {group.name} is {loss} at step {step} "
                        f"of its autoencoder; set init.lr below {lr:g}"
                    )
                curve.append(loss)
                if progress:
                    progress(done + 1, steps * len(decoders))
            model.eval().requires_grad_(False).zero_grad(set_to_none=True)
            curves.append(_thinned(curve))
    return curves


def _decoders(
    model: nn.Module, groups: Sequence[LayerGroup], x: Tensor, *, seed: int
) -> list[nn.Conv2d]:
    """Return an untrained decoder for each group but the head; refuse before anything trains."""
    decoders = []
    for group in groups[:-1]:
        with torch.no_grad():
            code, target = _encode(model, groups, group.index, x)
        # A 1x1 target, of a fully connected layer, has no neighbours that a kernel could see.
        kernel = 3 if max(target.shape[2:]) > 1 else 1
        # Made without numbers, which would come from torch's own stream.
        decoder = nn.Conv2d(
            code.shape[1], target.shape[1], kernel, padding=kernel // 2, device="meta"
        ).to_empty(device="cpu")
        generator = torch_generator(seed, "autoencoder", group.name)
        fan_in = code.shape[1] * kernel**2
        nn.init.normal_(decoder.weight, std=1 / math.sqrt(fan_in), generator=generator)
        nn.init.zeros_(decoder.get_parameter("bias"))
        decoders.append(decoder.to(x.device))
    return decoders


def _trainer(
    model: nn.Module, groups: Sequence[LayerGroup], index: int, decoder: nn.Conv2d, *, lr: float
) -> Callable[[Tensor], float]:
    """Return the function that trains one group and its decoder on a batch and gives the loss."""
    for norm in groups[index].batch_norms():
        norm.train()
    weights = list(groups[index].parameters.values())
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam([*weights, *decoder.parameters()], lr=lr, fused=True)

    def train(x: Tensor) -> float:
        code, target = _encode(model, groups, index, x)
        # Nearest, since the gradient of the bilinear one is not reproducible on a GPU.
        loss = F.mse_loss(decoder(F.interpolate(code, size=target.shape[2:])), target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return float(loss.detach())

    return train


class _Stop(Exception):  # noqa: N818 - it is no error: the rest of the forward pass is not needed
    pass


def _encode(
    model: nn.Module, groups: Sequence[LayerGroup], index: int, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the code and the target of group `index`, each as [b, channels, height, width]."""
    code: Tensor | None = None
    target: Tensor | None = None
    entered = False

    def enter(inputs: object) -> None:
        nonlocal entered, target
        if not entered:
            entered = True
            before = _feature_map(inputs, x)
            # A copy, since the group may change its input in place.
            target = None if before is None else before.detach().clone()

    def leave(output: object) -> None:
        nonlocal code
        found = _feature_map(output, x)
        pooled = code is not None and found is not None and _pixels(found) == 1 < _pixels(code)
        code = code if found is None or pooled else found

    def stop(inputs: object) -> None:
        leave(inputs)
        raise _Stop

    with contextlib.ExitStack() as stack:
        stack.enter_context(watch(groups[index], enter=enter, leave=leave))
        for later in groups[index + 1 :]:
            stack.enter_context(watch(later, enter=stop))
        stack.enter_context(contextlib.suppress(_Stop))
        model(x)
    if code is None or target is None:
        raise ConfigError(
            f"init=autoencoder needs convolutional groups, but group {groups[index].name} "
            f"{'takes' if target is None else 'puts out'} no feature maps; use another init or a "
            "convolutional model"
        )
    return code, target


def _feature_map(value: object, x: Tensor) -> Tensor | None:
    """Return the tensor as [b, channels, height, width], or None if it holds no such maps.

    Vectors are maps of one pixel. Maps have the shape of the images `x`, up to rounding; with the
    channels last, as in Swin, they have not.
    """
    tensor = first_tensor(value)
    if tensor is not None and tensor.ndim == 2:
        return tensor[:, :, None, None]
    if tensor is None or tensor.ndim != 4:
        return None
    (height, width), (full_height, full_width) = tensor.shape[2:], x.shape[2:]
    rounding = full_height + full_width
    return tensor if abs(height * full_width - width * full_height) <= rounding else None


def _pixels(feature_map: Tensor) -> int:
    return feature_map.shape[2] * feature_map.shape[3]


def _thinned(curve: list[float]) -> list[float]:
    """Return some points of a curve, its first and last among them, at equal distances."""
    count = min(len(curve), _POINTS)
    return [curve[round(point * (len(curve) - 1) / max(count - 1, 1))] for point in range(count)]


@contextlib.contextmanager
def _same_trainable(model: nn.Module) -> Iterator[None]:
    """Give every parameter's `requires_grad` back as it was."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
