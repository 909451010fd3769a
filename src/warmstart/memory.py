"""The memory that a run takes on its device, measured on tensors with shapes and no content."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from warmstart.callbacks.phases import PhaseSchedule
from warmstart.callbacks.watch import look_interval
from warmstart.data.batches import eval_batch
from warmstart.models.layers import LayerGroup, layer_groups
from warmstart.run.plan import Run
from warmstart.strategies.phases import Phase


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on the device.

    What an operation allocates and frees within itself (workspaces) is not in it, nor what the
    device's own library takes.

    Attributes:
        model: Parameters and buffers.
        optimizer: What the optimizer keeps of every parameter that ever trains, or of all.
        copies: Of the weights: their average, what L2-SP pulls towards, what looks compare with.
        training_step: The most that a training step holds at once: the batch, activations for the
            backward pass, gradients.
        validation_step: Likewise for a batch of validation, which has no backward pass.
    """

    model: int
    optimizer: int
    copies: int
    training_step: int
    validation_step: int

    @property
    def total(self) -> int:
        steps = max(self.training_step, self.validation_step)
        return self.model + self.optimizer + self.copies + steps


def estimate(
    run: Run,
    model: nn.Module,
    *,
    schedule: Callable[[list[LayerGroup]], PhaseSchedule],
    optimizer: Callable[[Sequence[LayerGroup]], torch.optim.Optimizer],
) -> Memory:
    """Return what `run` takes on each of its devices, in float32, in the phase that takes most.

    Args:
        run: Whose batches and phases count.
        model: Its model, on ``meta``; its modes and what of it is frozen change.
        schedule: Returns the run's callback for the model's groups.
        optimizer: Likewise.

    Raises:
        RuntimeError: As in `training_step_bytes`.
    """
    phases = schedule(layer_groups(model, run.architecture.layout))
    image = (run.input.channels, *run.images.size)
    steps, trained = [0], list[nn.Parameter]()
    images = run.config["batch_size"] // run.hardware.devices
    for phase in _largest(run.phases) if run.steps else []:
        phases.apply(model, phase.start)
        steps.append(training_step_bytes(model, (images, *image)))
        trains = [parameter for parameter in model.parameters() if parameter.requires_grad]
        trained = max(trained, trains, key=len)
    views = len(run.crops) if run.crops else 1
    most = max(len(run.images.val), len(run.images.test))
    batch = views * min(eval_batch(*run.images.size, views=views), most)
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return Memory(
        model=size,
        optimizer=optimizer_bytes(optimizer, trained, model.parameters()) if run.steps else 0,
        copies=_copies(run, model, trained),
        training_step=max(steps),
        validation_step=validation_step_bytes(model, (batch, *image)),
    )


def _copies(run: Run, model: nn.Module, trained: Sequence[Tensor]) -> int:
    averaged = (*model.parameters(), *model.buffers()) if run.keeping.average is not None else ()
    # What is not from pretrained weights is not pulled: little more than the head.
    pulled = model.parameters() if run.regularization.l2_sp else ()
    # As they were before the first step, and before the step that is looked at.
    watched = (
        (*trained, *trained) if look_interval(run.steps, run.config["watch_every_steps"]) else ()
    )
    return sum(tensor.nbytes for tensor in (*averaged, *pulled, *watched))


def _largest(phases: Sequence[Phase]) -> list[Phase]:
    """Return of each BatchNorm mode the phase that trains most: the others keep less."""
    by_groups = sorted(phases, key=lambda phase: phase.groups)
    return list({phase.batchnorm: phase for phase in by_groups}.values())


def training_step_bytes(model: nn.Module, shape: Sequence[int]) -> int:
    """Return the most that forward and backward pass hold at once beyond the model itself.

    Args:
        model: Frozen and in the modes of the step; on ``meta`` nothing is computed. Its gradients
            are None before and after.
        shape: Of the batch, [b, c, h, w].

    Raises:
        RuntimeError: The model cannot run on its device, here: its path depends on the numbers.
    """

    def step() -> None:
        images, labels = _batch(model, shape)
        # All classifiers count alike here: a factor on a loss takes no memory.
        outputs = [leaf for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor)]
        losses = [F.cross_entropy(logits, labels) for logits in outputs]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]

    try:
        return peak_bytes(step, outside=[*model.parameters(), *model.buffers()])
    finally:
        for parameter in model.parameters():
            parameter.grad = None


def validation_step_bytes(model: nn.Module, shape: Sequence[int]) -> int:
    """Return the most that a forward pass in eval mode holds at once beyond the model itself.

    Args:
        model: Left in eval mode.
        shape: Of the batch, [b, c, h, w].

    Raises:
        RuntimeError: As in `training_step_bytes`.
    """
    model.eval()
    with torch.no_grad():
        return peak_bytes(
            lambda: model(_batch(model, shape)[0]),
            outside=[*model.parameters(), *model.buffers()],
        )


def peak_bytes(work: Callable[[], Any], *, outside: Iterable[Tensor]) -> int:
    """Return the most bytes that tensors made by `work` occupy at any one time.

    Args:
        work: Is called once.
        outside: Tensors that do not count, though `work` makes views of them.
    """
    tracker = _Tracker(outside)
    with tracker:
        work()
    return tracker.most


def optimizer_bytes(
    make: Callable[[Sequence[LayerGroup]], torch.optim.Optimizer],
    trained: Iterable[Tensor],
    parameters: Iterable[Tensor],
) -> int:
    """Return what an optimizer keeps of a model, known from one step on a tiny parameter.

    Args:
        make: Returns the optimizer over layer groups.
        trained: The parameters that it updates.
        parameters: All that it was given.
    """
    probe = nn.Parameter(torch.zeros(2, 3))
    optimizer = make([LayerGroup(0, "probe", (), {"probe": probe}, {})])
    # Adagrad makes its sums before it knows who trains.
    holders = parameters if optimizer.state[probe] else trained
    probe.grad = torch.zeros_like(probe)
    optimizer.step()
    kept = [value for value in optimizer.state[probe].values() if isinstance(value, Tensor)]
    copies = sum(value.shape == probe.shape for value in kept)
    rest = sum(int(value.nbytes) for value in kept if value.shape != probe.shape)
    return sum(copies * int(parameter.nbytes) + rest for parameter in holders)


def _batch(model: nn.Module, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    images = torch.zeros(*shape, device=device)
    return images, torch.zeros(shape[0], dtype=torch.int64, device=device)


class _Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of all tensors that appear, until nobody holds them any more."""

    def __init__(self, outside: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known = {_address(tensor) for tensor in outside}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _address(leaf) not in self._known:
                self._add(leaf)
        self.most = max(self.most, self.now)
        return result

    def _add(self, tensor: Tensor) -> None:
        # By storage: views and results in place take no memory of their own.
        storage = tensor.untyped_storage()
        address, size = _address(tensor), storage.nbytes()
        self._known.add(address)
        self.now += size
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
