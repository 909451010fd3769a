"""What reaches the head of a run from stored features: in training steps, and in validations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from warmstart.features.batches import EvalFeatures
from warmstart.models.cuts import Cut, Tail
from warmstart.optim.samples import Batch
from warmstart.randomness import derive
from warmstart.run.stages import Ready
from warmstart.task import seed_noise


class Reach:
    """The way from stored features to the head.

    Args:
        ready: A run; its model's modes change.
        path: Of the head.

    Attributes:
        cut: Where the features are.
        device: Of the model.
    """

    def __init__(self, ready: Ready, path: str) -> None:
        run = ready.run
        self.cut, self._tail = stored_at(ready)
        self.device = next(ready.model.parameters()).device
        self._model, self._path = ready.model, path
        self._phases = run.phase_schedule(ready.fitted.groups)
        self._pieces = run.config["accumulate"]
        self._mixed = run.hardware.precision == "bf16-mixed"
        self._direct = self.cut.module == path
        self._trains: bool | None = None

    def __call__(self, features: Tensor) -> Tensor:
        """Return what the head is given, float32, in the modes that the model is in."""
        features = features.to(self.device)
        if self._direct:
            return features.float()
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._mixed):
            return self._tail.until(self._path, features).float()

    def training(self, features: Tensor, seed: int) -> Tensor:
        """Return it for a training step, whose noise follows from `seed`."""
        if self._direct:
            return self(features)
        if self._trains is not True:
            self._phases.apply(self._model, 0)
            self._trains = True
        seed_noise(seed, self.device)
        # As micro-batches would: noise is drawn for one after the other.
        return torch.cat([self(piece) for piece in features.tensor_split(self._pieces)])

    def evaluating(self, features: Tensor) -> Tensor:
        """Return it for a validation."""
        if not self._direct and self._trains is not False:
            self._model.eval()
            self._trains = False
        return self(features)


def batches(ready: Ready, reach: Reach) -> Callable[[int], Batch]:
    """Return what returns a run's batch of a step as it reaches the head."""
    train, _ = ready.shortcuts.stored(reach.cut)
    seed = ready.run.config["seed"]

    def batch(step: int) -> Batch:
        features, labels, _ = train[step]
        x = reach.training(features, derive(seed, "step", step))
        return x, labels.to(reach.device)

    return batch


def validation(reach: Reach, val: EvalFeatures) -> Iterator[Batch]:
    """Yield the batches of a validation as they reach the head."""
    for index in range(len(val)):
        features, labels, _ = val[index]
        yield reach.evaluating(features), labels.to(reach.device)


def stored_at(ready: Ready) -> tuple[Cut, Tail]:
    """Return where a run's features are, and what comes behind them."""
    decision = ready.fitted.decisions[0]
    assert decision.cut is not None
    assert decision.tail is not None
    return decision.cut, decision.tail
