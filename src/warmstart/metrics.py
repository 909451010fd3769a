"""Metrics of a classifier from its logits; means over samples, or over classes (macro)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return loss, accuracy, macro accuracy, macro F1, calibration error, and top-5 accuracy.

    Args:
        logits: float [n, classes].
        labels: int64 [n].

    The macro metrics are means over the classes that have images here; a class without one says
    nothing and counts nothing. Macro accuracy is the mean recall, also called balanced accuracy
    (Brodersen et al., The Balanced Accuracy and Its Posterior Distribution, ICPR 2010). The
    calibration error is the expected one, over 15 bins of equal width (Guo et al., On Calibration
    of Modern Neural Networks, ICML 2017, eq. 3). Top-5 accuracy is given above 10 classes.
    """
    classes = logits.shape[1]
    options: dict[str, Any] = {"num_classes": classes, "validate_args": False}
    result = {
        "loss": F.cross_entropy(logits, labels),
        "accuracy": multiclass_accuracy(logits, labels, average="micro", **options),
        **_macro(logits.argmax(dim=1), labels, classes=classes),
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


def _macro(predictions: Tensor, labels: Tensor, *, classes: int) -> dict[str, Tensor]:
    # By hand, as torchmetrics counts an absent class as 0 once something was taken for it.
    images = torch.bincount(labels, minlength=classes)
    guesses = torch.bincount(predictions, minlength=classes)
    hits = torch.bincount(labels[predictions == labels], minlength=classes)
    present = images > 0
    recall, f1 = hits / images, 2 * hits / (images + guesses)
    return {"macro_accuracy": recall[present].mean(), "macro_f1": f1[present].mean()}
