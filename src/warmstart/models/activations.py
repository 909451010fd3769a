"""What the layer groups put out at step 0: activation mean and standard deviation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from warmstart.models.layers import LayerGroup


def activation_statistics(
    model: nn.Module, groups: Sequence[LayerGroup], x: Tensor, *, auxiliary: Sequence[str] = ()
) -> list[tuple[float, float]]:
    """Return mean and standard deviation of each group's output, over all of its elements.

    A group's output is that of its last executed module; the head's are the logits. What stands
    between two groups, such as the ReLU behind a stem's BatchNorm, belongs to neither. Layers run
    in the mode they are in (BatchNorm by the batch or by its statistics, dropout on or off), and
    the model is left as it was: its buffers and torch's random stream too.

    Args:
        model: Any model whose groups are `groups`.
        groups: The layer groups, input first.
        x: Preprocessed images, float [b, channels, height, width], on the model's device.
        auxiliary: Paths of auxiliary classifiers: in train mode one may be what its group
            executes last, but its output is not what the group passes on.

    Returns:
        One pair per group; two NaN for a group of which nothing ran or that puts out no tensor.
    """
    found = [(float("nan"), float("nan"))] * len(groups)

    def describe(index: int) -> Callable[[object], None]:
        def leave(output: object) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                # At once: an in-place ReLU behind the group would change it.
                std, mean = torch.std_mean(tensor.float(), correction=0)
                found[index] = (float(mean), float(std))

        return leave

    aside = [part for path in auxiliary for part in model.get_submodule(path).modules()]
    with contextlib.ExitStack() as stack:
        for index, group in enumerate(groups):
            stack.enter_context(watch(group, leave=describe(index), aside=aside))
        stack.enter_context(same_buffers(model))
        stack.enter_context(fixed_noise(x.device))
        stack.enter_context(torch.no_grad())
        model(x)
    return found


@contextlib.contextmanager
def watch(
    group: LayerGroup,
    *,
    enter: Callable[[object], None] | None = None,
    leave: Callable[[object], None] | None = None,
    aside: Collection[nn.Module] = (),
) -> Iterator[None]:
    """Call ``enter(arguments)`` and ``leave(output)`` at the group's outermost module calls.

    The paths of a group may be containers that a model iterates over without calling them, so
    that all modules are hooked but those `aside`; calls from inside one another do not count.
    """
    depth = 0

    def before(_: nn.Module, arguments: tuple[object, ...]) -> None:
        nonlocal depth
        if depth == 0 and enter:
            enter(arguments)
        depth += 1

    def after(_: nn.Module, arguments: tuple[object, ...], output: object) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0 and leave:
            leave(output)

    parts = dict.fromkeys(part for module in group.modules for part in module.modules())
    with contextlib.ExitStack() as stack:
        for module in [part for part in parts if part not in aside]:
            stack.enter_context(module.register_forward_pre_hook(before))
            stack.enter_context(module.register_forward_hook(after))
        yield


def first_tensor(value: object) -> Tensor | None:
    """Return `value` or the first tensor in it, since some modules put out tuples."""
    items = value if isinstance(value, tuple | list) else (value,)
    return next((item for item in items if isinstance(item, Tensor)), None)


@contextlib.contextmanager
def same_modes(model: nn.Module) -> Iterator[None]:
    """Give every module's training flag back as it was."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextlib.contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Give the values of all buffers (BatchNorm statistics, for example) back as they were."""
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


@contextlib.contextmanager
def fixed_noise(device: torch.device) -> Iterator[None]:
    """Let dropout draw the same numbers each time, and leave the random stream as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # Not torch.manual_seed, which also seeds the devices that are not forked.
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(0)
        yield
