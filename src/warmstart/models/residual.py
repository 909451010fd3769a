"""Residual blocks that start as their shortcut: the last norm of each has weight 0."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as BatchOrInstanceNorm

from warmstart.errors import ConfigError
from warmstart.randomness import torch_generator

_NORMS = (BatchOrInstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_Call = tuple[tuple[Any, ...], dict[str, Any]]


def zero_gamma(model: nn.Module, x: Tensor) -> list[str]:
    """Set the weight of the last norm of each residual block to 0, in place.

    Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017, section 5.1.
    The blocks are found by trying, not by their names. A norm ends a residual branch if

    - each number that leaves it reaches one number of the block's output, of equal size;
    - with its output at zero, the block's output still depends on the block's input;
    - and at least half of the numbers in the block's weights then get no gradient: what still
      does is the shortcut.

    A block is the innermost module with such a norm. It may have several branches, one after the
    other (attention and MLP with norms behind them). Networks whose blocks begin with a norm
    (pre-activation ResNets, most transformers) have none.

    Args:
        model: Any; only the weights that are returned change, and no statistics.
        x: Images [n, channels, h, w]; the first is used, for the shapes of what blocks get.

    Returns:
        The names of the weights that are 0 now, in the order of the model's modules.

    Raises:
        ConfigError: No block ends in a norm.
    """
    trial = _trial_copy(model)
    calls = _calls(trial, x)
    found: set[str] = set()
    names = {module: name for name, module in trial.named_modules()}
    # From the inside out: a module comes before the one that holds it.
    for module, name in reversed(names.items()):
        inside = f"{name}." if name else ""
        if module in calls and not any(norm.startswith(inside) for norm in found):
            block = _Block(module, *calls[module], seed_name=name)
            found |= {names[norm] for norm in _branch_ends(block)}
    if not found:
        raise ConfigError(
            f"init.zero_gamma=true, but {type(model).__name__} has no residual block that ends in "
            "a norm; use init.zero_gamma=false"
        )
    weights = [f"{name}.weight" for name in names.values() if name in found]
    with torch.no_grad():
        for weight in weights:
            model.get_parameter(weight).zero_()
    return weights


def _trial_copy(model: nn.Module) -> nn.Module:
    """Return a copy whose weights let a signal through everywhere, whatever the model's are."""
    trial = copy.deepcopy(model).eval().requires_grad_(False)
    generator = torch_generator(0, "zero_gamma")
    for module in trial.modules():
        if isinstance(module, _NORMS) and module.weight is not None:
            module.reset_parameters()
            continue
        for weight in module.parameters(recurse=False):
            if weight.ndim >= 2:
                values = torch.randn(weight.shape, generator=generator)
                weight.copy_(values / math.sqrt(weight[0].numel()))
                weight.requires_grad_()
    return trial


def _calls(model: nn.Module, x: Tensor) -> dict[nn.Module, _Call]:
    """Return how each module above a norm is called that maps one tensor, or more, to one."""
    calls: dict[nn.Module, _Call] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if isinstance(out, Tensor) and any(isinstance(value, Tensor) for value in args):
            calls[module] = (args, kwargs)

    hooks = [
        module.register_forward_hook(record, with_kwargs=True)
        for module in model.modules()
        if not isinstance(module, _NORMS) and any(isinstance(m, _NORMS) for m in module.modules())
    ]
    with torch.no_grad():
        model(x[:1])
    for hook in hooks:
        hook.remove()
    return calls


class _Block:
    """One module, called again with random numbers of the shapes that it was called with."""

    def __init__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, seed_name: str
    ) -> None:
        self.generator = torch_generator(0, "zero_gamma", seed_name)
        self.module = module
        self.args = [self._noise(value) for value in args]
        self.kwargs = {key: self._noise(value) for key, value in kwargs.items()}

    def _noise(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=self.generator).to(value)

    def __call__(self, replaced: dict[nn.Module, Tensor | float]) -> Tensor:
        """Return the output where each norm in `replaced` gives that in place of its own."""
        hooks = [
            norm.register_forward_hook(lambda _, __, out, value=value: out * 0 + value)
            for norm, value in replaced.items()
        ]
        # Copies, since some blocks begin with an operation in place.
        args = [value.clone() if isinstance(value, Tensor) else value for value in self.args]
        output: Tensor = self.module(*args, **self.kwargs)
        for hook in hooks:
            hook.remove()
        return output

    def norm_outputs(self) -> tuple[Tensor, dict[nn.Module, list[Tensor]]]:
        """Return the block's output and, in order of execution, those of its norms."""
        outputs: dict[nn.Module, list[Tensor]] = {}

        def hook(module: nn.Module, args: Any, out: Tensor) -> None:
            outputs.setdefault(module, []).append(out)

        norms = [m for m in self.module.modules() if isinstance(m, _NORMS) and m.weight is not None]
        hooks = [norm.register_forward_hook(hook) for norm in norms]
        with torch.no_grad():
            output = self({})
        for handle in hooks:
            handle.remove()
        return output, outputs

    def open_weights(self, closed: Collection[nn.Module]) -> int | None:
        """Return how many numbers of the weights get a gradient with the norms `closed`.

        None if the output no longer depends on the input.
        """
        inputs = [v for v in self.args if isinstance(v, Tensor) and v.is_floating_point()]
        weights = [weight for weight in self.module.parameters() if weight.requires_grad]
        for tensor in inputs:
            tensor.requires_grad_()
        output = self(dict.fromkeys(closed, 0.0))
        if not output.requires_grad:
            return None
        # Random, since a plain sum over normalized numbers is constant.
        direction = self._noise(output)
        gradients = torch.autograd.grad(output, [*inputs, *weights], direction, allow_unused=True)
        reached = [g.numel() if g is not None and bool(g.any()) else 0 for g in gradients]
        return sum(reached[len(inputs) :]) if any(reached[: len(inputs)]) else None

    def passes_unmixed(self, norm: nn.Module, shape: torch.Size, closed: list[nn.Module]) -> bool:
        """Say whether one number at the output of `norm` reaches just one of the block's."""
        one = torch.zeros(shape).view(-1)
        one[one.numel() // 2] = 10.0  # enough to get through a ReLU behind the addition
        others = dict.fromkeys(closed, 0.0)
        with torch.no_grad():
            without = self({**others, norm: 0.0})
            difference = self({**others, norm: one.view(shape)}) - without
        return int(difference.count_nonzero()) == 1


def _branch_ends(block: _Block) -> list[nn.Module]:
    output, norm_outputs = block.norm_outputs()
    candidates = {
        norm: outs[0].shape
        for norm, outs in norm_outputs.items()
        if len(outs) == 1 and outs[0].numel() == output.numel()
    }
    if not candidates:
        return []
    everything = before = block.open_weights(()) or 0
    closed: list[nn.Module] = []
    # The last executed first: what an earlier branch adds then passes the closed ones unmixed.
    for norm, shape in reversed(candidates.items()):
        if block.passes_unmixed(norm, shape, closed):
            left = block.open_weights([*closed, norm])
            # A shortcut's own norm drops out here: most weights lie in the branch.
            if left is not None and left < before and 2 * left <= everything:
                closed.append(norm)
                before = left
    return closed
