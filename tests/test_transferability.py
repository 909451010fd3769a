"""Transferability from features: small cases by hand, and the evidence against its definition."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from warmstart.transferability import knn_loo_accuracy, log_me, nearest_mean_accuracy


def best(counts: list[int], squares: list[float]) -> float:
    """Return the greatest log density of zero-mean normal targets, by hand.

    In each of some subspaces, of `counts` dimensions and with `squares` as the targets' squared
    norm, the variance is free: the best one is squares / counts.
    """
    return sum(
        -counts_ / 2 * (math.log(2 * math.pi * squares_ / counts_) + 1)
        for counts_, squares_ in zip(counts, squares, strict=True)
    )


class TestLogME:
    def test_one_feature_by_hand(self) -> None:
        # Three images of class 1 and one of class 0; the feature is the unit vector along
        # u = (3, 3, 3, -1) / sqrt(28). Of class 1, y = (1, 1, 1, 0): (u y)^2 = 81/28, and 3/28 is
        # left for 3 dimensions. Of class 0, y = (0, 0, 0, 1): (u y)^2 = 1/28, which is less than
        # the (27/28)/3 elsewhere, so that no signal fits better than any: one variance, 1/4.
        features = np.array([[3.0], [3.0], [3.0], [-1.0]])
        expected = (best([1, 3], [81 / 28, 3 / 28]) + best([4], [1.0])) / 2
        found = log_me(features, np.array([1, 1, 1, 0]))
        assert found == pytest.approx(expected / 4, abs=1e-7)

    def test_two_orthogonal_features_by_hand(self) -> None:
        # Both columns have norm 2, so that the signal has one variance in their plane.
        # Class 0 is y = (1, 1, 0, 0): products with the unit columns 1 and 0, thus 1 in the plane
        # and 1 outside. Class 1, y = (0, 0, 1, 1), has products 1 and 0 likewise.
        features = np.array([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])
        # That is 1/2 for every dimension, in the plane and outside.
        expected = best([4], [2.0])
        assert log_me(features, np.array([0, 0, 1, 1])) == pytest.approx(expected / 4, abs=1e-6)
        # Labels along the second column: y = (1, 0, 1, 0) has products 1 and 1, nothing is left.
        # The noise is as small as it may be, in two dimensions.
        noise = 1e-6
        by_hand = -1 / 2 * (2 * math.log(2 * math.pi * noise) + 2 * math.log(2 * math.pi) + 2)
        assert log_me(features, np.array([0, 1, 0, 1])) == pytest.approx(by_hand / 4, abs=1e-6)

    @pytest.mark.parametrize(("n", "d"), [(30, 4), (12, 12), (10, 25), (40, 1)])
    def test_is_the_greatest_evidence_that_a_search_finds(self, n: int, d: int) -> None:
        random = np.random.default_rng(n)
        labels = random.permutation(np.arange(n) % 3)
        features = random.normal(size=(n, d)) + labels[:, None] * random.normal(size=d)
        scores = []
        for label in range(3):
            target = (labels == label).astype(float)
            spread = features @ features.T

            def loss(logs: np.ndarray, target=target, spread=spread) -> float:
                covariance = math.exp(logs[0]) * spread + math.exp(logs[1]) * np.eye(n)
                return -multivariate_normal(np.zeros(n), covariance).logpdf(target)

            starts = [(-2, -2), (-6, -1), (0, -6)]
            bounds = [(-25, 10), (math.log(1e-6), 5)]
            found = [minimize(loss, start, bounds=bounds, tol=1e-10) for start in starts]
            scores.append(-min(result.fun for result in found) / n)
        assert log_me(features, labels) == pytest.approx(np.mean(scores), abs=1e-5)

    @given(factor=st.floats(1e-4, 1e4), seed=st.integers(0, 99))
    def test_neither_scale_nor_order_nor_rotation_matters(self, factor: float, seed: int) -> None:
        random = np.random.default_rng(seed)
        features, labels = random.normal(size=(20, 5)), np.arange(20) % 4
        order, turn = random.permutation(20), np.linalg.qr(random.normal(size=(5, 5)))[0]
        changed = log_me(factor * features[order] @ turn, labels[order] * 7)
        assert changed == pytest.approx(log_me(features, labels), abs=1e-6)

    def test_a_copy_of_a_feature_is_no_new_one(self) -> None:
        features, labels = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
        # Twice the same columns are those columns times the root of 2.
        doubled = np.concatenate([features, features], axis=1)
        assert log_me(doubled, labels) == pytest.approx(log_me(features, labels), abs=1e-7)

    def test_more_rows_than_a_block(self) -> None:
        random = np.random.default_rng(0)
        labels = np.arange(5000) % 2
        features = (random.normal(size=(5000, 2)) + labels[:, None]).astype(np.float32)
        order = np.argsort(labels, kind="stable")
        assert log_me(features[order], labels[order]) == pytest.approx(log_me(features, labels))

    def test_zeros_are_noise_alone(self) -> None:
        expected = best([4], [2.0]) / 4
        assert log_me(np.zeros((4, 3)), np.array([0, 1, 0, 1])) == pytest.approx(expected)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_numbers_must_be_finite(self, bad: float) -> None:
        with pytest.raises(ValueError, match="not finite"):
            log_me(np.array([[1.0], [bad], [2.0]]), np.array([0, 1, 0]))

    def test_one_class_is_no_task(self) -> None:
        with pytest.raises(ValueError, match="all labels are equal"):
            log_me(np.ones((3, 1)), np.array([2, 2, 2]))


def directions(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


class TestNeighbours:
    def test_by_hand(self) -> None:
        # Lengths do not matter. The nearest neighbour of 0 is 10, of 10 0, of 25 10, of 90 100,
        # of 100 90: right for all but the third.
        features = directions(0, 10, 25, 90, 100) * np.array([[1], [5], [2], [9], [1]])
        labels = np.array([3, 3, 8, 8, 8])
        assert knn_loo_accuracy(features, labels, k=1) == 4 / 5
        # Three neighbours: of 0: 10, 25, 90 (8 wins); of 10: 0, 25, 90 (8); of 25: 10, 0, 90 (3);
        # of 90: 100, 25, 10 (8); of 100: 90, 25, 10 (8).
        assert knn_loo_accuracy(features, labels, k=3) == 2 / 5

    def test_of_labels_with_as_many_votes_the_nearest_counts(self) -> None:
        features, labels = directions(0, 1, 3, 60, 62), np.array([0, 0, 1, 1, 1])
        # Of 0: 1 (0), 3 (1): a tie for the nearer 0; of 1 likewise; of 3: 0 and 0; of 60 and 62:
        # each other, and 3.
        assert knn_loo_accuracy(features, labels, k=2) == 4 / 5

    def test_an_image_is_not_its_own_neighbour(self) -> None:
        features = directions(0, 1, 90, 91)
        assert knn_loo_accuracy(features, np.array([0, 1, 0, 1]), k=1) == 0

    def test_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        random = np.random.default_rng(0)
        features, labels = random.normal(size=(50, 4)), np.arange(50) % 3
        whole = knn_loo_accuracy(features, labels, k=5)
        monkeypatch.setattr("warmstart.transferability._SIMILARITIES", 4 * 50 * 7)
        assert knn_loo_accuracy(features, labels, k=5) == whole

    @pytest.mark.parametrize("k", [0, 4, 41])
    def test_wrong_numbers(self, k: int) -> None:
        with pytest.raises(ValueError, match=f"k is {k}, but must be between 1 and 3"):
            knn_loo_accuracy(directions(0, 1, 2, 3), np.array([0, 0, 1, 1]), k=k)


def test_nearest_mean_by_hand() -> None:
    train = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, 3.0]])
    labels = np.array([4, 4, 6, 6])  # means (1, 0) and (5, 2); (3, 1) is half-way
    val = np.array([[3.0, 0.9], [3.0, 1.1], [9.0, 9.0], [3.0, 1.0]])
    assert nearest_mean_accuracy(train, labels, val, np.array([4, 6, 4, 4])) == 3 / 4
