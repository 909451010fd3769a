"""What features depend on, as the key of their entry: digests, no names and no paths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.data import resize
from warmstart.data.images import Split
from warmstart.data.index import Index
from warmstart.digests import tensors_digest
from warmstart.models.activations import same_modes
from warmstart.models.cuts import Cut
from warmstart.models.places import record


def feature_key(
    *,
    prefix: str,
    cut: Cut,
    model: Mapping[str, Any],
    input: Mapping[str, Any],
    images: str,
    arithmetic: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    pool: str | None = None,
    views: Mapping[str, Any] | None = None,
    rows: np.ndarray | None = None,
) -> str:
    """Return the key of features, 64 hexadecimal digits.

    Args:
        prefix: See `prefix_digest`.
        cut: Where the features are.
        model: What makes the architecture, as plain values.
        input: Size, channels, mean and deviation of the model's input.
        images: See `images_digest`.
        arithmetic: What else moves the last digits: device, precision, memory format, threads.
        dtype: As which they are kept; None as the model computes them.
        pool: What is made of them before they are kept.
        views: Number, augmentation and seed of fixed augmented views.
        rows: int64 [n] of the images in their data set, by which views are drawn.

    Raises:
        ValueError: There are views, but no rows.
    """
    content: dict[str, Any] = {
        "prefix": prefix,
        "cut": [cut.module, cut.call, *cut.shape],
        "model": model,
        "input": input,
        "images": images,
        "arithmetic": {**arithmetic, "torch": torch.__version__},
        "dtype": str(dtype),
        "pool": pool,
        "views": views,
    }
    if views is not None:
        if rows is None:
            raise ValueError("views are drawn by the rows of their images")
        content["rows"] = hashlib.sha256(np.ascontiguousarray(rows, np.int64).data).hexdigest()
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def prefix_digest(model: nn.Module, cut: Cut, x: Tensor) -> str:
    """Return the SHA-256 over all tensors of the model that features at a cut can depend on.

    These are all but those of modules that are called behind the cut alone.

    Args:
        model: Any; it is looked at in eval mode.
        cut: As `cuts` returned it for the model.
        x: A preprocessed image or more [b, c, h, w], on the model's device.
    """
    with same_modes(model):
        places = record(model.eval(), x).places
    calls = [(place.module, place.call) for place in places]
    before = {path for path, _ in calls[: calls.index((cut.module, cut.call))]}
    behind = {path for path, _ in calls} - before

    def matters(name: str) -> bool:
        path = name.rpartition(".")[0]
        # Of modules that are not called themselves, whoever holds them takes the tensors.
        while path and path not in before and path not in behind:
            path = path.rpartition(".")[0]
        return path not in behind

    return tensors_digest({k: v for k, v in model.state_dict().items() if matters(k)})


def images_digest(index: Index, split: Split, *, shrink: int | None = None) -> str:
    """Return the SHA-256 over the pixels of a split, in its order, as a model gets them.

    Neither names nor labels are part of it.

    Args:
        index: Of the data set.
        split: Any of it.
        shrink: ``data.shrink``: shorter side to which large images were brought before all else.
    """
    digest = hashlib.sha256(repr((split.shape, shrink, resize.VERSION)).encode())
    digest.update(np.ascontiguousarray(index.digests[split.rows]).data)
    return digest.hexdigest()
