"""A net of three layer groups with BatchNorm, and a fit of it as a run does it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from warmstart.data.batches import TrainBatches, eval_loader, train_loader
from warmstart.data.preprocess import Preprocess
from warmstart.models.architecture import Input
from warmstart.task import Classification
from warmstart.trainer import Hardware

LAYOUT = {"stem": ["stem"], "body": ["body"], "head": ["head"]}


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()),
            body=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
            average=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(4, 3),
        )
    )
    for norm in (model.stem[1], model.body[1]):  # as if loaded
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


def fit(model, callbacks, make_split, *, optimizer, steps, first=0, optimizer_state=None):
    """Train from step `first` to `steps`, with a validation after every third step."""
    task = Classification(
        model,
        Preprocess(Input(8, 1, (0.5,), (0.25,)), augment=None, channels_last=False),
        optimizer=optimizer,
        seed=0,
        classes=3,
        first_step=first,
        optimizer_state=optimizer_state,
    )
    trainer = Hardware(accelerator="cpu").trainer(
        steps=steps - first, val_every=3, callbacks=callbacks
    )
    batches = TrainBatches(make_split(12), batch_size=5, seed=0)
    loader = train_loader(batches, first=first, steps=steps, workers=0)
    trainer.fit(task, loader, eval_loader(make_split(6, seed=1), workers=0))
