"""Metrics of a classifier, from logits that one can count with."""

from __future__ import annotations

import math

import pytest
import torch

from warmstart.metrics import classification_metrics


def logits_for(predictions, classes):
    return 5.0 * torch.eye(classes)[predictions]


def test_accuracy_and_macro_f1():
    predictions, labels = [0, 0, 1, 1, 2, 0], [0, 0, 1, 2, 2, 2]
    result = classification_metrics(logits_for(predictions, 3), torch.tensor(labels))
    assert result["accuracy"] == pytest.approx(4 / 6)
    # Per class 2 TP / (2 TP + FP + FN): 4 / 5, 2 / 3 and 2 / 4.
    assert result["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 1 / 2) / 3)


def test_macro_f1_weighs_classes_and_accuracy_images():
    # Nine of ten are of class 0, and everything is called 0.
    labels = torch.tensor([0] * 9 + [1])
    result = classification_metrics(logits_for([0] * 10, 2), labels)
    assert result["accuracy"] == pytest.approx(0.9)
    assert result["macro_f1"] == pytest.approx((18 / 19 + 0) / 2)


def test_loss_is_the_mean_over_samples():
    probabilities = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])
    result = classification_metrics(probabilities.log(), torch.tensor([0, 1, 1]))
    assert result["loss"] == pytest.approx(-(math.log(0.5) + math.log(0.8) + math.log(0.1)) / 3)


def test_calibration_error_by_bins():
    # Confidence 0.89 and 0.91 lie in one of the 15 bins (13/15 ... 14/15), 0.62 in another.
    probabilities = torch.tensor([[0.89, 0.11], [0.91, 0.09], [0.62, 0.38], [0.38, 0.62]])
    labels = torch.tensor([0, 1, 0, 1])
    # First bin: one of two right at 0.90; second: both right at 0.62.
    expected = 2 / 4 * abs(0.5 - 0.90) + 2 / 4 * abs(1.0 - 0.62)
    result = classification_metrics(probabilities.log(), labels)
    assert result["calibration_error"] == pytest.approx(expected)


def test_sure_and_right_is_perfect():
    labels = torch.tensor([0, 1, 2])
    result = classification_metrics(100 * torch.eye(3), labels)
    assert result == pytest.approx(
        {"loss": 0, "accuracy": 1, "macro_f1": 1, "calibration_error": 0}, abs=1e-6
    )


def test_top5_accuracy_above_ten_classes_only():
    # Class 4 is the fifth best guess, class 5 the sixth.
    logits = -torch.arange(11.0).expand(4, 11)
    labels = torch.tensor([0, 4, 5, 10])
    result = classification_metrics(logits, labels)
    assert result["top5_accuracy"] == pytest.approx(2 / 4)
    assert result["accuracy"] == pytest.approx(1 / 4)
    assert "top5_accuracy" not in classification_metrics(logits[:, :10], labels.clamp(max=9))


def test_values_are_plain_numbers():
    result = classification_metrics(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert all(type(value) is float for value in result.values())
