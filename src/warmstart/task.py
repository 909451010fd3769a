"""The LightningModule: classification of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from warmstart.data.batches import Batch
from warmstart.data.preprocess import Preprocess
from warmstart.optim.penalties import GradientRegularizer
from warmstart.randomness import derive
from warmstart.ranks import ALONE, Ranks

# From images [b, c, h, w], labels int64 [b] and the number of classes to mixed images and the
# mass of each class in them, float32 [b, classes].
Mix = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]

# From its input to logits [b, classes], or these with those of auxiliary classifiers.
Net = Callable[[Tensor], Any]

# From a step, or None for the final evaluation, to the part of the model that takes the batches of
# that time, as they hold stored features; None where they hold pixels, for the whole model.
TailAt = Callable[[int | None], Net | None]


def no_tail(step: int | None) -> None:
    """Let the whole model take every batch."""


class Classification(pl.LightningModule):
    """Cross-entropy training of a classifier.

    With class weights w, the loss of a batch is the mean over its samples of
    ``-sum_c w[c] y[c] log p[c]``, where y is the target (one class, or the mass of each in a mixed
    image) and p what the model predicts. It is not divided by the weights in the batch: a rare
    class counts alike whatever else the batch holds. The loss of validation has no weights.

    Sums of the loss and of right answers are kept in tensors; the recorder reads them every few
    steps, since a value logged at each step would cost more than a step of a small net.

    Args:
        model: Maps [b, c, h, w] to logits [b, classes].
        preprocess: From stored pixels to the model's input.
        optimizer: Makes the optimizer over all layer groups.
        seed: The run's seed.
        classes: Their number.
        mix: Mixes the images of a training batch, and their labels; None leaves them.
        class_weights: float32 [classes], as `class_weights` returns them; None for ones.
        auxiliary_weight: Factor on the loss of each auxiliary classifier; 0 leaves them out.
        label_smoothing: Share of each target that is spread over all classes, in training.
        gradients: Changes the gradients before the optimizer's step; None leaves them.
        tail_at: What takes the batches of a step, and of the validation after it.
        accumulate: Micro-batches into which the batch of a step is cut: their gradients add up to
            the whole batch's, with the memory of one. BatchNorm normalizes each by itself, and
            dropout draws for one after the other.
        ranks: This process among those of the run, which gets its part of every batch; each draws
            noise of its own.
        first_step: Where a resumed run continues.
        optimizer_state: For a resumed run.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        optimizer: Callable[[], torch.optim.Optimizer],
        seed: int,
        classes: int,
        mix: Mix | None = None,
        class_weights: Tensor | None = None,
        auxiliary_weight: float = 0.0,
        label_smoothing: float = 0.0,
        gradients: GradientRegularizer | None = None,
        tail_at: TailAt = no_tail,
        accumulate: int = 1,
        ranks: Ranks = ALONE,
        first_step: int = 0,
        optimizer_state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.preprocess = preprocess
        self.seed = seed
        self.classes = classes
        self.mix = mix
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.auxiliary_weight = auxiliary_weight
        self.label_smoothing = label_smoothing
        self.gradients = gradients
        self.accumulate = accumulate
        self.first_step = first_step
        self.last_step = max(0, first_step - 1)
        self.train_sums = torch.zeros(3)
        self.val_sums = torch.zeros(3)
        # In place of the forward pass of a step that is looked at.
        self.look: Callable[[Net, Tensor], Any] | None = None
        self._own = () if ranks.world == 1 else (ranks.rank,)
        self._tail_at = tail_at
        self._make_optimizer = optimizer
        self._optimizer_state = optimizer_state

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook some 44 times a step. Module's way to set an attribute
        # looks for parameters and modules first: 53 microseconds a step, against 5 this way.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self._make_optimizer()
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
        return optimizer

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer
    ) -> None:
        # What the optimizer's own does, without a record for profilers at every step. Lightning
        # calls it after `training_step`, which by then holds the gradients of micro-batches.
        if self.accumulate > 1:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def on_fit_start(self) -> None:
        self.train_sums = self.train_sums.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # All noise draws from here: a function of the seed and the step. The mix comes before the
        # model, so that it is the same whatever the model draws for its dropout.
        self.last_step = self.first_step + batch_idx
        seed_noise(derive(self.seed, "step", self.last_step, *self._own), self.device)
        net, x = self._way(batch, self.last_step, train=True)
        targets = batch[1]
        if self.mix is not None:
            x, targets = self.mix(x, targets, self.classes)
        if self.accumulate == 1:
            return self._loss(net, x, targets)
        return self._accumulated(net, x, targets)

    def _way(self, batch: Batch, step: int | None, *, train: bool) -> tuple[Net, Tensor]:
        """Return what the images of a batch go through, and in which form; see `TailAt`."""
        given, _, uniforms = batch
        tail = self._tail_at(step)
        if tail is not None:
            return tail, given
        return self.model, self.preprocess(given, uniforms, train=train)

    def _accumulated(self, net: Net, x: Tensor, targets: Tensor) -> Tensor:
        """Return the last micro-batch's part of the loss; the others' gradients are in place."""
        for parameter in self.model.parameters():
            parameter.grad = None
        *first, last = zip(
            x.tensor_split(self.accumulate), targets.tensor_split(self.accumulate), strict=True
        )
        for micro, labels in first:
            loss = self._loss(net, micro, labels) * (len(micro) / len(x))
            with torch.autocast(self.device.type, enabled=False):  # it is for the forward pass
                loss.backward()  # type: ignore[no-untyped-call]
        return self._loss(net, *last) * (len(last[0]) / len(x))

    def _loss(self, net: Net, x: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of some images, and count them."""
        output = net(x) if self.look is None else self.look(net, x)
        logits, *auxiliary = (output,) if isinstance(output, Tensor) else output
        loss = self._cross_entropy(logits, targets)
        _add(self.train_sums, loss.detach(), logits.detach(), targets)
        if self.auxiliary_weight:
            for other in auxiliary:
                if other is not None:
                    loss = loss + self.auxiliary_weight * self._cross_entropy(other, targets)
        return loss

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights, smoothing = self.class_weights, self.label_smoothing
        if weights is None or targets.is_floating_point():
            return F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
        # The mean of torch divides by the samples for masses, but by their weights for labels.
        total = F.cross_entropy(
            logits, targets, weight=weights, reduction="sum", label_smoothing=smoothing
        )
        return total / len(targets)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.gradients is not None:
            self.gradients.penalize()

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, *of_the_trainer: Any, **options: Any
    ) -> None:
        # Lightning calls it after the hook above: what is clipped holds the penalties.
        if self.gradients is not None:
            self.gradients.clip()

    def on_validation_epoch_start(self) -> None:
        self.val_sums = torch.zeros(3, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        net, x = self._way(batch, self.last_step, train=False)
        logits, labels = net(x), batch[1]
        _add(self.val_sums, F.cross_entropy(logits, labels), logits, labels)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        net, x = self._way(batch, None, train=False)
        logits: Tensor = net(x)
        return logits.float().cpu()


def means(sums: Tensor) -> dict[str, float]:
    """Return loss and accuracy as means over samples, from the sums of a task."""
    loss, right, count = sums.tolist()
    return {"loss": loss / count, "accuracy": right / count}


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """Return the weights with which all classes count the same in the loss: float32 [classes].

    The weight of a class is n / (classes * its images), so that the mean over all n images is 1
    and the loss keeps its scale.

    Args:
        labels: int64 [n] of the training images, every class among them.
        classes: Their number.
    """
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * counts)).float()


def _add(sums: Tensor, mean_loss: Tensor, logits: Tensor, targets: Tensor) -> None:
    count, predicted = len(targets), logits.argmax(dim=1)
    if targets.is_floating_point():
        # How often the prediction would be right, were the label drawn from the target.
        right = targets.gather(1, predicted[:, None]).sum()
    else:
        right = (predicted == targets).sum()
    sums += torch.stack((mean_loss.float() * count, right, torch.full_like(right, count)))


def seed_noise(seed: int, device: torch.device) -> None:
    """Let the generator of a device, and torch's own, draw what follows from `seed`."""
    # Not torch.manual_seed, which visits every device there could be at every call.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        torch.cuda.default_generators[index].manual_seed(seed)
