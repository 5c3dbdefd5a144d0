"""Tests of one comparison: small pure functions on one-dimensional arrays of scores, one score a seed.

The letters are the same everywhere: `x` are the scores of a configuration, `y` those of its baseline, `d = x - y` the
differences of matched seeds. Any unit will do (the callers use points). scipy does the work. This module decides what
to answer if the textbook formula has no answer:

- Differences without spread (`d` constant) have no t statistic, and the computed answer, p = 0, would be false
  certainty. The exact sign-flip test is used instead: for n equal non-zero differences its p is never below 2 / 2^n
  (one-sided 1 / 2^n). The interval and the effect size are `None` (not estimable).
- Fewer than two values, or a value that is not finite, raise `ComparisonError`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from kdcache.errors import ComparisonError

Scores: TypeAlias = NDArray[np.float64]
Alternative: TypeAlias = Literal["two-sided", "greater", "less"]
EXACT = 16  # up to 2^16 sign patterns, or splits into groups, are enumerated
RESAMPLES = 99_999  # Monte Carlo draws beyond that; p >= 1 / (RESAMPLES + 1)
ROUNDING = 1e-12  # differences that agree to this, relative to the scores, count as equal
AT_NULL = 1e-9  # a difference without spread that is this near a hypothesis, relative to it, lies on it


@dataclass(frozen=True)
class Difference:
    """A mean difference, the sd of the differences and the interval (`None` without spread: not estimable)."""

    mean: float
    sd: float | None  # of the differences of matched seeds; None if the seeds are not matched
    ci_low: float | None
    ci_high: float | None


def scores(values: ArrayLike) -> Scores:
    """The values as float64 [n]; `ComparisonError` unless there are two or more and all are finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size < 2:
        raise ComparisonError(f"a test needs a list of 2 or more scores, found shape {array.shape}")
    if not np.isfinite(array).all():
        raise ComparisonError(f"a test needs finite scores, found {array[~np.isfinite(array)].tolist()}")
    return array


def differences(x: ArrayLike, y: ArrayLike) -> Scores:
    """`x - y` for matched seeds, [n], without rounding noise.

    0.85 - 0.80 and 0.90 - 0.85 differ by 1e-16 in floating point. This noise would count as a tiny spread and give an
    absurdly small p. So differences that agree to `ROUNDING` are made equal, and a mean difference that is mere
    rounding noise relative to the scores is made 0.
    """
    first, second = scores(x), scores(y)
    if first.size != second.size:
        raise ComparisonError(f"matched scores must be as many, found {first.size} and {second.size}")
    d = first - second
    noise = ROUNDING * max(np.abs(first).max(), np.abs(second).max())
    if np.ptp(d) <= noise:
        d = np.full_like(d, d.mean())
    d = np.where(np.abs(d) <= noise, 0.0, d)
    return d - d.mean() if abs(d.mean()) <= noise else d


def settled(value: float, *samples: ArrayLike) -> float:
    """`value`, or exactly 0.0 if it is rounding noise relative to the scores it was computed from."""
    largest = max(float(np.abs(sample).max()) for sample in samples)
    return 0.0 if abs(value) <= ROUNDING * largest else float(value)


def constant(values: Scores) -> bool:
    """Whether the values have no spread, apart from rounding noise."""
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def paired_difference(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Difference:
    """Mean of `x - y` over matched seeds with its t interval, mean +- t_{n-1} sd / sqrt(n)."""
    return mean_interval(differences(x, y), confidence)


def mean_interval(d: ArrayLike, confidence: float = 0.95) -> Difference:
    """Mean, sd and t interval of one sample of differences."""
    d = scores(d)
    if constant(d):
        return Difference(float(d[0]), 0.0, None, None)
    mean, sd = settled(float(d.mean()), d), float(d.std(ddof=1))
    half = t_quantile((1 + confidence) / 2, d.size - 1) * sd / math.sqrt(d.size)
    return Difference(mean, sd, mean - half, mean + half)


def welch_difference(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Difference:
    """Difference of the means of two independent samples with Welch's interval."""
    first, second = scores(x), scores(y)
    mean = settled(float(first.mean() - second.mean()), first, second)
    if constant(first) and constant(second):
        return Difference(mean, None, None, None)
    error, df = welch_error(first, second)
    half = t_quantile((1 + confidence) / 2, df) * error
    return Difference(mean, None, mean - half, mean + half)


def welch_error(x: Scores, y: Scores) -> tuple[float, float]:
    """Standard error of the difference of two means and its degrees of freedom (Welch-Satterthwaite)."""
    a, b = x.var(ddof=1) / x.size, y.var(ddof=1) / y.size
    return math.sqrt(a + b), float((a + b) ** 2 / (a**2 / (x.size - 1) + b**2 / (y.size - 1)))


def paired_t(d: ArrayLike, null: float = 0.0, alternative: Alternative = "two-sided") -> float:
    """p of the t-test that the mean difference is `null`; of the sign-flip test if `d` has no spread."""
    d = scores(d)
    if constant(d):
        return sign_flip(np.full_like(d, _from_null(float(d[0]), null)), alternative)
    error = float(d.std(ddof=1)) / math.sqrt(d.size)
    return _t_tail(float(d.mean() - null) / error, d.size - 1, alternative)


def welch_t(x: ArrayLike, y: ArrayLike, null: float = 0.0, alternative: Alternative = "two-sided") -> float:
    """p of Welch's test that the means differ by `null`; of a permutation test if neither sample has spread."""
    first, second = scores(x), scores(y)
    if constant(first) and constant(second):
        gap = _from_null(float(first[0] - second[0]), null)
        return label_permutation(np.full_like(first, gap), np.zeros_like(second), alternative)
    error, df = welch_error(first, second)
    return _t_tail(float(first.mean() - second.mean() - null) / error, df, alternative)


def _from_null(difference: float, null: float) -> float:
    """difference - null, or exactly 0 if that is rounding noise: 57 - 56 may come as 0.99999999999998."""
    return 0.0 if abs(difference - null) <= AT_NULL * abs(null) else difference - null


def t_quantile(p: float, df: float) -> float:
    """The p-quantile of Student's t.

    Like `_t_tail` it uses scipy.special. scipy.stats checks and broadcasts its arguments, which takes 50 times as long
    as the computation, and a study needs thousands.
    """
    return float(special.stdtrit(df, p))


def _t_tail(t: float, df: float, alternative: Alternative) -> float:
    """p of a t statistic."""
    if alternative == "two-sided":
        return positive(2 * special.stdtr(df, -abs(t)))
    return positive(special.stdtr(df, -t if alternative == "greater" else t))


def positive(p: Any) -> float:
    """A p-value that is never exactly 0, however extreme the statistic."""
    return max(float(p), float(np.finfo(np.float64).tiny))


def sign_flip(d: ArrayLike, alternative: Alternative = "two-sided", seed: int = 0) -> float:
    """p of the sign-flip permutation test on the sum of the differences.

    Exact up to n = 16: the share of all 2^n sign patterns whose sum is as extreme as the observed one (so never below
    `sign_flip_floor`). Beyond, (1 + as extreme) / (1 + draws) over `RESAMPLES` seeded draws and the observed pattern
    (Phipson and Smyth 2010).
    """
    d = scores(d)
    exact = d.size <= EXACT
    signs = _all_signs(d.size) if exact else _random_signs(d.size, seed)
    sums, observed = signs @ d, float(d.sum())
    if alternative == "two-sided":
        sums, observed = np.abs(sums), abs(observed)
    elif alternative == "less":
        sums, observed = -sums, -observed
    extreme = int(np.sum(sums >= observed - ROUNDING * float(np.abs(d).sum())))
    return extreme / len(signs) if exact else (1 + extreme) / (1 + len(signs))


def _all_signs(n: int) -> NDArray[np.float64]:
    patterns = np.arange(2**n)[:, None] >> np.arange(n) & 1
    return np.asarray(1.0 - 2.0 * patterns, dtype=np.float64)


def _random_signs(n: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(RESAMPLES, n))


def sign_flip_floor(n: int) -> float:
    """The smallest two-sided p that a sign-flip (or Wilcoxon) test of `n` pairs can give: 2 / 2^n."""
    return 2.0 * 0.5**n if n <= EXACT else max(2.0 * 0.5**n, 1.0 / (RESAMPLES + 1))


def label_permutation(x: ArrayLike, y: ArrayLike, alternative: Alternative = "two-sided") -> float:
    """p of the permutation test on the difference of two independent means, exact for up to 2^16 splits.

    Two-sided means twice the smaller tail (scipy's convention).
    """
    first, second = scores(x), scores(y)
    exact = math.comb(first.size + second.size, first.size) <= 2**EXACT
    result = stats.permutation_test(
        (first, second),
        lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        n_resamples=2**EXACT if exact else RESAMPLES,
        alternative=alternative,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def label_permutation_floor(n: int, m: int) -> float:
    """The smallest two-sided p of `label_permutation` for samples of n and m scores: 2 / (n+m choose n)."""
    splits = math.comb(n + m, n)
    return min(1.0, 2.0 / splits if splits <= 2**EXACT else 2.0 / (RESAMPLES + 1))


def tost_paired(d: ArrayLike, margin: float) -> float:
    """p of the equivalence test: the larger of the one-sided p's of H0: mean <= -margin and H0: mean >= margin.

    These are two one-sided tests (Schuirmann 1987). Rejecting both shows that |mean| < margin.
    """
    return max(paired_t(d, -margin, "greater"), paired_t(d, margin, "less"))


def tost_welch(x: ArrayLike, y: ArrayLike, margin: float) -> float:
    """`tost_paired` for independent samples, on Welch's tests."""
    return max(welch_t(x, y, -margin, "greater"), welch_t(x, y, margin, "less"))


def beyond_margin_paired(d: ArrayLike, margin: float) -> float:
    """p of a minimum-effect test, H0: |mean| <= margin: twice the smaller one-sided p, at most 1."""
    return min(1.0, 2 * min(paired_t(d, margin, "greater"), paired_t(d, -margin, "less")))


def beyond_margin_welch(x: ArrayLike, y: ArrayLike, margin: float) -> float:
    """`beyond_margin_paired` for independent samples, on Welch's tests."""
    return min(1.0, 2 * min(welch_t(x, y, margin, "greater"), welch_t(x, y, -margin, "less")))
