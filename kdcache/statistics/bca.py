"""BCa bootstrap intervals of a mean difference over seeds (Efron 1987), by scipy.

A bootstrap can only redraw the values it has. With five seeds its interval never leaves the range of the five values,
and is too short: it covers less than it says (docs/statistics.md has the numbers). So quote the t interval. The BCa
interval is useful for its shape: if the two disagree much, the differences are far from normal.
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
    """BCa interval of the mean of matched differences; `None` if they have no spread.

    Seeded. The order of the seeds does not matter, and -d gives the mirrored interval.
    """
    d = scores(d)
    if constant(d):
        return None
    centre, unit = float(d.mean()), float(d.std(ddof=1))
    z, sign = _canonical((d - centre) / unit)
    return _placed(_bca((z,), confidence), centre, sign * unit)


def bca_welch(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """BCa interval of the difference of two independent means; `None` if neither sample has spread."""
    first, second = scores(x), scores(y)
    if constant(first) and constant(second):
        return None
    centres = float(first.mean()), float(second.mean())
    unit = math.sqrt(first.var(ddof=1) + second.var(ddof=1))
    samples = tuple(np.sort(s - centre) / unit for s, centre in zip((first, second), centres, strict=True))
    return _placed(_bca(samples, confidence), centres[0] - centres[1], unit)


def _canonical(z: Scores) -> tuple[Scores, int]:
    """A canonical form (sorted, the larger of z and -z) and its sign: order and mirroring change no resample."""
    up, down = np.sort(z), np.sort(-z)
    return (up, 1) if tuple(up.round(DECIMALS)) >= tuple(down.round(DECIMALS)) else (down, -1)


def _bca(samples: tuple[Scores, ...], confidence: float) -> Interval | None:
    """The interval in units of the spread around 0, so that shift and scale change no tie between resampled means."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns if BCa has no answer; the result is then NaN
        interval = stats.bootstrap(
            samples,
            _mean_difference,
            n_resamples=RESAMPLES,
            confidence_level=confidence,
            method="BCa",
            vectorized=True,
            rng=np.random.default_rng(0),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _mean_difference(first: Any, second: Any = None, axis: int = -1) -> Any:
    mean = np.mean(first, axis=axis) - (0.0 if second is None else np.mean(second, axis=axis))
    return np.round(mean, DECIMALS)


def _placed(interval: Interval | None, centre: float, unit: float) -> Interval | None:
    """An interval converted back to points; a negative unit mirrors it."""
    if interval is None:
        return None
    low, high = sorted(centre + unit * end for end in interval)
    return low, high
