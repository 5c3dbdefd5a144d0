"""Signed ranks of the tasks' mean differences: Wilcoxon's test and its Bayesian counterpart.

Both take one value a task (`d`: the mean difference from the baseline, positive is better), so a task with many seeds
counts no more than another. With few tasks they can show little: see `significance.sign_flip_floor`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kdcache.errors import ComparisonError
from kdcache.statistics import significance
from kdcache.statistics.across.permutation import flips
from kdcache.statistics.across.ranks import DECIMALS

DRAWS = 50_000
PRIOR = 0.5  # weight of a pseudo-task with difference 0; each real task has weight 1


def wilcoxon(d: ArrayLike) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test over tasks; `None` below two tasks.

    Ties share their ranks; zeros are ranked but have no sign (Pratt 1959). p is the share of sign patterns with a rank
    sum as extreme as the observed one: of all 2^n patterns up to 16 tasks (exact, even with ties, and never below 2 /
    2^n), of 99,999 seeded patterns beyond.
    """
    d = _tasks(d)
    if d.size < 2:
        return None
    return flips(np.sign(d) * stats.rankdata(np.abs(d)))


@dataclass(frozen=True)
class RopeProbabilities:
    """Posterior probabilities that a method is worse, within the margin, or better; they sum to 1."""

    worse: float
    within: float
    better: float


def bayesian_signed_rank(d: ArrayLike, rope: float, seed: int = 0) -> RopeProbabilities | None:
    """The Bayesian signed-rank test with a region of practical equivalence (ROPE); `None` below two tasks.

    A Dirichlet process with prior strength `PRIOR` at a difference of zero (Benavoli et al. 2014, 2017). One
    draw of weights w ~ Dirichlet(0.5, 1, ..., 1) over (0, d) gives theta_better = sum_ij w_i w_j [d_i + d_j > 2 rope],
    theta_worse likewise with < -2 rope, and theta_within as the rest; a sum on the edge counts half for each side. A
    region's probability is the share of `DRAWS` seeded draws in which its theta is the largest.

    Args:
        d: the tasks' mean differences, in the unit of `rope`.
        rope: half the width of the region; the margin.

    Raises:
        ComparisonError: rope is not positive, or a difference is not finite.
    """
    if not rope > 0:
        raise ComparisonError(f"the region of practical equivalence must be wider than 0, found {rope}")
    d = _tasks(d)
    if d.size < 2:
        return None
    values = np.concatenate([[0.0], d[np.lexsort((d, np.abs(d)))]])  # the order of tasks does not matter
    sums = np.round(values[:, None] + values, DECIMALS)
    weights = np.random.default_rng(seed).dirichlet([PRIOR] + [1.0] * d.size, DRAWS)
    better = _theta(weights, np.heaviside(sums - 2 * rope, 0.5))
    worse = _theta(weights, np.heaviside(-sums - 2 * rope, 0.5))
    return RopeProbabilities(*_winners(np.stack([worse, 1 - worse - better, better], axis=1)))


def _tasks(d: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(d, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ComparisonError(f"expected a finite mean difference per task, found {values.tolist()}")
    return np.asarray(np.round(values, DECIMALS))


def _theta(weights: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """sum_ij w_i w_j share_ij for each draw; [draws, n], [n, n] -> [draws]."""
    return np.asarray(((weights @ share) * weights).sum(axis=1))


def _winners(theta: NDArray[np.float64]) -> list[float]:
    """The share of draws in which each column is the largest; columns that tie (to rounding) share the draw."""
    largest = theta >= theta.max(axis=1, keepdims=True) - significance.ROUNDING
    return [float(share) for share in (largest / largest.sum(axis=1, keepdims=True)).mean(axis=0)]
