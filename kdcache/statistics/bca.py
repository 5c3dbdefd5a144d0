"""BCa bootstrap intervals of a mean difference over seeds (Efron 1987), by scipy.

A bootstrap can only redraw what it has. At five seeds its interval never leaves the range of the five values and is
too short: it covers less than it says (docs/statistics.md has the numbers), so the t interval stays the one to quote.
It is worth having for its shape: where the two disagree much, the differences are far from normal.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from kdcache.statistics.significance import Scores, constant, scores

Interval: TypeAlias = tuple[float, float]
RESAMPLES = 9_999
DECIMALS = 12  # resampled means, in sd, that agree to this are ties


def bca_mean(d: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """BCa interval of the mean of matched differences; `None` where they have no spread.

    Seeded; the order of the seeds changes nothing, and -d has the mirrored interval.
    """
    d = scores(d)
    if constant(d):
        return None
    centre, unit = float(d.mean()), float(d.std(ddof=1))
    z, sign = _canonical((d - centre) / unit)
    return _placed(_bca((z,), confidence), centre, sign * unit)


def bca_welch(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """BCa interval of the difference of two independent means; `None` where neither sample has spread."""
    first, second = scores(x), scores(y)
    if constant(first) and constant(second):
        return None
    centres = float(first.mean()), float(second.mean())
    unit = math.sqrt(first.var(ddof=1) + second.var(ddof=1))
    samples = tuple(np.sort(s - centre) / unit for s, centre in zip((first, second), centres, strict=True))
    return _placed(_bca(samples, confidence), centres[0] - centres[1], unit)


def _canonical(z: Scores) -> tuple[Scores, int]:
    """The same resamples for any order and for mirrored values: sorted, and of z and -z the larger."""
    up, down = np.sort(z), np.sort(-z)
    return (up, 1) if tuple(up.round(DECIMALS)) >= tuple(down.round(DECIMALS)) else (down, -1)


def _bca(samples: tuple[Scores, ...], confidence: float) -> Interval | None:
    """In units of the spread about 0, so that shift and scale change no tie between resampled means."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns where BCa has no answer; it is NaN then
        found = stats.bootstrap(
            samples,
            _mean_difference,
            n_resamples=RESAMPLES,
            confidence_level=confidence,
            method="BCa",
            vectorized=True,
            rng=np.random.default_rng(0),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _mean_difference(first: Any, second: Any = None, axis: int = -1) -> Any:
    mean = np.mean(first, axis=axis) - (0.0 if second is None else np.mean(second, axis=axis))
    return np.round(mean, DECIMALS)


def _placed(interval: Interval | None, centre: float, unit: float) -> Interval | None:
    """Back to points; a negative unit mirrors the interval."""
    if interval is None:
        return None
    low, high = sorted(centre + unit * end for end in interval)
    return low, high
