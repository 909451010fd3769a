"""Metrics of a classifier from its logits; means over samples."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return loss, accuracy, macro F1, calibration error, and top-5 accuracy above 10 classes.

    Args:
        logits: float [n, classes].
        labels: int64 [n].

    The calibration error is the expected one, over 15 bins of equal width (Guo et al., On
    Calibration of Modern Neural Networks, ICML 2017, eq. 3).
    """
    classes = logits.shape[1]
    options: dict[str, Any] = {"num_classes": classes, "validate_args": False}
    result = {
        "loss": F.cross_entropy(logits, labels),
        "accuracy": multiclass_accuracy(logits, labels, average="micro", **options),
        "macro_f1": multiclass_f1_score(logits, labels, average="macro", **options),
        "calibration_error": multiclass_calibration_error(
            logits.softmax(dim=1), labels, n_bins=15, norm="l1", **options
        ),
    }
    # Among 10 classes or fewer, a guess is right in the top 5 at least half of the time.
    if classes > 10:
        result["top5_accuracy"] = multiclass_accuracy(
            logits, labels, average="micro", top_k=5, **options
        )
    return {name: float(value) for name, value in result.items()}
