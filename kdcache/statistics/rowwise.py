"""Comparisons row by row (or document by document): McNemar, tests and a bootstrap over the validation rows.

A validation set is a sample. Seeds show how much training varies on these rows. They say nothing about other rows, and
small validation sets vary a lot (with 277 rows, one row is 0.36 points). Since every trial predicts the same rows, the
two sources of error can be separated. Shapes everywhere: labels [N]; outputs [S, N], one line a seed, of a
configuration (`a`) and of its baseline (`b`), with matched seeds.

- `mcnemar`: is one model right on rows where the other is wrong more often than the reverse? One seed at a time.
- `row_test`: the same over all seeds. **All seeds are evaluated on the same rows**: if S models all fail on a row, that
  is one hard row and not S independent findings. So adding up discordant rows over seeds and testing the sum as
  binomial rejects far too often. Here a row is one unit, whatever the number of seeds.
- `row_intervals`: a bootstrap over rows, and the parts of the error that come from seeds and from rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kdcache.errors import ComparisonError
from kdcache.statistics import weighted
from kdcache.statistics.significance import positive, settled, t_quantile
from kdcache.statistics.weighted import Floats, Outputs
from kdcache.study.metrics import POINTS, unit_of

Counts: TypeAlias = NDArray[np.int64]
Metric: TypeAlias = (
    str | Callable[[Outputs, Outputs], float]
)  # a name of weighted.SCORES, or f(predictions, labels)
RESAMPLES = 1_999  # bootstrap draws; the sd of a draw is then known to 1.6%
FLIPS = 99_999  # Monte Carlo draws of `row_test` if there are too many rows to enumerate
EXACT_SUM = 20_000
NOISE = 1e-9  # of a unit; draws that agree to this have no spread
BLOCK = 1 << 22  # weights (8 bytes each) that are drawn at a time


@dataclass(frozen=True)
class McNemar:
    """For each seed, [S]: rows that only the configuration has right, rows that only the baseline has, exact p."""

    gained: Counts
    lost: Counts
    p: Floats


@dataclass(frozen=True)
class RowIntervals:
    """A difference in the metric's unit with its error from rows alone, from seeds alone, and from both.

    `low`, `high`: the interval for these models on other rows (percentile bootstrap over rows). `sd_rows`, `sd_seeds`,
    `sd_total`: the standard error from the choice of rows, of seeds, and of both. `total_low`, `total_high`: the
    interval for other seeds and other rows. With one seed, numbers that need two are `None`; an interval without any
    spread is `None` too (not estimable).
    """

    difference: float
    low: float | None
    high: float | None
    sd_rows: float
    sd_seeds: float | None = None
    sd_total: float | None = None
    total_low: float | None = None
    total_high: float | None = None


def mcnemar(a_right: ArrayLike, b_right: ArrayLike) -> McNemar:
    """McNemar's exact test, seed by seed: under the null, each discordant row is a fair coin flip (McNemar 1947).

    Args:
        a_right, b_right: booleans [S, N], whether the models are right.

    p is two-sided, min(1, 2 P(Bin(n, 1/2) <= smaller count)); 1 if no row is discordant.
    """
    a, b = _same_shape(a_right, b_right, bool)
    gained, lost = (a & ~b).sum(axis=1), (b & ~a).sum(axis=1)
    p = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))
    return McNemar(gained, lost, np.maximum(p, np.finfo(np.float64).tiny))


def row_test(a_right: ArrayLike, b_right: ArrayLike, seed: int = 0) -> float:
    """p of the sign-flip test over rows on the mean difference of correctness, for all seeds together.

    t_i is the number of seeds of `a` that are right on row i, minus the number of seeds of `b`, -S..S. If `a` and `b`
    are interchangeable, t_i is as likely as -t_i, and rows are independent. So p is the share of the 2^N sign patterns
    with a sum as extreme as the observed one. The seeds of one row stay together, so they may depend on each other (a
    cluster permutation test; with one seed it is McNemar's exact test). The models are fixed: p is about other rows,
    not about other seeds.

    Exact up to sum k n_k = 20,000, by convolving the binomials of the n_k rows with |t| = k; beyond, by 99,999 seeded
    draws and the observed pattern (Phipson and Smyth 2010).
    """
    a, b = _same_shape(a_right, b_right, bool)
    totals = a.sum(axis=0, dtype=np.int64) - b.sum(axis=0, dtype=np.int64)
    rows = np.bincount(np.abs(totals), minlength=1)  # how many rows have |t| = 0, 1, ...
    reach, observed = int(np.arange(len(rows)) @ rows), abs(int(totals.sum()))
    return (
        _exact_flips(rows, reach, observed)
        if reach <= EXACT_SUM
        else _drawn_flips(rows, reach, observed, seed)
    )


def _exact_flips(rows: Counts, reach: int, observed: int) -> float:
    """The probability that sum_k k (2 B_k - n_k) with B_k ~ Bin(n_k, 1/2) is as far from 0 as observed."""
    chances = np.ones(1)
    for k, n in enumerate(rows[1:], start=1):
        steps = np.zeros(k * n + 1)
        steps[::k] = stats.binom.pmf(np.arange(n + 1), n, 0.5)
        chances = np.convolve(chances, steps)
    sums = np.abs(2 * np.arange(reach + 1) - reach)
    return min(1.0, positive(chances[sums >= observed].sum()))


def _drawn_flips(rows: Counts, reach: int, observed: int, seed: int) -> float:
    rng, up = np.random.default_rng(seed), np.zeros(FLIPS, dtype=np.int64)
    for k, n in enumerate(rows[1:], start=1):
        up += k * rng.binomial(n, 0.5, FLIPS)
    return float((1 + np.sum(np.abs(2 * up - reach) >= observed)) / (1 + FLIPS))


def row_intervals(
    metric: Metric,
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RowIntervals:
    """The mean difference of a metric over seeds, and how much of its error comes from seeds and how much from rows.

    Two-way, seed x row. Each draw takes N rows with replacement, the same ones for every seed and for both sides
    (paired), and scores all seeds on them: M[r, s]. Then, in the metric's unit, more being better:

    - V_rows is the variance over draws of the mean over seeds: these seeds, other rows.
    - V_seeds = s^2 / S, with s^2 the variance (n - 1) over seeds of the differences on the original rows. (Redrawing S
      seeds would give this times (S - 1) / S, which is far too small at five seeds: 0.8.)
    - V_both is the part of either variance that belongs to a seed and a row together (luck of one model on one row):
      the spread over draws that the seeds of a draw do not share. V_total = max(0, V_rows - V_both) + max(0, V_seeds -
      V_both) + V_both is the variance for other seeds and other rows. (Redrawing seeds and rows at once would count
      V_both three times: Owen 2007, the pigeonhole bootstrap.)

    The total interval is difference +- t sd_total with Satterthwaite's degrees of freedom, (S - 1) (V_total /
    V_seeds)^2, because V_seeds is estimated from few seeds.

    Args:
        metric: a name (accuracy, f1, macro_f1, matthews, pearson, spearman, nll, bits_per_byte) or any function of
            (predictions, labels), each [N], that gives a fraction and does not depend on the order of the rows; a
            function is called 2 S resamples times.
        labels: [N] classes or real numbers.
        a, b: [S, N] predicted classes; for a correlation real numbers; for a mean loss each row's sum of losses, and
            then `labels` are the divisors of these sums.

    Raises:
        ComparisonError: the shapes do not fit, a value is not finite, or the metric is unknown.
    """
    first, second = _same_shape(a, b)
    truth = _labels(labels, first)
    if metric == "accuracy":  # only right or wrong matters, which gives fewer kinds of rows
        first, second, truth = first == truth, second == truth, np.ones_like(truth, dtype=bool)
    observed, draws = _draws(_score(metric), truth, first, second, resamples, seed)
    scale = (unit_of(metric) if isinstance(metric, str) else POINTS).worth(1.0)
    observed, draws = scale * observed, scale * draws
    mean, of_rows = settled(float(observed.mean()), 100.0), draws.mean(axis=1)
    rows = float(of_rows.var(ddof=1)) if np.ptp(of_rows) > NOISE else 0.0
    low, high = np.quantile(of_rows, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    intervals = (
        RowIntervals(mean, low, high, math.sqrt(rows)) if rows else RowIntervals(mean, None, None, 0.0)
    )
    if len(observed) < 2:
        return intervals
    seeds, total = _variances(observed, draws, rows)
    if not total:
        return replace(intervals, sd_seeds=0.0, sd_total=0.0)
    df = (len(observed) - 1) * (total / seeds) ** 2 if seeds else math.inf
    half = t_quantile((1 + confidence) / 2, df) * math.sqrt(total)
    ends = {"total_low": mean - half, "total_high": mean + half}
    return replace(intervals, sd_seeds=math.sqrt(seeds), sd_total=math.sqrt(total), **ends)


def _variances(observed: Floats, draws: Floats, rows: float) -> tuple[float, float]:
    """V_seeds and V_total of `row_intervals`."""
    count = len(observed)
    seeds = float(observed.var(ddof=1)) / count
    moved = draws - observed
    alone = moved - moved.mean(axis=1, keepdims=True)
    shared = float((alone**2).sum(axis=1).mean()) / (count - 1) / count
    return seeds, max(0.0, rows - shared) + max(0.0, seeds - shared) + shared


def _draws(
    score: weighted.Score, labels: Outputs, a: Outputs, b: Outputs, resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Differences of the score: [S] on the rows as they are, and [R, S] on redrawn rows.

    Rows with the same label and the same outputs of every model are one kind. A draw says how often each kind occurs;
    most studies have a few hundred kinds instead of N rows. Memory is bounded by `BLOCK`.
    """
    kinds, counts = np.unique(np.column_stack([labels, *a, *b]), axis=0, return_counts=True)
    rng, block = np.random.default_rng(seed), max(1, BLOCK // len(kinds))
    parts = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        weights = rng.multinomial(len(labels), counts / len(labels), size=size).astype(np.float64)
        parts.append(_differences(score, weights, kinds))
    return _differences(score, counts[None].astype(np.float64), kinds)[0], np.concatenate(parts)


def _differences(score: weighted.Score, weights: Floats, kinds: Outputs) -> Floats:
    """Differences of the score [R, S], from the columns of `kinds` (label, S outputs of a, S of b)."""
    scores = np.stack([score(weights, output, kinds[:, 0]) for output in kinds.T[1:]], axis=1)
    seeds = scores.shape[1] // 2
    return np.asarray(scores[:, :seeds] - scores[:, seeds:])


def _score(metric: Metric) -> weighted.Score:
    if not isinstance(metric, str):
        return weighted.repeated(metric)
    if metric not in weighted.SCORES:
        known = ", ".join(weighted.SCORES)
        raise ComparisonError(f"no metric {metric!r} of predictions (there are: {known}); give a function")
    return weighted.SCORES[metric]


def _same_shape(a: ArrayLike, b: ArrayLike, dtype: type | None = None) -> tuple[Outputs, Outputs]:
    first, second = np.atleast_2d(np.asarray(a, dtype)), np.atleast_2d(np.asarray(b, dtype))
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise ComparisonError(
            f"expected outputs [seeds, rows] of equal shapes, found {list(first.shape)} and {list(second.shape)}; "
            "compare matched seeds on the same rows"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ComparisonError("outputs must be finite; did a training diverge?")
    return first, second


def _labels(labels: ArrayLike, outputs: Outputs) -> Outputs:
    checked = np.asarray(labels)
    if checked.shape != outputs.shape[1:] or not np.isfinite(checked).all():
        raise ComparisonError(
            f"expected {outputs.shape[1]} finite labels, one a row, found shape {list(checked.shape)}"
        )
    return checked
