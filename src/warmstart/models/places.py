"""What a forward pass calls, in order, and which of its values the output hangs on alone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from warmstart.models.activations import fixed_noise, same_buffers

# A value in autograd's graph: the operation that made it, and which of its outputs it is.
Value = tuple[Any, int]


@dataclasses.dataclass(frozen=True)
class Place:
    """A call of a module.

    Attributes:
        module: Its path.
        call: How many calls of it came before in the same pass.
        tensors: How many tensors it was given.
        shape: Of the tensor, if it was given exactly one.
        value: Of the same, in autograd's graph.
        random: Whether a random number had been drawn by then.
        idle: Whether the module passes on what it is given, whatever its mode.
    """

    module: str
    call: int
    tensors: int
    shape: tuple[int, ...]
    value: Value | None
    random: bool
    idle: bool


@dataclasses.dataclass(frozen=True)
class Pass:
    """A forward pass.

    Attributes:
        places: All calls of modules, in order; the model itself is the first.
        images: The value of the images.
        outputs: The values of what came out.
    """

    places: Sequence[Place]
    images: Value
    outputs: Sequence[Value]

    def passes_through(self, value: Value) -> bool:
        """Return whether all ways from the images to the output lead over `value`."""
        seen, waiting = {value}, [output for output in self.outputs if output != value]
        while waiting:
            here = waiting.pop()
            if here == self.images:
                return False
            if here not in seen:
                seen.add(here)
                waiting.extend(way for way in here[0].next_functions if way[0] is not None)
        return True

    def depends(self, value: Value, leaves: Collection[Tensor]) -> bool:
        """Return whether `value` was computed from one of `leaves`, which require gradients."""
        wanted = set(map(id, leaves))
        seen, waiting = {value[0]}, [value[0]]
        while waiting:
            here = waiting.pop()
            if id(getattr(here, "variable", None)) in wanted:
                return True
            above = {way for way, _ in here.next_functions if way is not None} - seen
            seen |= above
            waiting.extend(above)
        return False


def record(model: nn.Module, x: Tensor) -> Pass:
    """Run the model in the modes that it is in, and note the calls of its modules.

    Buffers and torch's random stream are left as they were.

    Args:
        model: Any model. On ``meta`` it draws no random number that could be noticed.
        x: Preprocessed images [b, c, h, w] on the model's device.
    """
    places: list[Place] = []
    calls: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(fixed_noise(x.device))
        stack.enter_context(same_buffers(model))
        stack.enter_context(torch.enable_grad())
        start = _generator(x.device).get_state()

        def note(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            alone = tensors[0] if len(tensors) == 1 else None
            calls[path] = calls.get(path, -1) + 1
            places.append(
                Place(
                    path,
                    calls[path],
                    len(tensors),
                    () if alone is None else tuple(alone.shape),
                    None if alone is None else _value(alone),
                    not torch.equal(start, _generator(x.device).get_state()),
                    isinstance(module, nn.Identity),
                )
            )

        for path, module in model.named_modules():
            hook = module.register_forward_pre_hook(
                lambda *given, path=path: note(path, *given), with_kwargs=True
            )
            stack.callback(hook.remove)
        # No leaf, which a layer in place could not change.
        images = x.detach().requires_grad_().view_as(x)
        first = _value(images)
        assert first is not None
        outputs = [_value(leaf) for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor)]
    return Pass(places, first, [value for value in outputs if value is not None])


def _value(tensor: Tensor) -> Value | None:
    return None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


def _generator(device: torch.device) -> torch.Generator:
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]
