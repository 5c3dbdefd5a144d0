"""Almost stochastic order (ASO): does one method's score distribution lie above another's, nearly everywhere?

Used on request only, not by `compare`: it ignores the matching of seeds, and with few seeds its bootstrap is
overconfident (five scores that all lie above five others give exactly 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kdcache.errors import ComparisonError

Floats = NDArray[np.float64]


def almost_stochastic_order(
    x: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float = 0.05,
    comparisons: int = 1,
    repeats: int = 1000,
    seed: int = 0,
) -> float:
    """Upper confidence bound eps_min in 0..1 of the violation of "x is stochastically larger than y".

    0: no violation; below 0.5 (better: below 0.2): x is almost stochastically larger; 0.5 or more: the order is not
    shown. eps_min = eps(x, y) + z_{1 - alpha / comparisons} sd*(eps), with sd* over bootstrap resamples of both (del
    Barrio, Cuesta-Albertos and Matran 2018; Dror, Shlomov and Reichart 2019). `comparisons` is the number of such
    bounds that are read together (Bonferroni).

    Raises:
        ComparisonError: fewer than two scores on a side, or one that is not finite; a level out of range.
    """
    first, second = _scores(x), _scores(y)
    if not (0 < alpha < 1 and comparisons >= 1 and repeats >= 2):
        raise ComparisonError("alpha must be in 0..1, comparisons at least 1 and repeats at least 2")
    rng = np.random.default_rng(seed)
    drawn = (rng.choice(values, size=(repeats, values.size)) for values in (first, second))
    spread = float(np.std(_violations(*drawn)))
    bound = violation_ratio(first, second) + spread * float(stats.norm.isf(alpha / comparisons))
    return min(1.0, max(0.0, bound))


def violation_ratio(x: ArrayLike, y: ArrayLike) -> float:
    """eps(x, y): the share of the squared 2-Wasserstein distance where y's quantile exceeds x's.

    Exact for samples, whose quantile functions are steps; 0.5 if x and y are equal.
    """
    return float(_violations(_scores(x)[None], _scores(y)[None])[0])


def _violations(x: Floats, y: Floats) -> Floats:
    """`violation_ratio` of each row; [repeats, n], [repeats, m] -> [repeats]."""
    n, m = x.shape[1], y.shape[1]
    cuts = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))  # in units of 1 / (n m)
    above = np.sort(y)[:, cuts[:-1] // n] - np.sort(x)[:, cuts[:-1] // m]  # y's quantile minus x's
    widths = np.diff(cuts) / (n * m)
    distance = (above**2 * widths).sum(axis=1)
    violated = (np.maximum(above, 0) ** 2 * widths).sum(axis=1)
    return np.asarray(np.divide(violated, distance, out=np.full(len(x), 0.5), where=distance > 0))


def _scores(values: Any) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
        raise ComparisonError(f"expected two or more finite scores, found {array.tolist()}")
    return array
