"""Metrics of a classifier, from logits that one can count with."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from warmstart.metrics import classification_metrics


def logits_for(predictions, classes):
    return 5.0 * torch.eye(classes)[predictions]


def test_accuracy_and_macro_f1():
    predictions, labels = [0, 0, 1, 1, 2, 0], [0, 0, 1, 2, 2, 2]
    result = classification_metrics(logits_for(predictions, 3), torch.tensor(labels))
    assert result["accuracy"] == pytest.approx(4 / 6)
    # Per class 2 TP / (2 TP + FP + FN): 4 / 5, 2 / 3 and 2 / 4.
    assert result["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 1 / 2) / 3)


def test_macro_metrics_weigh_classes_and_accuracy_images():
    # Nine of ten are of class 0, and everything is called 0.
    labels = torch.tensor([0] * 9 + [1])
    result = classification_metrics(logits_for([0] * 10, 2), labels)
    assert result["accuracy"] == pytest.approx(0.9)
    assert result["macro_accuracy"] == pytest.approx((9 / 9 + 0 / 1) / 2)
    assert result["macro_f1"] == pytest.approx((18 / 19 + 0) / 2)


def test_a_class_without_images_does_not_count_as_zero():
    # Class 2 has no image here, but one image is taken for it; of class 3 there is no sign.
    predictions, labels = [0, 0, 2, 1], [0, 0, 0, 1]
    result = classification_metrics(logits_for(predictions, 4), torch.tensor(labels))
    assert result["macro_accuracy"] == pytest.approx((2 / 3 + 1 / 1) / 2)
    # 2 TP / (2 TP + FP + FN): 4 / (4 + 0 + 1) and 2 / 2.
    assert result["macro_f1"] == pytest.approx((4 / 5 + 1) / 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_macro_accuracy_is_scikit_learns_balanced_accuracy(pairs):
    predictions, labels = map(list, zip(*pairs, strict=True))
    result = classification_metrics(logits_for(predictions, 5), torch.tensor(labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of predictions of a class without images
        expected = balanced_accuracy_score(labels, predictions)
    assert result["macro_accuracy"] == pytest.approx(expected, rel=1e-6)


def test_metrics_are_means_over_samples_however_they_were_batched():
    """Batches of four and one: the mean of the two batches' metrics would be another number."""
    predictions, labels = [0, 0, 1, 1, 0], [0, 0, 1, 0, 1]
    batches = torch.split(logits_for(predictions, 2), 4)
    assert [len(batch) for batch in batches] == [4, 1]
    result = classification_metrics(torch.cat(batches), torch.tensor(labels))
    assert result["accuracy"] == pytest.approx(3 / 5)  # not (3 / 4 + 0) / 2
    assert result["macro_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Right costs log(1 + e^-5), wrong log(1 + e^5).
    right, wrong = math.log1p(math.exp(-5)), math.log1p(math.exp(5))
    assert result["loss"] == pytest.approx((3 * right + 2 * wrong) / 5)


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
        {
            "loss": 0,
            "accuracy": 1,
            "macro_accuracy": 1,
            "macro_f1": 1,
            "calibration_error": 0,
        },
        abs=1e-6,
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
