"""Intervals and tests over seeds or folds, as pure functions of arrays.

At five seeds a percentile bootstrap covers 84 % where it says 95, a Student t interval 94, and no
sign-flip test can fall below 0.0625. So the interval is Student's at every number of seeds; the
permutation test speaks only where it could say something (`smallest_p`).

The k folds of a cross-validation are no independent repetitions: any two share k - 2 of the k - 1
parts that each trains on. Over folds the variance of a mean is not s^2 / n but
s^2 (1 / n + n_test / n_train), with n_test / n_train = 1 / (k - 1). This is the corrected resampled
t-test of Nadeau and Bengio (2003), "Inference for the Generalization Error", Machine Learning 52,
used for folds as by Bouckaert and Frank (2004), "Evaluating the Replicability of Significance Tests
for Comparing Learning Algorithms", PAKDD. Nor are the signs of their differences independent, so
that no permutation test is made over folds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

# `scipy.stats.t.ppf` is this function; importing scipy.stats takes 1.8 s, a report must not.
from scipy.special import stdtrit

from warmstart.randomness import numpy_generator

EXHAUSTIVE_UP_TO = 16
MONTE_CARLO_DRAWS = 99_999
# Bounds the memory for many runs. The generator fills words of four: a multiple of it changes no
# number that is drawn.
DRAWN_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: In the unit of the values.
        low: Lower end; None where fewer than two values give no interval.
        high: Upper end, or None.
        n: Number of seeds, or of folds; for two unpaired samples that of the smaller one.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high is not None and self.high < 0


def t_interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, folds: int | None = None
) -> Interval:
    """Return the mean of one value per seed, with Student's interval.

    mean +- t(n - 1) s / sqrt(n), Student (1908), "The probable error of a mean", Biometrika 6.
    It assumes that the values scatter about normally over seeds. One value has no interval.

    Args:
        values: Shape [n], n >= 1.
        level: Confidence level in (0, 1).
        folds: The k of a cross-validation whose folds the values are of, at least 2, for the
            correction above; None for independent values.

    Raises:
        ValueError: There is no value.
    """
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    variance = _variance_of_mean(sample, folds) if n > 1 else None
    return _interval(float(sample.mean()), variance, degrees=n - 1, n=n, level=level)


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    folds: int | None = None,
) -> Interval:
    """Return the mean of a - b with Student's interval over the differences.

    Args:
        a: Shape [n], one value per seed or fold.
        b: Shape [n], the values of the same seeds or folds in the same order.
        level: Confidence level in (0, 1).
        folds: As for `t_interval`.

    Raises:
        ValueError: The lengths differ, or are 0.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values cannot be paired with {len(b)}")
    return t_interval(np.asarray(a, dtype=np.float64) - np.asarray(b), level=level, folds=folds)


def unpaired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    folds: int | None = None,
) -> Interval:
    """Return mean(a) - mean(b) with Welch's interval, for runs that share no splits or order.

    Degrees of freedom as in Welch (1947), "The generalization of 'Student's' problem when several
    different population variances are involved", Biometrika 34.

    Args:
        a: Shape [n], n >= 1.
        b: Shape [m], m >= 1.
        level: Confidence level in (0, 1).
        folds: As for `t_interval`; each side's variance is corrected.

    Raises:
        ValueError: One of them is empty.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = min(len(first), len(second))
    if n == 0:
        raise ValueError("a difference needs at least one value on each side")
    mean = float(first.mean() - second.mean())
    if n < 2:
        return Interval(mean, None, None, n)
    parts = [_variance_of_mean(x, folds) for x in (first, second)]
    total = sum(parts)
    bottom = sum(p**2 / (len(x) - 1) for p, x in zip(parts, (first, second), strict=True))
    degrees = total**2 / bottom if bottom > 0 else n - 1
    return _interval(mean, total, degrees=degrees, n=n, level=level)


def crossed_interval(differences: np.ndarray, *, level: float = 0.95) -> Interval:
    """Return the mean difference with an interval over seeds and test images at once.

    Seeds and images are crossed random effects, D[s, i] = mu + S[s] + I[i] + e[s, i]. The variance
    of the grand mean over n seeds and m images is estimated without bias from the two-way table
    (Searle, Casella, McCulloch (1992), "Variance Components", ch. 4; Owen (2007), "The pigeonhole
    bootstrap", Annals of Applied Statistics 1):

        var(seed means) / n + max(0, var(image means) / m - var(residuals) / (n m))

    The residual stands in both first terms and is taken out once. The interval is never narrower
    than that over seeds alone, and with n - 1 degrees of freedom it errs on the wide side.

    Args:
        differences: Shape [n, m]: correctness of one arm minus that of the other, per seed and
            test image (-1, 0 or 1, or a mean of these over folds).
        level: Confidence level in (0, 1).

    Raises:
        ValueError: There is no seed or no image.
    """
    table = np.asarray(differences, dtype=np.float64)
    n, m = table.shape
    if n == 0 or m == 0:
        raise ValueError("an interval needs at least one seed and one image")
    seeds, images, mean = table.mean(axis=1), table.mean(axis=0), float(table.mean())
    if n < 2 or m < 2:
        return Interval(mean, None, None, n)
    residuals = table - seeds[:, None] - images[None, :] + mean
    noise = float((residuals**2).sum()) / ((n - 1) * (m - 1))
    over_images = max(0.0, float(images.var(ddof=1)) / m - noise / (n * m))
    variance = float(seeds.var(ddof=1)) / n + over_images
    return _interval(mean, variance, degrees=n - 1, n=n, level=level)


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p-value of the sign-flip permutation test on paired differences.

    Under the null hypothesis each difference is as likely with either sign (Fisher (1935), "The
    Design of Experiments", section 21); the statistic is the absolute mean. All 2^n sign patterns
    are tried up to n = 16; above, 99,999 drawn ones by a fixed generator with
    p = (k + 1) / (m + 1) (Phipson and Smyth (2010), "Permutation p-values should never be zero").

    Args:
        differences: Shape [n], n >= 1.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    # Sums that differ by rounding only count as equal.
    bound = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if n <= EXHAUSTIVE_UP_TO:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.abs((1 - 2 * patterns) @ values) >= bound).mean())
    generator = numpy_generator(0, "sign flips", n)
    extreme = 0
    for first in range(0, MONTE_CARLO_DRAWS, DRAWN_AT_ONCE):
        rows = min(DRAWN_AT_ONCE, MONTE_CARLO_DRAWS - first)
        draws = generator.integers(0, 2, size=(rows, n), dtype=np.int8)
        extreme += int((np.abs((1 - 2 * draws) @ values) >= bound).sum())
    return (extreme + 1) / (MONTE_CARLO_DRAWS + 1)


def smallest_p(n: int) -> float:
    """Return the smallest p-value that `sign_flip_p` can give for n differences."""
    exact = 2.0 ** (1 - n) if n > 0 else 1.0
    return exact if n <= EXHAUSTIVE_UP_TO else max(exact, 1 / (MONTE_CARLO_DRAWS + 1))


def holm(pvalues: Sequence[float]) -> list[float]:
    """Return the p-values corrected for all of them being looked at, in the given order.

    The k-th smallest of m (k from 0) is multiplied by m - k, made monotone and cut at 1: Holm
    (1979), "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6.
    """
    order = sorted(range(len(pvalues)), key=pvalues.__getitem__)
    corrected = [0.0] * len(pvalues)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        corrected[index] = highest
    return corrected


def _variance_of_mean(sample: np.ndarray, folds: int | None) -> float:
    shared = 0.0 if folds is None else 1 / (folds - 1)
    return float(sample.var(ddof=1)) * (1 / len(sample) + shared)


def _interval(
    mean: float, variance: float | None, *, degrees: float, n: int, level: float
) -> Interval:
    # Equal values to the last digit, as a few seeds on a small test set can give, say nothing
    # about their scatter: an interval of no width would claim certainty.
    if variance is None or math.sqrt(variance) <= 1e-9 * max(1.0, abs(mean)):
        return Interval(mean, None, None, n)
    half = float(stdtrit(degrees, 0.5 + level / 2)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, n)
