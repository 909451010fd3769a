"""What features.py compares with: the same nets and images in Lightning, torch and scikit-learn.

All of them get finished tensors; decoding, cutting and normalizing is not in their times.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plain
import torch
from pytorch_lightning.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from warmstart.data.batches import EvalBatches
from warmstart.data.preprocess import Preprocess

Ready = tuple[Tensor, Tensor]
EVALUATED = 256  # images in a batch of an evaluation
# What the callback does by itself: it trains the backbone from this epoch on.
UNFREEZES_AT = 10


def ready_images(run: Any, place: Any) -> dict[str, Ready]:
    """Return the finished images and labels of each split of a run."""
    preprocess = Preprocess(run.input, augment=None, channels_last=False)
    splits = {"train": run.images.train, "val": run.images.val, "test": run.images.test.open(place)}
    found = {}
    for name, split in splits.items():
        batches = EvalBatches(split)
        parts = [batches[index] for index in range(len(batches))]
        images = torch.cat([preprocess(pixels, none, train=False) for pixels, _, none in parts])
        found[name] = images, torch.cat([labels for _, labels, _ in parts])
    return found


def batches(part: Ready, *, size: int, count: int, seed: int = 0) -> list[Ready]:
    """Return `count` batches of random passes over images or features."""
    generator = torch.Generator().manual_seed(seed)
    passes = -(-count * size // len(part[1]))
    order = torch.cat([torch.randperm(len(part[1]), generator=generator) for _ in range(passes)])
    return [(part[0][rows], part[1][rows]) for rows in order[: count * size].split(size)]


def in_order(part: Ready) -> list[Ready]:
    """Return the batches of an evaluation."""
    return list(zip(part[0].split(EVALUATED), part[1].split(EVALUATED), strict=True))


def forward(model: nn.Module, parts: Sequence[Ready]) -> Tensor:
    """Return what a model makes of all images, in batches and without a graph."""
    with torch.inference_mode():
        found = [model(images) for part in parts for images, _ in in_order(part)]
    return torch.cat(found)


class Frozen(plain.Bare):
    """A backbone whose layers are frozen as they should be: no gradient, BatchNorm in eval mode."""

    def __init__(self, backbone: nn.Module, head: nn.Module, stamps: list[float]) -> None:
        super().__init__(nn.Sequential(backbone, head), [])
        self.head = head
        self.epochs = stamps
        backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.model[0].eval()
        return self

    def on_train_epoch_start(self) -> None:
        self.epochs.append(time.process_time())

    def on_train_end(self) -> None:
        self.epochs.append(time.process_time())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.head.parameters(), lr=0.1, momentum=0.9, fused=True)


class WithCallback(plain.Bare):
    """A backbone and a head as Lightning's `BackboneFinetuning` wants them."""

    def __init__(self, backbone: nn.Module, head: nn.Module, stamps: list[float]) -> None:
        super().__init__(nn.Identity(), [])
        self.backbone, self.head = backbone, head
        self.epochs = stamps
        self.model.forward = lambda images: head(backbone(images))  # type: ignore[method-assign]

    on_train_epoch_start = Frozen.on_train_epoch_start
    on_train_end = Frozen.on_train_end

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [one for one in self.parameters() if one.requires_grad]
        return torch.optim.SGD(trained, lr=0.1, momentum=0.9)


def epoch_frozen(backbone: nn.Module, head: nn.Module, train: Sequence[Ready]) -> float:
    """Return the CPU-seconds of an epoch of Lightning over a frozen backbone."""
    stamps: list[float] = []
    plain.trainer(max_epochs=1).fit(Frozen(backbone, head, stamps), plain.loader(train))
    return stamps[1] - stamps[0]


def epochs_with_callback(
    backbone: nn.Module, head: nn.Module, train: Sequence[Ready]
) -> tuple[float, float]:
    """Return those of an epoch before and of one after the callback has unfrozen the backbone."""
    stamps: list[float] = []
    callback = BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    module = WithCallback(backbone, head, stamps)
    plain.trainer(max_epochs=2, callbacks=[callback]).fit(module, plain.loader(train))
    return stamps[1] - stamps[0], stamps[2] - stamps[1]


def torch_probe(
    part: Ready, order: Tensor, *, classes: int = 10, rate: float = 0.1, decay: float = 0.0
) -> nn.Linear:
    """Return a linear head trained in plain torch on ready features.

    Args:
        part: Features [n, d] and labels.
        order: The rows of each step's batch, int64 [steps, b].
        classes: Their number.
        rate: Of SGD with a momentum of 0.9.
        decay: Of the weight.
    """
    head = nn.Linear(part[0].shape[1], classes)
    decayed = [{"params": head.weight, "weight_decay": decay}, {"params": head.bias}]
    optimizer = torch.optim.SGD(decayed, lr=rate, momentum=0.9, fused=True)
    for rows in order:
        optimizer.zero_grad()
        images, labels = (tensor.index_select(0, rows) for tensor in part)
        cross_entropy(head(images), labels).backward()
        optimizer.step()
    return head


def sklearn_probe(part: Ready, *, strength: float) -> Any:
    """Return scikit-learn's logistic regression on ready features."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        found = LogisticRegression(C=strength, max_iter=100)
        return found.fit(np.asarray(part[0]), np.asarray(part[1]))


def shaped(found: Mapping[str, Ready]) -> str:
    """Return how many images there are of each split."""
    return ", ".join(f"{len(labels):,} {name}" for name, (_, labels) in found.items())
