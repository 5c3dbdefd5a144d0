"""How large a difference is: in units of the spread (Hedges' g), or without a unit (Cliff's delta)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from kdcache.statistics.significance import ROUNDING, differences, scores, settled


def hedges_g_av(x: ArrayLike, y: ArrayLike) -> float | None:
    """Hedges' g_av for matched seeds: J(n-1) * mean(x - y) / sqrt((sd_x^2 + sd_y^2) / 2).

    The unit is the spread over seeds, not the spread of the differences. So g does not grow with the correlation of
    matched seeds, and it is comparable with unpaired studies (Cumming 2012; Lakens 2013, doi
    10.3389/fpsyg.2013.00863). `None` without spread, and below 3 seeds, where no unbiased version exists.
    """
    first, second = scores(x), scores(y)
    return _hedges(
        settled(differences(x, y).mean(), first, second),
        (first.var(ddof=1) + second.var(ddof=1)) / 2,
        first.size - 1,
    )


def hedges_g_s(x: ArrayLike, y: ArrayLike) -> float | None:
    """Hedges' g_s for independent samples: J(n+m-2) * (mean x - mean y) / pooled sd (Hedges 1981)."""
    first, second = scores(x), scores(y)
    df = first.size + second.size - 2
    pooled = ((first.size - 1) * first.var(ddof=1) + (second.size - 1) * second.var(ddof=1)) / df
    return _hedges(settled(first.mean() - second.mean(), first, second), pooled, df)


def _hedges(mean: Any, variance: Any, df: int) -> float | None:
    if df < 2 or float(variance) <= (ROUNDING * abs(float(mean))) ** 2:
        return None
    return small_sample_factor(df) * float(mean) / math.sqrt(float(variance))


def small_sample_factor(df: int) -> float:
    """Hedges' exact correction J(df) = Gamma(df/2) / (sqrt(df/2) Gamma((df-1)/2)), for df >= 2."""
    return math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)


def cliffs_delta(x: ArrayLike, y: ArrayLike) -> float:
    """Cliff's delta, P(X > Y) - P(X < Y) over all pairs of a score of `x` and one of `y`: -1 to 1.

    It uses ranks only, so it needs no spread. 1 means that every score of `x` is above every score of `y`. It ignores
    the matching of seeds (Cliff 1993). Scores that differ only by rounding count as tied.
    """
    first, second = scores(x), scores(y)
    pairs = first[:, None] - second[None, :]
    noise = ROUNDING * max(np.abs(first).max(), np.abs(second).max())
    return float(np.mean(np.where(np.abs(pairs) <= noise, 0.0, np.sign(pairs))))
