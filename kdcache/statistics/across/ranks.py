"""Ranks of several methods over several tasks: is there any difference between methods, and how do they rank?

The critical difference is for the ranking as a whole (the diagram of Demsar 2006). It is not used to compare two
methods, because whether their mean ranks differ by more than the critical difference depends on the other methods in
the ranking (Benavoli, Corani and Mangili 2016). So each comparison with the baseline has its own signed-rank test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kdcache.errors import ComparisonError

DECIMALS = 9  # of a point: means that agree to so many decimals are tied, so that rounding does not matter


@dataclass(frozen=True)
class Friedman:
    """The statistic (chi-squared with methods - 1 degrees of freedom) and its p-value."""

    statistic: float
    p: float


def scores_matrix(means: ArrayLike) -> NDArray[np.float64]:
    """Task means as [tasks, methods], rounded so that equal means are ties; ComparisonError if one is not finite."""
    matrix = np.asarray(means, dtype=np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise ComparisonError(f"expected finite task means [tasks, methods], found shape {matrix.shape}")
    return np.asarray(np.round(matrix, DECIMALS))


def mean_ranks(means: ArrayLike) -> NDArray[np.float64]:
    """Each method's rank averaged over tasks, [tasks, k] -> [k]; rank 1 is the highest mean, ties share their rank."""
    return np.asarray(stats.rankdata(-scores_matrix(means), axis=1).mean(axis=0))


def friedman(means: ArrayLike) -> Friedman | None:
    """Friedman's test that no method ranks higher than another on [tasks, k] means, corrected for ties.

    `None` if the test is not defined: fewer than two tasks or three methods, or ties on every task. The chi-squared
    p-value is approximate, and rough below about ten tasks (Demsar 2006).
    """
    matrix = scores_matrix(means)
    if matrix.shape[0] < 2 or matrix.shape[1] < 3 or not np.ptp(matrix, axis=1).any():
        return None
    result = stats.friedmanchisquare(*matrix.T)
    return Friedman(float(result.statistic), float(result.pvalue))


@lru_cache(maxsize=256)
def critical_difference(methods: int, tasks: int, alpha: float = 0.05) -> float:
    """The difference of mean ranks that Nemenyi's test calls significant among `methods` over `tasks`.

    CD = q sqrt(k (k + 1) / (6 N)), q the upper alpha quantile of the studentized range of k means with
    infinite degrees of freedom over sqrt(2) (Demsar 2006, section 3.2.2). For a diagram of the ranking only.
    """
    if methods < 2 or tasks < 1:
        raise ComparisonError(
            f"a critical difference needs two methods and a task, found {methods} and {tasks}"
        )
    q = float(stats.studentized_range.isf(alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * tasks))
