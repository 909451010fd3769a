"""Initialization from data: unit-variance activations, BatchNorm statistics, class means."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.conv import _ConvNd as Convolution

from warmstart.errors import ConfigError
from warmstart.models.activations import fixed_noise, same_buffers, same_modes


def lsuv(
    model: nn.Module, x: Tensor, *, tolerance: float = 0.1, iterations: int = 10
) -> dict[str, float]:
    """Scale the weights of each convolution and linear layer so that its output has variance 1.

    The second half of layer-sequential unit-variance initialization; the first, orthonormal
    weights and zero biases, is the caller's. In the order of execution each layer's weights are
    divided by the standard deviation of its output over `x`, all elements together. The authors
    run the net anew for each layer; here a layer is scaled while the one pass goes through it,
    which gives the same weights.

    Dropout is off; BatchNorm layers normalize as their mode says, and their statistics stay. A
    layer that is called twice counts with its first call. One that cannot get there keeps its
    weights: its output is constant, or it normalizes its weights itself.

    Source: D. Mishkin, J. Matas, "All you need is a good init", ICLR 2016, algorithm 1.

    Args:
        model: A model with initial weights.
        x: Preprocessed images, float [b, channels, height, width], on the model's device.
        tolerance: Distance from 1 that the variance must stay under.
        iterations: Scalings of one layer at most.

    Returns:
        The output variance of each layer that ran, in the order of execution.
    """
    reached: dict[str, float] = {}

    def scaler(
        name: str, layer: Convolution | nn.Linear
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def scale(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if name in reached:
                return None
            reached[name] = _scale(layer, inputs, output, tolerance, iterations)
            scaled: Tensor = layer.forward(*inputs)
            return scaled

        return scale

    with contextlib.ExitStack() as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, Convolution | nn.Linear):
                stack.enter_context(layer.register_forward_hook(scaler(name, layer)))
        stack.enter_context(same_modes(model))
        stack.enter_context(same_buffers(model))
        stack.enter_context(fixed_noise(x.device))
        stack.enter_context(torch.no_grad())
        _no_dropout(model)
        model(x)
    return reached


def _scale(
    layer: Convolution | nn.Linear,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    tolerance: float,
    iterations: int,
) -> float:
    """Scale the weights of one layer; return the variance of its output with the weights it got."""
    first = variance = _variance(output)
    before = layer.weight.clone()
    for _ in range(iterations):
        if abs(variance - 1) < tolerance or variance == 0:
            break
        layer.weight.div_(math.sqrt(variance))
        variance = _variance(layer.forward(*inputs))
    # Half a way could be a layer scaled to nothing, where the bias alone varies by more than 1.
    if not abs(variance - 1) < tolerance:
        layer.weight.copy_(before)
        return first
    return variance


def _variance(output: Tensor) -> float:
    """Return the variance over all elements; 0 also for what is constant but for rounding."""
    values = output.double()
    variance = float(values.var(correction=0))
    return variance if variance > 1e-12 * float(values.square().mean()) else 0.0


def _no_dropout(model: nn.Module) -> None:
    """Put all into eval mode but BatchNorm, and the model itself: auxiliary heads ask its flag."""
    for module in model.modules():
        if module is not model and not isinstance(module, BatchNorm):
            module.training = False


def estimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> list[str]:
    """Set the running statistics of all BatchNorm layers from data, and nothing else.

    Each becomes the plain average over the batches, in one pass: a deep layer's statistics are
    measured while the layers before it normalize by the batch, as in training, not yet by the
    statistics that they are about to get. All other layers are in eval mode.

    Args:
        model: A model, for example of random or permuted weights that are to stay frozen.
        batches: Preprocessed images, float [b, channels, height, width], on the model's device.
            Batches of one size, since each counts alike.

    Returns:
        The names of the buffers that were set; a layer that did not run keeps its own.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.track_running_stats
    }
    momenta = {layer: layer.momentum for layer in layers.values()}
    ran: set[nn.Module] = set()

    def reset(layer: nn.Module, _: object) -> None:
        if isinstance(layer, BatchNorm) and layer not in ran:
            layer.reset_running_stats()
            ran.add(layer)

    with contextlib.ExitStack() as stack:
        stack.enter_context(same_modes(model))
        stack.enter_context(torch.no_grad())
        _no_dropout(model)
        model.training = True
        try:
            for layer in layers.values():
                stack.enter_context(layer.register_forward_pre_hook(reset))
                layer.training, layer.momentum = True, None  # None: the average of all batches
            for x in batches:
                with fixed_noise(x.device):
                    model(x)
        finally:
            for layer, momentum in momenta.items():
                layer.momentum = momentum
    return [
        f"{name}.{buffer}"
        for name, layer in layers.items()
        if layer in ran
        for buffer, _ in layer.named_buffers(recurse=False)
    ]


def class_means(
    model: nn.Module, head: str, batches: Iterable[tuple[Tensor, Tensor]], *, classes: int
) -> None:
    """Set the classifier so that it puts an image into the class with the nearest mean.

    With the class means m_c of the classifier's input, their average m and the variance s2 within
    classes (pooled, averaged over dimensions), weight and bias become (m_c - m) / s2 and
    -(|m_c|^2 - |m|^2) / (2 s2): its softmax is the posterior under equally frequent Gaussian
    classes of covariance s2 I. Where every class has one image, s2 is the variance of all.

    The model runs in eval mode: BatchNorm layers need their statistics first.

    Sources: T. Mensink et al., "Distance-Based Image Classification: Generalizing to New Classes
    at Near-Zero Cost", TPAMI 2013, equation 6; J. Snell et al., "Prototypical Networks for
    Few-shot Learning", NIPS 2017, equation 8 for the linear form.

    Args:
        model: The model with the weights whose features are averaged.
        head: Path of the classifier.
        batches: Preprocessed images, float [b, channels, height, width], and labels, int64 [b].
        classes: Number of classes, the outputs of the classifier.

    Raises:
        ConfigError: The classifier is no linear layer with a bias, a class has no image, or the
            features do not differ.
    """
    layer = model.get_submodule(head)
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        kind = "a Linear without a bias" if isinstance(layer, nn.Linear) else type(layer).__name__
        raise ConfigError(
            f"init.head=class_means needs a linear classifier with a bias, but {head!r} is "
            f"{kind}; use init.head=fresh"
        )
    weight, bias = nearest_mean(
        _features(model, layer, batches), classes, option="init.head=class_means"
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def nearest_mean(
    features: Iterable[tuple[Tensor, Tensor]], classes: int, *, option: str
) -> tuple[Tensor, Tensor]:
    """Return weight [classes, d] and bias [classes] of the classifier of `class_means`.

    Args:
        features: Rows, float64 [b, d], and their labels, int64 [b].
        classes: Their number.
        option: Which asked for it, for the messages.

    Raises:
        ConfigError: A class has no image, or the features do not differ.
    """
    means, variance = _gaussians(features, classes, option)
    center = means.mean(0)
    # A product, since the difference of two squares cancels where the means are large.
    bias = -((means - center) * (means + center)).sum(1) / (2 * variance)
    return (means - center) / variance, bias


def _features(
    model: nn.Module, head: nn.Linear, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the classifier's input in eval mode, float64 [b, features], and the labels."""
    captured: list[Tensor] = []

    def capture(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured.append(inputs[0].double())

    with same_modes(model), torch.no_grad(), head.register_forward_pre_hook(capture):
        model.eval()
        for x, labels in batches:
            model(x)
            yield captured.pop(), labels.to(x.device)


def _gaussians(
    features: Iterable[tuple[Tensor, Tensor]], classes: int, option: str
) -> tuple[Tensor, float]:
    """Return the class means, [classes, features], and one variance for all classes."""
    counts, sums, squares = torch.zeros(()), torch.zeros(()), 0.0
    for rows, labels in features:
        member = nn.functional.one_hot(labels, classes).to(rows)
        counts = counts.to(rows) + member.sum(0)
        sums = sums.to(rows) + member.T @ rows
        squares += float(rows.square().sum())
    if not bool(counts.all()):
        absent = [label for label in range(classes) if counts.ndim == 0 or not counts[label]]
        raise ConfigError(
            f"{option} needs an image of every class, but class {absent[0]} has none "
            f"({len(absent)} such); add some or use another option"
        )
    count, dimensions = int(counts.sum()), sums.shape[1]
    means = sums / counts[:, None]
    total = squares - float(sums.sum(0).square().sum()) / count
    within = squares - float((counts[:, None] * means.square()).sum())
    # What rounding leaves of 0, where the images of each class are one or equal, is no variance.
    if count > classes and within > 1e-9 * total:
        return means, within / ((count - classes) * dimensions)
    if total > 1e-12 * squares:
        return means, total / ((count - 1) * dimensions)
    raise ConfigError(
        f"{option} needs features that differ between images, but these are all equal; use another "
        "option"
    )
