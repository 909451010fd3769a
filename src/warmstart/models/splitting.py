"""A model in which what comes before a place is replaced by stand-ins."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from warmstart.models.activations import fixed_noise, same_buffers
from warmstart.models.stubs import Entry, Flow, Stub, blank, moved
from warmstart.models.units import own_tensors


class Split:
    """The part of a model behind a call of one of its modules, on its own.

    The tree of modules is copied, but a module that works before the place alone becomes a stub,
    and one that works behind it alone stays the model's own. So new modules stand only where a
    container reaches across the place.

    Args:
        model: Any model, in the modes that count.
        path: Of the module.
        call: Which of its calls, 0 first.
        x: Images [b, c, h, w].

    Attributes:
        both: Names of the tensors that work on both sides; where there are any, nothing can be
            run.
        live: Names of all tensors of the model but those that work before the place alone.
    """

    def __init__(self, model: nn.Module, path: str, call: int, x: Tensor) -> None:
        self._sides = _Sides(model, path, call, len(x))
        self._sides.watch(model, x)
        self._flow = Flow()
        self._image = blank(x, len(x))
        self._stubs: list[Stub] = []
        entry = Entry(self._flow, path, model.get_submodule(path), call)
        # What `copy.deepcopy` takes in the place of what it finds, by identity.
        self._memo: dict[int, Any] = {id(entry.original): entry}
        self._copied: list[nn.Module] = []
        before, behind = self._sides.used
        behind.update(map(id, _tensors(entry.original)))
        if path in self._sides.outputs:
            before.update(map(id, _tensors(entry.original)))
        self._sort("", model)
        tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        tensors |= dict(model.named_buffers(remove_duplicate=False))
        self.both = [name for name, tensor in tensors.items() if id(tensor) in before & behind]
        self.live = frozenset(n for n, tensor in tensors.items() if id(tensor) not in before)
        if not self.both:
            for tensor in tensors.values():
                self._memo[id(tensor)] = tensor
            self._copy = copy.deepcopy(model, self._memo)

    def run(self, features: Tensor) -> Any:
        """Return the model's output for `features` [b, ...]."""
        for module in self._copied:
            twin = self._memo[id(module)].__dict__
            # Moving a model gives it other buffers.
            for kind in ("_parameters", "_buffers"):
                twin[kind].update(module.__dict__[kind])
            twin["training"] = module.training
        if features.device != self._image.device:
            self._move(features.device)
        self._flow.start(features)
        return self._copy(self._image)

    def _move(self, device: torch.device) -> None:
        self._image = self._image.to(device)
        for stub in self._stubs:
            stub.__dict__["outputs"] = moved(stub.outputs, device)

    def _sort(self, path: str, module: nn.Module) -> bool:
        """Decide what stands in the place of a module; return whether it is itself."""
        if id(module) in self._memo:
            return self._memo[id(module)] is module
        sides, opened = self._sides, path in self._sides.opened
        before, behind = path in sides.outputs, path in sides.behind
        if (before or behind) and not opened:
            for side, called in zip(sides.used, (before, behind), strict=True):
                side.update(map(id, _tensors(module) if called else ()))
            self._memo[id(module)] = module
            if not behind:
                self._stubs.append(Stub(self._flow, path, module, sides.outputs[path]))
                self._memo[id(module)] = self._stubs[-1]
            return behind
        children = [
            self._sort(f"{path}.{name}".lstrip("."), child)
            for name, child in module.named_children()
        ]
        if all(children) and not opened:
            self._memo[id(module)] = module
            return True
        self._copied.append(module)
        return False


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class _Sides(TorchFunctionMode):
    """What a pass does before a call of a module, and what behind it.

    Attributes:
        outputs: Path to what its calls returned, of those that returned before.
        opened: Paths of the modules that were called before and had not returned.
        behind: Paths of the modules that were called behind.
        used: Ids of the tensors that containers took by themselves, before and behind.
    """

    def __init__(self, model: nn.Module, path: str, call: int, images: int) -> None:
        super().__init__()
        self.outputs: dict[str, list[Any]] = {}
        self.opened: set[str] = set()
        self.behind: set[str] = set()
        self.used: tuple[set[int], set[int]] = (set(), set())
        self._path, self._left, self._images = path, call, images
        self._reached = False
        self._running: list[str] = []
        self._known = {
            id(tensor) for module in model.modules() for _, tensor in own_tensors(module)
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        self.used[self._reached].update(found & self._known)
        return func(*args, **(kwargs or {}))

    def watch(self, model: nn.Module, x: Tensor) -> None:
        """Run `model` on `x` in its modes, and leave it as it was."""
        with ExitStack() as stack:
            for path, module in model.named_modules():
                before = module.register_forward_pre_hook(lambda *_, path=path: self._enter(path))
                after = module.register_forward_hook(lambda *a, path=path: self._leave(path, a[2]))
                stack.callback(before.remove)
                stack.callback(after.remove)
            stack.enter_context(same_buffers(model))
            stack.enter_context(fixed_noise(x.device))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self)
            model(x)

    def _enter(self, path: str) -> None:
        if path == self._path and not self._reached:
            if self._left == 0:
                self._reached = True
                self.opened.update(self._running)
            self._left -= 1
        if self._reached:
            self.behind.add(path)
        self._running.append(path)

    def _leave(self, path: str, output: Any) -> None:
        self._running.pop()
        if not self._reached:
            self.outputs.setdefault(path, []).append(blank(output, self._images))
