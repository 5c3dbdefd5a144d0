"""One comparison at a time: small pure functions on one-dimensional arrays of scores, one score a seed.

The letters are the same everywhere: `x` the scores of a configuration, `y` those of its baseline, `d = x -
y` the differences of matched seeds. Any unit will do (the callers use points). scipy does the work; what is
ours is what to answer when the textbook formula has none:

- Differences without spread (`d` constant) have no t statistic, and a computer's answer, p = 0, would be
  false certainty. The exact sign-flip test answers instead: for n equal non-zero differences it cannot go
  below 2 / 2^n (one-sided 1 / 2^n). An interval and an effect size are then `None`: not estimable.
- Fewer than two values, or a value that is not finite, raise `ComparisonError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from kdcache.errors import ComparisonError

Scores: TypeAlias = NDArray[np.float64]
Alternative: TypeAlias = Literal["two-sided", "greater", "less"]

EXACT = 16  # sign flips are enumerated up to 2^16, and group labels up to as many splits
RESAMPLES = 99_999  # Monte Carlo draws beyond that; p >= 1 / (RESAMPLES + 1)
ROUNDING = 1e-12  # differences that agree to this, relative to the scores, are equal
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """A mean difference, its standard error and its interval (`None`: not estimable without spread)."""

    mean: float
    sd: float | None  # of the differences of matched seeds; None when the seeds are not matched
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

    0.85 - 0.80 and 0.90 - 0.85 differ by 1e-16 in floating point. Left alone, that noise would pass for a
    tiny spread and give an absurdly small p; so differences that agree to `ROUNDING` are made equal.
    """
    first, second = scores(x), scores(y)
    if first.size != second.size:
        raise ComparisonError(f"matched scores must be as many, found {first.size} and {second.size}")
    d = first - second
    noise = ROUNDING * max(np.abs(first).max(), np.abs(second).max())
    if np.ptp(d) <= noise:
        d = np.full_like(d, d.mean())
    return scores(np.where(np.abs(d) <= noise, 0.0, d))


def constant(values: Scores) -> bool:
    """Whether the values have no spread, but for rounding noise."""
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def paired_difference(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Difference:
    """Mean of `x - y` over matched seeds with its t interval, mean +- t_{n-1} sd / sqrt(n)."""
    return mean_interval(differences(x, y), confidence)


def mean_interval(d: ArrayLike, confidence: float = 0.95) -> Difference:
    """Mean, sd and t interval of one sample of differences."""
    d = scores(d)
    if constant(d):
        return Difference(float(d[0]), 0.0, None, None)
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, d.size - 1)) * sd / math.sqrt(d.size)
    return Difference(mean, sd, mean - half, mean + half)


def welch_difference(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Difference:
    """Difference of the means of two independent samples with Welch's interval."""
    first, second = scores(x), scores(y)
    mean = float(first.mean() - second.mean())
    if constant(first) and constant(second):
        return Difference(mean, None, None, None)
    error, df = welch_error(first, second)
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * error
    return Difference(mean, None, mean - half, mean + half)


def welch_error(x: Scores, y: Scores) -> tuple[float, float]:
    """Standard error of the difference of two means and its degrees of freedom (Welch-Satterthwaite)."""
    a, b = x.var(ddof=1) / x.size, y.var(ddof=1) / y.size
    return math.sqrt(a + b), float((a + b) ** 2 / (a**2 / (x.size - 1) + b**2 / (y.size - 1)))


def paired_t(d: ArrayLike, null: float = 0.0, alternative: Alternative = "two-sided") -> float:
    """p of the t-test that the mean difference is `null`; the sign-flip test's when `d` has no spread."""
    d = scores(d)
    if constant(d):
        return sign_flip(d - null, alternative)
    return _positive(stats.ttest_1samp(d, null, alternative=alternative).pvalue)


def welch_t(x: ArrayLike, y: ArrayLike, null: float = 0.0, alternative: Alternative = "two-sided") -> float:
    """p of Welch's test that the means differ by `null`; a permutation p when neither sample has spread."""
    first, second = scores(x), scores(y)
    if constant(first) and constant(second):
        return label_permutation(first - null, second, alternative)
    error, df = welch_error(first, second)
    t = float(first.mean() - second.mean() - null) / error
    if alternative == "two-sided":
        return _positive(2 * stats.t.sf(abs(t), df))
    return _positive(stats.t.sf(t if alternative == "greater" else -t, df))


def _positive(p: Any) -> float:
    """A p-value is never exactly 0, however far out the statistic."""
    return max(float(p), float(np.finfo(np.float64).tiny))


def sign_flip(d: ArrayLike, alternative: Alternative = "two-sided", seed: int = 0) -> float:
    """p of the sign-flip permutation test on the sum of the differences.

    Exact up to n = 16: the share of all 2^n sign patterns whose sum is as extreme as the observed one (so
    never below `sign_flip_floor`). Beyond, `RESAMPLES` seeded draws and the observed pattern itself, (1 +
    as extreme) / (1 + draws), Phipson and Smyth 2010.
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


def hedges_g_av(x: ArrayLike, y: ArrayLike) -> float | None:
    """Hedges' g_av for matched seeds: J(n-1) * mean(x - y) / sqrt((sd_x^2 + sd_y^2) / 2).

    The unit is the spread over seeds, not the spread of the differences, so that g does not grow with the
    correlation that the matching brings and stays comparable with unpaired studies (Cumming 2012; Lakens
    2013, doi 10.3389/fpsyg.2013.00863). `None` without spread or below 3 seeds, where no unbiased version
    exists.
    """
    first, second = scores(x), scores(y)
    return _hedges(differences(x, y).mean(), (first.var(ddof=1) + second.var(ddof=1)) / 2, first.size - 1)


def hedges_g_s(x: ArrayLike, y: ArrayLike) -> float | None:
    """Hedges' g_s for independent samples: J(n+m-2) * (mean x - mean y) / pooled sd (Hedges 1981)."""
    first, second = scores(x), scores(y)
    df = first.size + second.size - 2
    pooled = ((first.size - 1) * first.var(ddof=1) + (second.size - 1) * second.var(ddof=1)) / df
    return _hedges(first.mean() - second.mean(), pooled, df)


def _hedges(mean: Any, variance: Any, df: int) -> float | None:
    if df < 2 or float(variance) <= (ROUNDING * abs(float(mean))) ** 2:
        return None
    return small_sample_factor(df) * float(mean) / math.sqrt(float(variance))


def small_sample_factor(df: int) -> float:
    """Hedges' exact correction J(df) = Gamma(df/2) / (sqrt(df/2) Gamma((df-1)/2)), for df >= 2."""
    return math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)


def tost_paired(d: ArrayLike, margin: float) -> float:
    """p of equivalence: the larger of the one-sided p's against mean <= -margin and mean >= margin.

    Two one-sided tests, Schuirmann 1987. Rejecting both shows that |mean| < margin.
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


def detectable_difference(n: int, sd: float, alpha: float = 0.05, power: float = POWER) -> float:
    """The true difference that a two-sided paired t-test of `n` seeds finds with the given power.

    `sd` is that of the differences. Solves P(|T'| > t_{1-alpha/2, n-1}) = power for the noncentrality
    delta sqrt(n) / sd of the noncentral t variable T' (Cohen 1988). At n = 5: 1.68 sd.
    """
    return _detectable_errors(n - 1, alpha, power) * sd / math.sqrt(n)


def detectable_welch(x: ArrayLike, y: ArrayLike, alpha: float = 0.05, power: float = POWER) -> float | None:
    """`detectable_difference` for Welch's test, at the observed error and its degrees of freedom."""
    first, second = scores(x), scores(y)
    if constant(first) and constant(second):
        return None
    error, df = welch_error(first, second)
    return _detectable_errors(df, alpha, power) * error


@lru_cache(maxsize=4096)
def _detectable_errors(df: float, alpha: float, power: float) -> float:
    """The detectable difference in standard errors of the mean difference."""
    critical = float(stats.t.isf(alpha / 2, df))

    def excess(effect: float) -> float:
        return _expected(lambda s: _found(effect, critical * s), df, effect, critical) - power

    return _root(excess, critical)


def _found(effect: float, bound: Scores) -> Scores:
    """P(|Z + effect| > bound) for a standard normal Z."""
    return np.asarray(special.ndtr(effect - bound) + special.ndtr(-effect - bound))


def _expected(value: Callable[[Scores], Scores], df: float, turn: float, critical: float) -> float:
    """E[value(S)] for S^2 = chi^2_df / df, where `value` turns within a few 1/critical of turn/critical.

    Gauss-Legendre panels around the turn. Used in place of scipy's noncentral t, which is NaN for the large
    noncentralities of 2 or 3 seeds, and slower.
    """
    spread = stats.chi(df, scale=1 / math.sqrt(df))
    end = float(spread.isf(1e-16))
    near = (turn + np.array([-12, -6, -3, -1, 0, 1, 3, 6, 12])) / critical
    cuts = np.unique(np.concatenate([np.linspace(0, end, 9), near[(near > 0) & (near < end)]]))
    nodes, weights = np.polynomial.legendre.leggauss(32)
    half = np.diff(cuts)[:, None] / 2
    s = cuts[:-1, None] + half * (1 + nodes)
    return float(np.sum(half * weights * value(s) * spread.pdf(s)))


def tost_detectable_margin(n: int, sd: float, alpha: float = 0.05, power: float = POWER) -> float:
    """The margin that TOST of `n` matched seeds needs for the given power when the true mean is 0.

    With Z standard normal and S^2 = chi^2_{n-1} / (n-1) independent of it, TOST rejects when
    |Z| < k - t_{1-alpha, n-1} S for k = margin sqrt(n) / sd; so its power is E[max(0, 2 Phi(k - t S) - 1)]
    (exact, Phillips 1990). At n = 5: 1.61 sd.
    """
    return _tost_errors(n - 1, alpha, power) * sd / math.sqrt(n)


@lru_cache(maxsize=4096)
def _tost_errors(df: int, alpha: float, power: float) -> float:
    """The margin in standard errors of the mean difference."""
    critical = float(stats.t.isf(alpha, df))

    def excess(margin: float) -> float:
        return _expected(lambda s: _shown(margin, critical * s), df, margin, critical) - power

    return _root(excess, critical)


def _shown(margin: float, bound: Scores) -> Scores:
    """P(|Z| < margin - bound) for a standard normal Z."""
    return np.maximum(0.0, 2 * special.ndtr(margin - bound) - 1)


def _root(increasing: Callable[[float], float], start: float) -> float:
    """Where an increasing function crosses zero, searched upwards from 0."""
    high = start
    while increasing(high) < 0:
        high *= 2
    return float(optimize.brentq(increasing, 0, high, xtol=1e-12, rtol=1e-13))
