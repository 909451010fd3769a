"""A model cut in two: what comes before a place in its forward pass, and the tail behind it.

A **cut** is a place just before a call of one of the model's modules. What that module is given is
the **feature** of an image. Where nothing before a cut changes, features need to be computed once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from warmstart.models.activations import fixed_noise, same_buffers, same_modes
from warmstart.models.layers import LayerGroup
from warmstart.models.places import Place, record
from warmstart.models.splitting import Split


class NoCut(Exception):  # noqa: N818 - nothing is wrong
    """The model cannot be cut there.

    Attributes:
        reason: Why, as a clause.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Cut:
    """A place in a model's forward pass.

    Attributes:
        module: Path of the module before whose call it is.
        call: Which of its calls in one pass, 0 first.
        shape: Of the feature of one image.
    """

    module: str
    call: int
    shape: tuple[int, ...]


def group_cut(model: nn.Module, groups: Sequence[LayerGroup], index: int, x: Tensor) -> Cut:
    """Return the cut where the output of a layer group reaches the next one, in eval mode.

    For the group before the head it is the head's input.

    Args:
        model: Any model.
        groups: Its layer groups.
        index: Of the group.
        x: A few preprocessed images [b, c, h, w] on the model's device.

    Raises:
        ValueError: `index` is that of the head or of no group.
        NoCut: What the next group is given is not one tensor, with a row for each image.
    """
    if not 0 <= index < len(groups) - 1:
        raise ValueError(f"group {index} of {len(groups)} is followed by no other")
    with same_modes(model):
        places = record(model.eval(), x).places
    first = _first_call(model, groups[index + 1 :], places)
    return _cut(places, places[first], len(x))


def frozen_cut(model: nn.Module, groups: Sequence[LayerGroup], trains: int, x: Tensor) -> Cut:
    """Return the latest cut before which nothing trains and no random number is drawn.

    The model is looked at in the modes that it is in, with what is frozen in it frozen.

    Args:
        model: In the modes of a training step.
        groups: Its layer groups.
        trains: How many of them train, counted from the head.
        x: A few preprocessed images [b, c, h, w] on the model's device, which is not ``meta``.

    Raises:
        NoCut: There is none.
    """
    top = groups[len(groups) - trains :]
    trained = [parameter for group in top for parameter in group.parameters.values()]
    found = record(model, x)
    end = _first_call(model, top, found.places)
    fixed = [place for place in found.places[: end + 1] if not place.random]
    for place in reversed(fixed):
        value = place.value
        if value is None or value == found.images or place.shape[:1] != (len(x),):
            continue
        if found.passes_through(value) and not found.depends(value, trained):
            return _cut(fixed, place, len(x))
    if len(fixed) <= end:
        raise NoCut("random numbers are drawn from the first layers on")
    raise NoCut("no single tensor leads from the frozen layers to those that train")


def _first_call(model: nn.Module, groups: Sequence[LayerGroup], places: Sequence[Place]) -> int:
    """Return which place is the first call of a module in `groups`."""
    parts = {part for group in groups for module in group.modules for part in module.modules()}
    paths = {path for path, module in model.named_modules() if module in parts}
    for number, place in enumerate(places):
        if place.module in paths:
            return number
    raise NoCut(f"no layer of the groups from {groups[0].name} on is called")


def _cut(places: Iterable[Place], place: Place, images: int) -> Cut:
    """Return the cut before the first call that does something with the tensor at `place`."""
    if place.tensors != 1:
        raise NoCut(f"{place.tensors or 'no'} tensors are passed on to {place.module}, not one")
    if place.value is None or place.shape[:1] != (images,):
        raise NoCut(f"what is passed on to {place.module} has no row for each image")
    same = [other for other in places if other.value == place.value]
    first = next((other for other in same if not other.idle), place)
    return Cut(first.module, first.call, first.shape[1:])


class _Reached(Exception):  # noqa: N818 - the way out of a pass
    """The place that was asked for is reached."""


@contextlib.contextmanager
def _stopped_at(module: nn.Module, call: int = 0) -> Iterator[list[Tensor]]:
    """End a pass at a call of `module`; into the list that is yielded goes what it is given."""
    found: list[Tensor] = []
    reached, calls = _Reached(), 0

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > call:
            found.extend(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            raise reached

    hook = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield found
    except _Reached as error:
        if error is not reached:  # a pass within a pass: the way out of the outer one
            raise
    finally:
        hook.remove()


def activations(model: nn.Module, cut: Cut, x: Tensor) -> Tensor:
    """Return the features [b, *cut.shape] of images, in the modes that the model is in.

    The model runs up to the cut and no further.

    Args:
        model: Any model.
        cut: As `group_cut` or `frozen_cut` returned it for the model.
        x: Preprocessed images [b, c, h, w] on the model's device.
    """
    with _stopped_at(model.get_submodule(cut.module), cut.call) as found:
        model(x)
    if not found:
        raise NoCut(f"{cut.module} is not called")
    return found[0]


class Tail:
    """What comes behind a cut, as a function from features to the model's output.

    The modules there are the model's own: a mode, a weight or a device that changes in the model
    changes here. Hooks of containers that reach across the cut do not run.

    Args:
        model: In the modes that the tail is to be used in.
        cut: As `group_cut` or `frozen_cut` returned it for the model.
        x: Two or more preprocessed images on the model's device.

    Raises:
        NoCut: In eval mode or in the present modes, the tail does not give what the model gives for
            `x`, bit for bit; or the features are others than in eval mode, beyond rounding.
    """

    def __init__(self, model: nn.Module, cut: Cut, x: Tensor) -> None:
        self._model, self._cut = model, cut
        self._in_place = False
        try:
            self._split = Split(model, cut.module, cut.call, x)
            if self._split.both:
                raise NoCut(f"{self._split.both[0]} works before {cut.module} and behind it too")
            with same_modes(model):
                model.eval()
                self._check(x[:1])
            self._check(x)
        except NoCut:
            raise
        except Exception as error:  # the model's own code, which may fail in any way
            kind = type(error).__name__
            raise NoCut(f"the layers from {cut.module} on cannot run alone ({kind})") from error

    def __call__(self, features: Tensor) -> Any:
        """Return the model's output for features [b, *cut.shape]."""
        return self._split.run(features.clone() if self._in_place else features)

    @property
    def live(self) -> frozenset[str]:
        """Names of the parameters and buffers that the features do not depend on."""
        return self._split.live

    def until(self, path: str, features: Tensor) -> Tensor:
        """Run up to the first call of the module at `path`, and return the tensor it is given."""
        with _stopped_at(self._model.get_submodule(path)) as found:
            self(features)
        return found[0]

    def _check(self, x: Tensor) -> None:
        """Hold the tail against the model for images, in the modes that the model is in."""
        model, cut = self._model, self._cut
        wanted = _still(model, x, lambda: model(x))
        if not all(bool(leaf.isfinite().all()) for leaf in tree_leaves(wanted)):
            raise NoCut("what the model puts out is not finite")
        [here], _ = _still(model, x, lambda: activations(model, cut, x))
        with same_modes(model):
            model.eval()
            [features], _ = _still(model, x, lambda: activations(model, cut, x))
        if _distance(here, features) > torch.finfo(features.dtype).eps ** 0.5:
            raise NoCut(f"the layers before {cut.module} do not work as in evaluation")
        given = here.clone()
        if not _equal(_still(model, x, lambda: self(given)), wanted):
            raise NoCut(f"more than what {cut.module} is given is passed on there")
        self._in_place |= not _equal(given, here)


def _still(
    model: nn.Module, x: Tensor, work: Callable[[], Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that `work` returns and the buffers that it leaves, and undo the latter.

    The noise is the same each time.
    """
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True)
    with torch.no_grad(), exact, same_buffers(model), fixed_noise(x.device):
        found = [leaf for leaf in tree_leaves(work()) if isinstance(leaf, Tensor)]
        return found, [buffer.clone() for buffer in model.buffers()]


def _equal(one: Any, two: Any) -> bool:
    """Return whether the tensors in both are the same, bit for bit."""
    pairs = list(zip(tree_leaves(one), tree_leaves(two), strict=True))
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _distance(one: Tensor, two: Tensor) -> float:
    """Return how far two tensors are apart, relative to the size of the second."""
    difference = torch.linalg.vector_norm((one - two).double())
    return float(difference / torch.linalg.vector_norm(two.double()).clamp(min=1e-300))
