"""Interquartile mean and probability of improvement with stratified bootstrap intervals (Agarwal et al. 2021).

Both are defined as in their library, rliable. Estimates use all runs and tasks. Intervals are percentiles of resamples
in which every task's seeds are redrawn and the tasks stay. So the intervals are about other seeds on these tasks, not
about other tasks. With few seeds the interval of the interquartile mean is too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kdcache.errors import ComparisonError

REPEATS = 10_000
TRIM = 0.25

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """An estimate with its interval, whose ends are `None` if the resamples have no spread (one seed, or all agree)."""

    value: float
    ci_low: float | None
    ci_high: float | None


def interquartile_mean(tasks: Sequence[ArrayLike], confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of the middle half of all scores, runs and tasks together.

    Args:
        tasks: each task's scores, [seeds]. All tasks need one scale; otherwise the extreme tasks are trimmed.
    """
    blocks = sorted((_sorted(block) for block in tasks), key=lambda block: block.tolist())
    value = float(stats.trim_mean(np.concatenate(blocks), TRIM))
    rng = np.random.default_rng(seed)
    drawn = [block[rng.integers(0, block.size, size=(REPEATS, block.size))] for block in blocks]
    resampled = np.asarray(stats.trim_mean(np.concatenate(drawn, axis=1), TRIM, axis=1))
    return _estimate(value, resampled, confidence)


def probability_of_improvement(
    tasks: Sequence[tuple[ArrayLike, ArrayLike]], confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """P(x > y) + P(x = y) / 2 for a random run of each method on one task, averaged over tasks.

    For each task this is the Mann-Whitney statistic U / (n m). Runs are not matched: resamples draw x and y
    independently.

    Args:
        tasks: per task the scores of the method, [n], and of the baseline, [m].
    """
    pairs = sorted(
        ((_sorted(x), _sorted(y)) for x, y in tasks), key=lambda pair: (pair[0].tolist(), pair[1].tolist())
    )
    rng = np.random.default_rng(seed)
    resampled = np.zeros(REPEATS)
    values = []
    for x, y in pairs:
        wins = np.heaviside(x[:, None] - y, 0.5)
        values.append(float(wins.mean()))
        resampled += ((_shares(x.size, rng) @ wins) * _shares(y.size, rng)).sum(axis=1)
    return _estimate(float(np.mean(values)), resampled / len(pairs), confidence)


def _shares(n: int, rng: np.random.Generator) -> Floats:
    """The share of each of n runs in resamples of n runs; [REPEATS, n]."""
    return np.asarray(rng.multinomial(n, np.full(n, 1 / n), size=REPEATS) / n)


def _sorted(values: ArrayLike) -> Floats:
    block = np.asarray(values, dtype=np.float64)
    if block.ndim != 1 or not block.size or not np.isfinite(block).all():
        raise ComparisonError(f"expected one or more finite scores for each task, found {block.tolist()}")
    return np.sort(block)


def _estimate(value: float, resampled: Floats, confidence: float) -> Estimate:
    tail = (1 - confidence) / 2
    low, high = (float(bound) for bound in np.quantile(resampled, [tail, 1 - tail]))
    if np.ptp(resampled) <= 1e-12 * np.abs(resampled).max():
        return Estimate(value, None, None)
    return Estimate(value, low, high)
