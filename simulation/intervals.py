"""Confidence intervals of many samples at once: Student's, Welch's, and the bootstrap's two.

Samples are along the last axis. Every function gives (low, high), NaN for a sample without spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from scipy import special

from simulation.procedure import Array, constant

Interval = tuple[Array, Array]
Samples = Sequence[Array]  # one, of matched differences, or two, of unmatched scores; each [repetitions, n]


def student(d: Array, confidence: float = 0.95) -> Interval:
    """mean +- t sd / sqrt(n), as significance.mean_interval."""
    n = d.shape[-1]
    half = special.stdtrit(n - 1, (1 + confidence) / 2) * d.std(axis=-1, ddof=1) / math.sqrt(n)
    return _around(d.mean(axis=-1), np.where(constant(d), np.nan, half))


def welch(x: Array, y: Array, confidence: float = 0.95) -> Interval:
    """Welch's interval of the difference of two means, as significance.welch_difference."""
    a, b = x.var(axis=-1, ddof=1) / x.shape[-1], y.var(axis=-1, ddof=1) / y.shape[-1]
    flat = constant(x) & constant(y)
    parts = a**2 / (x.shape[-1] - 1) + b**2 / (y.shape[-1] - 1)
    df = (a + b) ** 2 / np.where(flat, np.nan, parts)
    half = special.stdtrit(df, (1 + confidence) / 2) * np.sqrt(a + b)
    return _around(x.mean(axis=-1) - y.mean(axis=-1), half)


def _around(mean: Array, half: Array) -> Interval:
    return mean - half, mean + half


def resampled(samples: Samples, resamples: int, rng: Generator) -> Array:
    """Sorted bootstrap estimates, [repetitions, resamples], of a mean or of the difference of two.

    One set of random resamples serves all repetitions, so the means are one matrix product. A resample that repeats
    the sample itself gets exactly its mean. Otherwise rounding would decide whether it counts as below or above, and
    with a handful of values such resamples are a sizeable share.
    """
    drawn = [_resampled_means(sample, resamples, rng) for sample in samples]
    centre = _estimate([sample.mean(axis=-1, keepdims=True) for sample in samples])
    size = sum(np.abs(sample).max(axis=-1, keepdims=True) for sample in samples)
    estimates = _estimate(drawn)
    return np.sort(np.where(np.abs(estimates - centre) <= 1e-12 * size, centre, estimates), axis=-1)


def _resampled_means(sample: Array, resamples: int, rng: Generator) -> Array:
    n = sample.shape[-1]
    return np.asarray(sample @ rng.multinomial(n, np.full(n, 1 / n), size=resamples).T / n)


def _estimate(means: Sequence[Array]) -> Array:
    return means[0] if len(means) == 1 else means[0] - means[1]


def percentile(samples: Samples, estimates: Array, confidence: float = 0.95) -> Interval:
    """The middle of the bootstrap estimates."""
    tail = np.full(len(estimates), (1 - confidence) / 2)
    return _known(samples, _quantile(estimates, tail), _quantile(estimates, 1 - tail))


def bca(samples: Samples, estimates: Array, confidence: float = 0.95) -> Interval:
    """Bias-corrected and accelerated (Efron 1987), as scipy.stats.bootstrap defines it, of means."""
    centre = _estimate([sample.mean(axis=-1, keepdims=True) for sample in samples])
    bias = special.ndtri(((estimates < centre).mean(axis=-1) + (estimates <= centre).mean(axis=-1)) / 2)
    acceleration = _acceleration(samples)
    z = float(special.ndtri((1 - confidence) / 2))
    low, high = (special.ndtr(bias + (bias + q) / (1 - acceleration * (bias + q))) for q in (z, -z))
    return _known(samples, _quantile(estimates, low), _quantile(estimates, high))


def _acceleration(samples: Samples) -> Array:
    """The acceleration, from the jackknife; a mean's jackknife deviations are the sample's divided by n - 1."""
    skew, spread = 0.0, 0.0
    for sample, sign in zip(samples, (1, -1), strict=False):
        deviations = sign * (sample - sample.mean(axis=-1, keepdims=True)) / sample.shape[-1]
        skew = skew + (deviations**3).sum(axis=-1)
        spread = spread + (deviations**2).sum(axis=-1)
    with np.errstate(invalid="ignore"):  # no spread: 0 / 0, and no interval
        return np.asarray(skew / spread**1.5 / 6)


def _quantile(ordered: Array, level: Array) -> Array:
    """One quantile a row of sorted values, interpolated linearly."""
    place = np.nan_to_num(level) * (ordered.shape[-1] - 1)
    low = np.clip(np.floor(place).astype(np.intp), 0, ordered.shape[-1] - 2)
    rows = np.arange(len(ordered))
    share = place - low
    return np.asarray((1 - share) * ordered[rows, low] + share * ordered[rows, low + 1])


def _known(samples: Samples, low: Array, high: Array) -> Interval:
    flat = np.logical_and.reduce([constant(sample) for sample in samples])
    return np.where(flat, np.nan, low), np.where(flat, np.nan, high)
