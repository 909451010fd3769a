"""The model before step 0: its loss, what goes in, and what its layer groups put out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from warmstart.check.measured import Start
from warmstart.check.trials import Stage
from warmstart.models.activations import activation_statistics, fixed_noise, same_buffers

BATCHES = 4  # whose images say what the loss is
_IMAGES = 64  # that say what the groups put out, as in `warmstart plan`
_INFORMED = ("class_means", "copy")


def start(stage: Stage) -> Start:
    """Return what the model of a stage is before step 0, in the modes of its first phase.

    Args:
        stage: Of a run without augmentation and regularization.
    """
    run, model = stage.run, stage.model
    stage.restore()
    stage.set_phase(run.phases[0])
    device = torch.device("cuda" if run.hardware.device == "gpu" else "cpu")
    model.to(device)
    preprocess = run.preprocess(None).to(device)
    losses, images = list[Tensor](), list[Tensor]()
    with torch.no_grad(), same_buffers(model), fixed_noise(device):
        for step in range(BATCHES):
            pixels, labels, uniforms = (part.to(device) for part in stage.batches[step])
            x = preprocess(pixels, uniforms, train=False)
            output = model(x)
            logits = output if isinstance(output, Tensor) else output[0]
            losses.append(F.cross_entropy(logits.float(), labels, reduction="none").cpu())
            images.append(x)
    first = images[0][:_IMAGES]
    found = activation_statistics(model, stage.groups, first, auxiliary=run.architecture.auxiliary)
    model.cpu()
    loss = torch.cat(losses)
    std, mean = torch.std_mean(torch.cat(images).cpu(), dim=(0, 2, 3), correction=0)
    return Start(
        loss=float(loss.mean()),
        error=float(loss.std()) / math.sqrt(len(loss)),
        images=len(loss),
        classes=len(run.images.classes),
        informed=run.init.head in _INFORMED,
        input=list(zip(mean.tolist(), std.tolist(), strict=True)),
        outputs=[(g.name, *pair) for g, pair in zip(stage.groups, found, strict=True)],
    )
