"""`replay` on many families at once, as arrays: for simulations and for planning a study.

Differences are [repetitions, comparisons, seeds] of matched seeds, positive if the configuration is better. The rules
are those of replay.py, for families whose trials are all there; tests check that both give the same verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from kdcache.statistics import significance
from kdcache.statistics.boundaries import Sides
from kdcache.statistics.families import correct
from kdcache.statistics.looks import Design
from kdcache.study.looks import Correction

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

BETTER, WORSE, EQUIVALENT, MAXIMUM, HOPELESS = range(5)
OPEN = -1


@dataclass(frozen=True)
class Many:
    """Every comparison at the look at which it stopped; each array is [repetitions, comparisons].

    verdict: BETTER, WORSE, EQUIVALENT, MAXIMUM (undecided at the last look) or HOPELESS; look: from 1; seeds: that
    look's number of seeds; difference, low, high: mean and repeated interval at that look (NaN without spread).
    """

    verdict: NDArray[np.intp]
    look: NDArray[np.intp]
    seeds: NDArray[np.intp]
    difference: Array
    low: Array
    high: Array

    @property
    def decided(self) -> Mask:
        return self.verdict <= EQUIVALENT

    @property
    def trials(self) -> NDArray[np.intp]:
        """The number of trials of each family, its baseline's included, [repetitions]."""
        return np.asarray(self.seeds.sum(axis=-1) + self.seeds.max(axis=-1))


@dataclass(frozen=True)
class _Sample:
    """Mean, sd and p-values of one look, each [repetitions, comparisons]."""

    mean: Array
    sd: Array
    flat: Mask  # no spread
    t_p: Array
    tost_p: Array


def replay_many(
    design: Design, d: Array, margin: float, *, difference: bool = True, equivalence: bool = True
) -> Many:
    """Judge every family at every look.

    difference, equivalence: whether each test may stop a comparison. With only one of them, the error rate of that test
    is as high as it can be.
    """
    shape = d.shape[:2]
    verdict, look_of = np.full(shape, OPEN, dtype=np.intp), np.zeros(shape, dtype=np.intp)
    t_q, tost_q = np.ones(shape), np.ones(shape)
    mean, half = np.zeros(shape), np.zeros(shape)
    for look, n in enumerate(design.looks, 1):
        going_on, sample = verdict == OPEN, _sample(d[..., :n], margin)
        t_q = np.where(going_on, _sequential(design, look, sample.t_p, 2, sample.flat), t_q)
        tost_q = np.where(going_on, _sequential(design, look, sample.tost_p, 1, sample.flat), tost_q)
        different = (corrected(t_q, design.correction) <= design.alpha) & difference
        within = (corrected(tost_q, design.correction) <= design.alpha) & equivalence
        now = np.where(
            different, np.where(sample.mean > 0, BETTER, WORSE), np.where(within, EQUIVALENT, OPEN)
        )
        if n == design.looks[-1]:
            now = np.where(now == OPEN, MAXIMUM, now)
        elif look > 1 and design.stop_hopeless > 0:
            hopeless = _chance(design, n, sample, margin, d.shape[1]) < design.stop_hopeless
            now = np.where((now == OPEN) & hopeless, HOPELESS, now)
        stops = going_on & (now != OPEN)
        verdict, look_of = np.where(stops, now, verdict), np.where(stops, look, look_of)
        mean = np.where(stops, sample.mean, mean)
        half = np.where(stops, _half(design, look, n, sample), half)
    seeds = np.array(design.looks, dtype=np.intp)[look_of - 1]
    return Many(verdict, look_of, seeds, mean, mean - half, mean + half)


def corrected(p: Array, method: Correction) -> Array:
    """`families.correct` over the last axis, fast for Holm."""
    if method != "holm":
        return np.asarray(np.apply_along_axis(correct, -1, p, method))
    size = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, axis=-1) * np.arange(size, 0, -1), axis=-1)
    result = np.empty_like(p)
    np.put_along_axis(result, order, np.minimum(1.0, stepped), axis=-1)
    return result


def _sample(d: Array, margin: float) -> _Sample:
    n, mean, sd = d.shape[-1], d.mean(axis=-1), d.std(axis=-1, ddof=1)
    flat = np.ptp(d, axis=-1) <= significance.ROUNDING * np.abs(d).max(axis=-1)
    error = np.where(flat, 1.0, sd) / math.sqrt(n)
    above = special.stdtr(n - 1, -(mean + margin) / error)  # H0: the true difference is -margin or less
    below = special.stdtr(n - 1, (mean - margin) / error)
    t_p, tost_p = 2 * special.stdtr(n - 1, -np.abs(mean) / error), np.maximum(above, below)
    if flat.any():
        t_p[flat] = _each(mean[flat], lambda value: significance.paired_t(np.full(n, value)))
        tost_p[flat] = _each(mean[flat], lambda value: significance.tost_paired(np.full(n, value), margin))
    return _Sample(mean, np.where(flat, 0.0, sd), flat, t_p, tost_p)


def _each(means: Array, p: Callable[[float], float]) -> Array:
    """The exact test's p for samples without spread; it is computed once for each of the few different means."""
    values, inverse = np.unique(means, return_inverse=True)
    return np.array([p(float(value)) for value in values])[inverse]


def _sequential(design: Design, look: int, p: ArrayLike, sides: Sides, flat: Mask) -> Array:
    q = design.sequential(look, p, sides)
    return np.where(flat, design.sequential(look, p, sides, exact=False), q) if flat.any() else q


def _half(design: Design, look: int, n: int, sample: _Sample) -> Array:
    """Half the width of the repeated interval."""
    t = significance.t_quantile(1 - design.nominal(look, design.alpha, 2) / 2, n - 1)
    return np.where(sample.flat, np.nan, t * sample.sd / math.sqrt(n))


def _chance(design: Design, n: int, sample: _Sample, margin: float, size: int) -> Array:
    """The predictive probability that the last look decides; see replay.py. It is 1 without spread: never given up."""
    last, at = design.looks[-1], design.strictest(size)
    level = [design.nominal(len(design.looks), at, sides) / sides for sides in (1, 2)]
    equivalence, difference = (significance.t_quantile(1 - tail, last - 1) for tail in level)
    sd = np.where(sample.flat, 1.0, sample.sd)
    beyond, within = difference * sd / math.sqrt(last), margin - equivalence * sd / math.sqrt(last)
    moves = sd * math.sqrt(1 / n - 1 / last)
    chance = special.ndtr((sample.mean - beyond) / moves) + special.ndtr((-sample.mean - beyond) / moves)
    inside = special.ndtr((within - sample.mean) / moves) - special.ndtr((-within - sample.mean) / moves)
    return np.where(sample.flat, 1.0, chance + np.where(within > 0, inside, 0.0))
