"""Short trainings from the initialization, with the pieces of the run itself."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import StochasticDepth

from warmstart import configs
from warmstart.callbacks.phases import PhaseSchedule
from warmstart.check.measured import Broken, Trial
from warmstart.data.batches import Batch, loader, train_loader
from warmstart.models.layers import LayerGroup
from warmstart.models.regularized import is_drop_path
from warmstart.optim.schedules import Schedule
from warmstart.run.feed import train_batches
from warmstart.run.fit import task_of
from warmstart.run.out_of_memory import OutOfMemory, is_out_of_memory
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare
from warmstart.run.regularizing import gradients_of
from warmstart.strategies.phases import Phase
from warmstart.task import Classification, means, no_tail
from warmstart.trainer import Hardware
from warmstart.untrained import untrained_model

Stop = Callable[[Sequence[float], Sequence[float]], bool]
"""From the losses and accuracies of the steps so far to whether to stop."""


def without_regularization(config: Mapping[str, Any]) -> Run:
    """Return a run of the same images and weights without augmentation and regularization.

    What it leaves out makes training harder on purpose, so that a failure to fit says nothing.

    Args:
        config: Of a prepared run.
    """
    plain = configs.resolved(configs.compose(["augment=none", "regularization=none"]))
    optimizer = {**config["optimizer"], "weight_decay": 0.0}
    if "decoupled" in optimizer:
        optimizer["decoupled"] = False  # without a decay there is none to take out of the gradient
    target = f"{Hardware.__module__}.{Hardware.__qualname__}"  # which a run's config has no more
    changed = {
        "augment": plain["augment"],
        "regularization": plain["regularization"],
        "balance": "none",
        "features": {**config["features"], "views": None},
        "optimizer": optimizer,
        "trainer": {"_target_": target, **config["trainer"]},
    }
    return prepare({**config, **changed})


class Stage:
    """A run's model before step 0, from which any number of trials start.

    Args:
        run: Which.
        dropout: Leave the model's own dropout and stochastic depth on.
    """

    def __init__(self, run: Run, *, dropout: bool = True) -> None:
        self.run = run
        initial = untrained_model(run)
        self.model, self.groups = initial.model, initial.groups
        if not dropout:
            _without_dropout(self.model)
        self.batches = train_batches(run.config, run.images, run.augment)
        fresh = initial.as_dict().get("fresh", ())
        self._gradients = gradients_of(run.config, self.groups, fresh=fresh)
        self._before = {name: t.clone() for name, t in self.model.state_dict().items()}

    def restore(self) -> None:
        """Set the model back to step 0."""
        self.model.load_state_dict(self._before)
        self.model.train()

    def set_phase(self, phase: Phase) -> None:
        """Freeze, and set modes, as the first step of a phase does."""
        self._schedule(phase, lambda step: 1.0, lr=1.0).apply(self.model, 0)

    def train(
        self,
        phase: Phase,
        schedule: Schedule,
        *,
        lr: float,
        steps: int,
        only: int | None = None,
        stop: Stop = lambda losses, accuracies: False,
        progress: Callable[[int, int], None] = lambda done, steps: None,
    ) -> Trial:
        """Take steps from step 0, as the run would.

        Args:
            phase: Whose groups train, at its rates and in its BatchNorm modes.
            schedule: Factor on the base rate at each step.
            lr: The base rate.
            steps: At most.
            only: Take the first so many batches again and again; None takes those of the run.
            stop: Looks at each step.
            progress: Called with the finished steps and `steps`.

        Raises:
            OutOfMemory: More memory is needed than there is.
        """
        self.restore()
        run = self.run
        task = task_of(
            *(run, self.model, self._gradients, self.groups),
            *(no_tail, None, run.config["accumulate"]),
        )
        observer = _Observer(self.groups, schedule, lr, steps, stop, progress)
        callbacks = [self._schedule(phase, schedule, lr=lr), observer]
        trainer = run.hardware.trainer(steps=steps, val_every=steps, callbacks=callbacks)
        # There is no validation, which Lightning would remark on.
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        with _explained(run, observer):
            trainer.fit(task, self._loader(steps, only))
        return observer.trial()

    def _loader(self, steps: int, only: int | None) -> DataLoader[Batch]:
        if only is None:
            workers = self.run.hardware.loaders(busy=self.run.dataset.streamed)
            return train_loader(self.batches, first=0, steps=steps, workers=workers)
        kept = _Kept([self.batches[step] for step in range(only)])
        return loader(kept, workers=0, sampler=[step % only for step in range(steps)])

    def _schedule(self, phase: Phase, schedule: Schedule, *, lr: float) -> PhaseSchedule:
        return PhaseSchedule([dataclasses.replace(phase, start=0)], schedule, self.groups, lr=lr)


class _Kept(Dataset[Batch]):
    """A few batches, in memory."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __getitem__(self, index: int) -> Batch:
        return self._batches[index]


class _Observer(pl.Callback):
    """Note loss, accuracy and updates of every step; stop at a number that is none."""

    def __init__(
        self,
        groups: Sequence[LayerGroup],
        schedule: Schedule,
        lr: float,
        steps: int,
        stop: Stop,
        progress: Callable[[int, int], None],
    ) -> None:
        self.groups = groups
        self.steps = steps
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self._schedule, self._lr = schedule, lr
        self._stop, self._progress = stop, progress
        self._broken: Broken | None = None
        self._held: dict[str, list[Tensor]] = {}
        self._ratios: dict[str, list[float]] = {group.name: [] for group in groups}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        self._held = {
            group.name: [parameter.detach().clone() for parameter in _trained(group)]
            for group in self.groups
        }

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Classification)
        found = means(pl_module.train_sums)
        pl_module.train_sums.zero_()
        ratios = {group.name: self._ratio(group) for group in self.groups if _trained(group)}
        if not all(map(math.isfinite, (found["loss"], *ratios.values()))):
            self._broken = self._break(batch_idx, ratios)
            trainer.should_stop = True
            return
        for name, ratio in ratios.items():
            self._ratios[name].append(ratio)
        self.losses.append(found["loss"])
        self.accuracies.append(found["accuracy"])
        self._progress(len(self.losses), self.steps)
        trainer.should_stop = self._stop(self.losses, self.accuracies)

    def trial(self) -> Trial:
        """Return what was noted."""
        return Trial(
            [self._lr * self._schedule(step) for step in range(len(self.losses))],
            self.losses,
            self.accuracies,
            self._broken,
            {name: sum(r) / len(r) for name, r in self._ratios.items() if r},
        )

    def _ratio(self, group: LayerGroup) -> float:
        """Return |update| / |weights before it|; of weights that were all 0 there is none: 0."""
        pairs = list(zip(_trained(group), self._held[group.name], strict=True))
        size = math.sqrt(sum(float(old.square().sum()) for _, old in pairs))
        change = math.sqrt(sum(float((new.detach() - old).square().sum()) for new, old in pairs))
        return change / size if size or not math.isfinite(change) else 0.0

    def _break(self, step: int, now: dict[str, float]) -> Broken:
        before = {name: ratios[-1] for name, ratios in self._ratios.items() if ratios}
        # The update that broke it where one did; else the loss did, on the update before.
        wild = [name for name, ratio in now.items() if not math.isfinite(ratio)]
        among = {name: before.get(name, 0.0) for name in wild or now}
        group = max(among, key=among.__getitem__)
        return Broken(step, group, before.get(group), self._lr * self._schedule(step))


@contextlib.contextmanager
def _explained(run: Run, observer: _Observer) -> Iterator[None]:
    """Tell Ctrl-C and a lack of memory from what else may end a training."""
    try:
        yield
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit with code 1.
        raise KeyboardInterrupt from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        done = len(observer.losses)
        raise OutOfMemory(error, run.config, accumulated=0, step=done) from error


def _trained(group: LayerGroup) -> list[nn.Parameter]:
    return [p for p in group.parameters.values() if p.requires_grad]


def _without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (Dropout, StochasticDepth)):
            module.p = 0.0
        elif is_drop_path(module):
            module.drop_prob = 0.0  # type: ignore[assignment]
