"""What a number of seeds can show: detectable differences, the margin that TOST needs, and the seeds to settle.

All powers are exact for normal differences (the noncentral t and its counterpart for two one-sided tests) and computed
by numerical integration. They treat the spread as known. Five seeds estimate a spread poorly (95% range: 0.6 to 2.9
times), so take numbers from an observed spread as an order of magnitude.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from kdcache.statistics.significance import (
    Scores,
    constant,
    label_permutation_floor,
    scores,
    sign_flip_floor,
    welch_error,
)

POWER = 0.8
MOST_SEEDS = 1000  # a larger number of seeds is not computed


@dataclass(frozen=True)
class Spread:
    """The spread behind a mean difference of n seeds: its error is sd / sqrt(n), with (n - 1) * share degrees of
    freedom."""

    sd: float
    share: float = 1.0  # degrees of freedom per n - 1: 1 for matched seeds, 1 to 2 for Welch
    paired: bool = True

    @classmethod
    def unpaired(cls, sd_x: float, sd_y: float) -> Spread:
        """The spread for two independent samples of n seeds each (Welch-Satterthwaite)."""
        a, b = sd_x**2, sd_y**2
        return cls(math.sqrt(a + b), (a + b) ** 2 / (a**2 + b**2) if a + b else 1.0, paired=False)

    def critical(self, n: int, tail: float) -> tuple[float, float]:
        """Degrees of freedom with n seeds, and the t that is exceeded with probability `tail`."""
        df = (n - 1) * self.share
        return df, _exceeded(tail, df)

    def floor(self, n: int) -> float:
        """The smallest two-sided p of the exact test, which is used if there is no spread."""
        return sign_flip_floor(n) if self.paired else label_permutation_floor(n, n)


def detectable_difference(n: int, sd: float, alpha: float = 0.05, power: float = POWER) -> float:
    """The true difference that a two-sided paired t-test of `n` seeds finds with the given power.

    `sd` is the sd of the differences. The answer solves P(|T'| > t_{1-alpha/2, n-1}) = power for the noncentrality
    delta sqrt(n) / sd of the noncentral t variable T' (Cohen 1988). At n = 5 it is 1.68 sd.
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
    critical = _exceeded(alpha / 2, df)

    def excess(effect: float) -> float:
        return _t_power(effect, df, critical) - power

    return _root(excess, critical)


def _t_power(effect: float, df: float, critical: float) -> float:
    """P(|T'| > critical) for the noncentral t variable T' with noncentrality `effect`."""
    return _expected(lambda s: _chance_beyond(effect, critical * s), df, effect, critical)


def _chance_beyond(effect: float, bound: Scores) -> Scores:
    """P(|Z + effect| > bound) for a standard normal Z."""
    return np.asarray(special.ndtr(effect - bound) + special.ndtr(-effect - bound))


def _expected(value: Callable[[Scores], Scores], df: float, turn: float, critical: float) -> float:
    """E[value(S)] for S^2 = chi^2_df / df, where `value` turns within a few 1/critical of turn/critical.

    It uses Gauss-Legendre panels around the turn, instead of scipy's noncentral t, which is NaN for the large
    noncentralities of 2 or 3 seeds, and slower.
    """
    end = math.sqrt(float(special.chdtri(df, 1e-16)) / df)
    near = (turn + np.array([-12, -6, -3, -1, 0, 1, 3, 6, 12])) / critical
    cuts = np.unique(np.concatenate([np.linspace(0, end, 9), near[(near > 0) & (near < end)]]))
    nodes, weights = _gauss_legendre()
    half = np.diff(cuts)[:, None] / 2
    s = cuts[:-1, None] + half * (1 + nodes)
    return float(np.sum(half * weights * value(s) * _density(s, df)))


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[Scores, Scores]:
    return np.polynomial.legendre.leggauss(32)


def _density(s: Scores, df: float) -> Scores:
    """The density of S where S^2 = chi^2_df / df: 2 (df/2)^(df/2) / Gamma(df/2) s^(df-1) exp(-df s^2 / 2)."""
    k = df / 2
    log = math.log(2) + k * math.log(k) - math.lgamma(k) + (df - 1) * np.log(s) - k * s**2
    return np.asarray(np.exp(log))


def _exceeded(tail: float, df: float) -> float:
    """The t that a t variable exceeds with probability `tail`."""
    return -float(special.stdtrit(df, tail))


def tost_detectable_margin(n: int, sd: float, alpha: float = 0.05, power: float = POWER) -> float:
    """The margin that TOST of `n` matched seeds needs for the given power if the true mean is 0.

    With Z standard normal and S^2 = chi^2_{n-1} / (n-1) independent of it, TOST rejects when
    |Z| < k - t_{1-alpha, n-1} S for k = margin sqrt(n) / sd; so its power is E[max(0, 2 Phi(k - t S) - 1)]
    (exact, Phillips 1990). At n = 5: 1.61 sd.
    """
    return _tost_errors(n - 1, alpha, power) * sd / math.sqrt(n)


@lru_cache(maxsize=4096)
def _tost_errors(df: int, alpha: float, power: float) -> float:
    """The margin in standard errors of the mean difference."""
    critical = _exceeded(alpha, df)

    def excess(margin: float) -> float:
        return _tost_power(0.0, margin, df, critical) - power

    return _root(excess, critical)


def _tost_power(effect: float, margin: float, df: float, critical: float) -> float:
    """P(both one-sided tests reject) at a true `effect` >= 0; effect and margin in standard errors."""
    return _expected(lambda s: _shown(effect, margin, critical * s), df, margin - effect, critical)


def _shown(effect: float, margin: float, bound: Scores) -> Scores:
    """P(|Z + effect| < margin - bound) for a standard normal Z."""
    reach = margin - bound
    return np.maximum(0.0, special.ndtr(reach - effect) - special.ndtr(-reach - effect))


def _root(increasing: Callable[[float], float], start: float) -> float:
    """The zero of an increasing function, searched upwards from 0."""
    high = start
    while increasing(high) < 0:
        high *= 2
    return float(optimize.brentq(increasing, 0, high, xtol=1e-12, rtol=1e-13))


def seeds_to_find(difference: float, spread: Spread, alpha: float, power: float = POWER) -> int | None:
    """The fewest seeds with which a true `difference` is found by the two-sided t-test with the given power.

    The noncentrality is |difference| sqrt(n) / sd, as in `detectable_difference`. Without spread the exact permutation
    test is used, so the answer is the number of seeds at which its floor reaches alpha. `None` if the difference is 0,
    or if it takes more than `MOST_SEEDS`.
    """
    if difference == 0:
        return None
    if spread.sd == 0:
        return _fewest(lambda n: spread.floor(n) <= alpha)
    step = abs(difference) / spread.sd
    return _fewest(lambda n: _t_power(step * math.sqrt(n), *spread.critical(n, alpha / 2)) >= power)


def seeds_to_equate(
    difference: float, spread: Spread, margin: float, alpha: float, power: float = POWER
) -> int | None:
    """The fewest seeds with which TOST shows |true difference| < margin with the given power.

    The true difference is taken to be `difference`, not 0. `None` if it lies outside the margin, or if it takes more
    than `MOST_SEEDS`.
    """
    if abs(difference) >= margin:
        return None
    if spread.sd == 0:
        return _fewest(lambda n: spread.floor(n) / 2 <= alpha)
    effect, reach = abs(difference) / spread.sd, margin / spread.sd
    return _fewest(
        lambda n: (
            _tost_power(effect * math.sqrt(n), reach * math.sqrt(n), *spread.critical(n, alpha)) >= power
        )
    )


def _fewest(reached: Callable[[int], bool]) -> int | None:
    """The smallest number of seeds, 2 or more, at which an increasing condition holds."""
    counts = range(2, MOST_SEEDS + 1)
    index = bisect.bisect_left(counts, True, key=reached)
    return counts[index] if index < len(counts) else None
