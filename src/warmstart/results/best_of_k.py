"""How good the best of k trials is, so that arms are compared at an equal budget for tuning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.results.tuning import ENDED, Tuning


def expected_best(values: Sequence[float], k: int) -> float:
    """Return the expected greatest of `k` draws from the values of n trials.

    Dodge, Gururangan, Card, Schwartz and Smith (2019), "Show Your Work: Improved Reporting of
    Experimental Results", EMNLP, section 3: the best of k draws is at most v with probability
    F(v)^k, where F is the share of trials whose value is at most v; so its expectation is the sum
    of v (F(v)^k - F(v-)^k). The draws are with replacement: at k = n it lies a little below the
    best that was found. The unbiased estimator without replacement, which does not, has the
    greatest variance of those known and leads to more wrong conclusions (Dodge, Gururangan, Card,
    Schwartz and Smith 2021, "Expected Validation Performance and Estimation of a Random Variable's
    Maximum", Findings of EMNLP).

    Args:
        values: Of trials drawn independently from one space, shape [n]; greater is better.
        k: How many are drawn, at least 1.
    """
    # Equal values share their probability, so that each may have its own step of F.
    steps = np.linspace(0.0, 1.0, len(values) + 1) ** k
    return float(np.dot(np.sort(values), np.diff(steps)))


def best_of_k(tuning: Tuning, arm: str) -> list[float]:
    """Return an arm's expected best value of 1, 2, ..., n trials of the coarse round.

    That round alone is of the whole space (in a random search drawn independently from it), and all
    its trials have one length.
    A trial that failed is a draw as well, as good as the worst value of the whole tuning: left
    out, a recipe that diverges would cost an arm nothing. A pruned one has its value until then.
    """
    sign = 1 if tuning.metric.higher_is_better else -1
    known = [sign * trial.value for trial in tuning.trials if trial.value is not None]
    drawn = [t for t in tuning.by_arm[arm] if t.round == "coarse" and t.state in ENDED]
    if not known:
        return []
    values = [min(known) if t.value is None else sign * t.value for t in drawn]
    return [sign * expected_best(values, k) for k in range(1, len(values) + 1)]
