"""Probes against what is computed by hand, and against scikit-learn."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor

from warmstart.errors import ConfigError
from warmstart.models.neighbours import Neighbours
from warmstart.strategies import blocks as blocks_module
from warmstart.strategies.blocks import Blocks, judged
from warmstart.strategies.probes import KNN, SVM, Logistic, NearestMean, Probe, Ridge, Sample
from warmstart.strategies.ridge import ridge_path
from warmstart.strategies.softmax import softmax_regression

PROBES: dict[str, Callable[[], Probe]] = {
    "svm": lambda: SVM(C=[1e-3, 1e-2]),
    "logistic": lambda: Logistic(C=[1e-2, 1e-1]),
    "ridge": lambda: Ridge(C=[1e-3, 1e-2]),
    "nearest_mean": NearestMean,
    "knn": lambda: KNN(k=[1, 5]),
}


def sample(*points: list[float], labels: list[int]) -> Sample:
    return Sample(torch.tensor(points), np.array(labels))


def clouds(
    count: int, width: int, *, classes: int = 3, seed: int = 0, apart: float = 1.0
) -> Sample:
    """Return classes that lie about different means, far from 0 and of different widths."""
    generator = np.random.default_rng(7)
    means = generator.normal(size=(classes, width))
    scale = generator.uniform(0.5, 20, width)
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    points = 5 + scale * (apart * means[labels] + generator.normal(size=(count, width)))
    return Sample(torch.from_numpy(points).float(), labels)


def predicted(head: torch.nn.Module, rows: Tensor) -> list[int]:
    with torch.no_grad():
        return head(rows).argmax(1).tolist()


def linear(head: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(head, torch.nn.Linear)
    return head.weight.detach().numpy(), head.bias.detach().numpy()


# --- blocks


def test_standardized_features_and_the_map_back() -> None:
    rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    found = Blocks(rows).centered(standardize=True)
    # Mean 2 and deviation 1; what never changes keeps its scale.
    torch.testing.assert_close(found.whole(), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double())
    weight, bias = torch.tensor([[2.0, 3.0]]).double(), torch.tensor([1.0]).double()
    back = found.unfolded(weight, bias)
    torch.testing.assert_close(rows.double() @ back[0].T + back[1], found.whole() @ weight.T + bias)


def test_rounding_is_no_variance() -> None:
    rows = torch.tensor([[0.1], [0.1 + 1e-8], [0.1]], dtype=torch.float64)
    assert Blocks(rows).centered(standardize=True).whole().abs().max() < 1e-7


def test_many_features_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    train = clouds(50, 4)
    whole = softmax_regression(Blocks(train.rows), train.labels, classes=3, C=0.1)
    monkeypatch.setattr(blocks_module, "_BLOCK", 7 * 4 * 8)
    monkeypatch.setattr(blocks_module, "_KEPT", 0)
    parts = Blocks(train.rows)
    assert [place.stop - place.start for place, _ in parts] == [7] * 7 + [1]
    assert [len(x) for _, x in parts] == [7] * 7 + [1]
    found = softmax_regression(parts, train.labels, classes=3, C=0.1)
    torch.testing.assert_close(found[0], whole[0], rtol=1e-6, atol=1e-8)


def test_accuracy_and_loss_are_means_over_images() -> None:
    rows = torch.tensor([[1.0], [-1.0], [2.0]])
    linear = torch.tensor([[-1.0], [1.0]]).double(), torch.zeros(2).double()
    found = judged(Blocks(rows), np.array([1, 0, 0]), linear, lambda x, _: x[:, 1].sum())
    assert found == pytest.approx((2 / 3, 2 / 3))


# --- logistic regression


def test_logistic_regression_by_hand() -> None:
    """With x = -1, 1 and labels 0, 1 the gradient is 0 where w = 2 C sigmoid(-2 w).

    The weights are (-w, w); each of both images adds C p(wrong) to the derivative by each of them.
    """
    weight, bias, _ = softmax_regression(
        Blocks(torch.tensor([[-1.0], [1.0]])), np.array([0, 1]), classes=2, C=0.5, tolerance=1e-9
    )
    w = float(weight[1, 0])
    assert weight[0, 0] == pytest.approx(-w)
    assert w == pytest.approx(2 * 0.5 / (1 + math.exp(2 * w)), abs=1e-6)
    assert bias.tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("C", [1e-3, 1e-1, 10.0])
def test_logistic_regression_equals_scikit_learn(C: float) -> None:
    train, rest = clouds(90, 6), clouds(300, 6, seed=1)
    found = Logistic(C=C).fit(train, rest, classes=3, seed=0)
    scaler = StandardScaler().fit(train.rows.double().numpy())
    theirs = LogisticRegression(C=C, tol=1e-6, max_iter=1000)
    theirs.fit(scaler.transform(train.rows.double().numpy()), train.labels)
    logits = theirs.decision_function(scaler.transform(rest.rows.double().numpy()))
    with torch.no_grad():
        ours = torch.log_softmax(found.head(rest.rows), 1)
    expected = torch.log_softmax(torch.from_numpy(logits).float(), 1)
    torch.testing.assert_close(ours, expected, rtol=2e-3, atol=2e-3)


# --- support vector machine


def test_support_vector_machine_equals_scikit_learn() -> None:
    train, rest = clouds(60, 5), clouds(90, 5, seed=1)
    found = SVM(C=0.01, standardize=False).fit(train, rest, classes=3, seed=3)
    theirs = LinearSVC(C=0.01, random_state=3, max_iter=100)
    theirs.fit(train.rows.double().numpy(), train.labels)
    np.testing.assert_allclose(linear(found.head)[0], theirs.coef_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(linear(found.head)[1], theirs.intercept_, rtol=1e-5, atol=1e-7)


def test_support_vector_machine_of_two_classes_by_hand() -> None:
    """x = -1, 1: 2 C (1 - w) 2 = w where both lie within the margin: w = 4 C / (1 + 4 C)."""
    train = sample([-1.0], [1.0], labels=[0, 1])
    found = SVM(C=0.25, standardize=False).fit(train, train, classes=2, seed=0)
    weight, bias = linear(found.head)
    assert weight.ravel().tolist() == pytest.approx([-0.5, 0.5], rel=1e-3)
    assert bias.tolist() == pytest.approx([0, 0], abs=1e-3)
    assert found.notes["candidates"][0]["val/accuracy"] == 1.0


def test_larger_strengths_than_one_that_does_not_converge_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("warmstart.strategies.probes._PASSES", 3)
    train = clouds(90, 5)
    found = SVM(C=[1e-9, 1.0, 10.0]).fit(train, train, classes=3, seed=0)
    tried = [(one["C"], one["passes"]) for one in found.notes["candidates"]]
    assert [C for C, _ in tried] == [1e-9, 1.0]
    assert tried[0][1] < tried[1][1] == 3


# --- ridge


def test_ridge_by_hand() -> None:
    """x = 0, 1, 3, 4 around 2, one-hot targets +-1/2: X'X = 10, X'y = 3 for the second class."""
    train = sample([0.0], [1.0], [3.0], [4.0], labels=[0, 0, 1, 1])
    found = Ridge(C=0.25, standardize=False).fit(train, train, classes=2, seed=0)
    weight, bias = linear(found.head)
    slope = 3 / (10 + 2)  # the penalty is 1 / (2 C) = 2
    assert weight.ravel().tolist() == pytest.approx([-slope, slope])
    assert bias.tolist() == pytest.approx([0.5 + 2 * slope, 0.5 - 2 * slope])


@pytest.mark.parametrize(("count", "width"), [(30, 4), (12, 40), (20, 20)])
def test_error_of_leaving_one_out_is_that_of_fits_without_each(count: int, width: int) -> None:
    train = clouds(count, width)
    penalties = [0.3, 30.0, 3000.0]
    blocks = Blocks(train.rows).centered(standardize=False)
    errors, _, _ = ridge_path(blocks, train.labels, classes=3, penalties=penalties)
    for penalty, error in zip(penalties, errors, strict=True):
        misses = []
        for out in range(count):
            rest = np.delete(np.arange(count), out)
            own = Blocks(train.rows[rest]).centered(standardize=False)
            _, solve, intercept = ridge_path(own, train.labels[rest], classes=3, penalties=[1.0])
            weight, bias = own.unfolded(solve(penalty), intercept)
            target = torch.eye(3).double()[train.labels[out]]
            misses.append((train.rows[out].double() @ weight.T + bias - target).square().sum())
        assert error == pytest.approx(float(torch.stack(misses).mean()), rel=1e-6)


@pytest.mark.parametrize(("count", "width"), [(90, 6), (20, 50)])
def test_ridge_equals_scikit_learn(count: int, width: int) -> None:
    train = clouds(count, width)
    strengths = [10.0**power for power in range(-6, 3)]
    found = Ridge(C=strengths).fit(train, train, classes=3, seed=0)
    scaler = StandardScaler().fit(train.rows.double().numpy())
    theirs = RidgeCV([1 / (2 * C) for C in strengths])
    x = train.rows.double().numpy()
    theirs.fit(scaler.transform(x), np.eye(3)[train.labels])
    assert 1 / (2 * found.notes["C"]) == pytest.approx(theirs.alpha_)
    with torch.no_grad():
        ours = found.head(train.rows).numpy()
    np.testing.assert_allclose(ours, theirs.predict(scaler.transform(x)), atol=1e-4)


# --- nearest mean


def test_nearest_mean_by_hand() -> None:
    train = sample([0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0], labels=[0, 0, 1, 1])
    head = NearestMean().fit(train, train, classes=2, seed=0).head
    # The means are (1, 0) and (1, 4): the second coordinate decides, at 2.
    weight, bias = linear(head)
    assert weight[:, 0].tolist() == pytest.approx([0, 0])
    assert predicted(head, torch.tensor([[9.0, 1.9], [-9.0, 2.1]])) == [0, 1]
    # Within classes the variance is 1 and 0, 2 degrees of freedom each: 4 / 4 over both axes.
    assert (weight[1] - weight[0]).tolist() == pytest.approx([0, 4.0])
    assert bias[1] - bias[0] == pytest.approx(-8.0)


# --- nearest neighbours


def test_neighbours_vote() -> None:
    rows = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    head = Neighbours(rows, torch.tensor([0, 1, 1, 2]), k=3, classes=3, cosine=False)
    found = head(torch.tensor([[0.1]])).exp()
    # One vote, two votes, none, and a third of one for each; what decides ties aside.
    assert found.tolist()[0] == pytest.approx([(1 + 1 / 3) / 4, (2 + 1 / 3) / 4, 1 / 12], abs=1e-3)


def test_the_nearer_neighbour_decides_a_tie() -> None:
    rows = torch.tensor([[0.0], [1.0]])
    head = Neighbours(rows, torch.tensor([1, 0]), k=2, classes=2, cosine=False)
    assert predicted(head, torch.tensor([[0.1], [0.9]])) == [1, 0]


def test_cosine_asks_for_the_direction_alone() -> None:
    rows = torch.tensor([[100.0, 0.0], [0.0, 0.1]])
    labels = torch.tensor([0, 1])
    point = torch.tensor([[1.0, 2.0]])
    for cosine, expected in ((True, 1), (False, 1)):
        head = Neighbours(rows, labels, k=1, classes=2, cosine=cosine)
        assert predicted(head, point) == [expected]
    head = Neighbours(rows, labels, k=1, classes=2, cosine=True)
    assert predicted(head, 1000 * point) == [1]
    assert predicted(Neighbours(rows, labels, k=1, classes=2, cosine=False), 1000 * point) == [0]


def test_distances_survive_a_large_common_part() -> None:
    points = torch.arange(8.0)[:, None] / 8
    rows = 3000 + points
    head = Neighbours(rows, torch.arange(8), k=1, classes=8, cosine=False)
    assert predicted(head, rows) == list(range(8))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_neighbours_equal_scikit_learn(distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train, rest = clouds(90, 6), clouds(60, 6, seed=1)
    monkeypatch.setattr("warmstart.models.neighbours._PART", 16)
    head = KNN(k=1, distance=distance).fit(train, rest, classes=3, seed=0).head
    theirs = KNeighborsClassifier(1, metric=distance).fit(train.rows.numpy(), train.labels)
    assert predicted(head, rest.rows) == theirs.predict(rest.rows.numpy()).tolist()


def test_neighbours_come_back_from_their_weights() -> None:
    train, rest = clouds(30, 6), clouds(20, 6, seed=1)
    for distance in ("cosine", "euclidean"):
        head = KNN(k=3, distance=distance).fit(train, rest, classes=3, seed=0).head
        again = Neighbours.of({name: t.clone() for name, t in head.state_dict().items()})
        assert torch.equal(again(rest.rows), head(rest.rows))


def test_more_neighbours_than_images_are_left_out() -> None:
    train = clouds(4, 3)
    found = KNN(k=[2, 4, 8]).fit(train, train, classes=3, seed=0)
    assert [one["k"] for one in found.notes["candidates"]] == [2, 4]
    with pytest.raises(ConfigError, match=r"strategy.k is 5, but there are only 4 training images"):
        KNN(k=5).fit(train, train, classes=3, seed=0)


# --- all


@pytest.mark.parametrize("name", PROBES)
def test_classes_apart_are_told_apart(name: str) -> None:
    train, rest = clouds(60, 8, apart=4), clouds(40, 8, seed=1, apart=4)
    found = PROBES[name]().fit(train, rest, classes=3, seed=0)
    assert np.mean(np.array(predicted(found.head, rest.rows)) == rest.labels) > 0.9
    assert isinstance(PROBES[name](), Probe)


def test_neighbours_are_chosen_by_accuracy() -> None:
    train, rest = clouds(60, 8), clouds(40, 8, seed=1)
    notes = KNN(k=[1, 3, 5, 9]).fit(train, rest, classes=3, seed=0).notes
    shares = [one["val/accuracy"] for one in notes["candidates"]]
    assert notes["k"] == notes["candidates"][shares.index(max(shares))]["k"]


def test_logistic_regression_is_chosen_by_the_loss_of_validation() -> None:
    train, rest = clouds(30, 8), clouds(90, 8, seed=1)
    found = Logistic(C=[1e-4, 1e-2, 1.0, 100.0]).fit(train, rest, classes=3, seed=0)
    losses = [one["val/loss"] for one in found.notes["candidates"]]
    assert found.notes["C"] == found.notes["candidates"][losses.index(min(losses))]["C"]
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(found.head(rest.rows), torch.tensor(rest.labels))
    assert float(loss) == pytest.approx(min(losses), rel=1e-4)


def test_of_equal_accuracies_the_smaller_hinge_loss_decides() -> None:
    """All separate x = -1, 1; w = 4 C / (1 + 4 C) leaves (1 - w)^2 for each class and image."""
    train = sample([-1.0], [1.0], labels=[0, 1])
    found = SVM(C=[0.25, 0.75], standardize=False).fit(train, train, classes=2, seed=0)
    assert [one["val/accuracy"] for one in found.notes["candidates"]] == [1.0, 1.0]
    losses = [one["val/squared_hinge"] for one in found.notes["candidates"]]
    assert losses == pytest.approx([2 * 0.5**2, 2 * 0.25**2], rel=1e-3)
    assert found.notes["C"] == 0.75


def test_a_choice_at_the_end_of_the_list_is_told(caplog: pytest.LogCaptureFixture) -> None:
    train = clouds(60, 8)
    with caplog.at_level(logging.INFO):
        Ridge(C=[1e-9, 1e-8]).fit(train, train, classes=3, seed=0)
    assert "the best C is the largest that was tried, 1e-08" in caplog.text


@pytest.mark.parametrize("C", [0, -1.0, [], [0.1, 0], True, float("inf"), float("nan"), ["1"]])
def test_wrong_strengths(C: object) -> None:
    for probe in (SVM, Logistic, Ridge):
        with pytest.raises(ConfigError, match=r"strategy.C is .*, but must be a number above 0"):
            probe(C=C)  # type: ignore[arg-type]


def test_wrong_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"strategy.k is 0, but must be at least 1"):
        KNN(k=0)
    with pytest.raises(ConfigError, match=r"strategy.k is \[\], but must be a whole number"):
        KNN(k=[])
    with pytest.raises(ConfigError, match=r"strategy.distance is 'l2', but must be cosine or eucl"):
        KNN(k=1, distance="l2")
