"""The tests and intervals of kdcache.statistics.across on many studies at once; tests check that both are equal.

d: differences of matched seeds from the baseline, [repetitions, tasks, seeds]; means: task means, [repetitions,
tasks, methods], or of one method's differences [repetitions, tasks]. NaN if kdcache has no answer.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
from numpy.random import Generator
from scipy import special, stats

from kdcache.statistics import significance
from kdcache.statistics.across.bootstrap import TRIM
from kdcache.statistics.across.permutation import CHUNK
from kdcache.statistics.across.ranks import DECIMALS
from kdcache.statistics.across.signed_rank import PRIOR
from simulation.intervals import Interval
from simulation.procedure import Array, Mask

BLOCK = 4096  # sign patterns, or studies' resamples, held at once
SCREEN = 5_000  # sign patterns that settle most p-values
UNSETTLED = (
    0.005,
    0.08,
)  # outside, a p of SCREEN patterns is on the right side of 0.0125..0.05, but for 1 in 10^5


def friedman(means: Array) -> Array:
    """p of Friedman's test, [repetitions], corrected for ties."""
    means = np.round(means, DECIMALS)
    tasks, methods = means.shape[1:]
    sums = stats.rankdata(means, axis=-1).sum(axis=1)
    equal = (means[..., :, None] == means[..., None, :]).sum(axis=-1)  # each score's group of ties
    ties = 1 - (equal**2 - 1).sum(axis=(1, 2)) / (tasks * methods * (methods**2 - 1))
    raw = 12 / (tasks * methods * (methods + 1)) * (sums**2).sum(axis=-1) - 3 * tasks * (methods + 1)
    return np.asarray(special.chdtrc(methods - 1, raw / np.where(ties > 0, ties, np.nan)))


def wilcoxon(means: Array) -> Array:
    """Exact two-sided p over tasks, [repetitions]; at most 16 tasks."""
    means = np.round(means, DECIMALS)
    return flips(np.sign(means) * stats.rankdata(np.abs(means), axis=-1))


def permutation(d: Array) -> Array:
    """Stratified permutation p, [repetitions], with equally many seeds on every task."""
    return flips(d.reshape(len(d), -1) / (d.shape[1] * d.shape[2]))


def flips(values: Array) -> Array:
    """Two-sided sign-flip p of each row's sum.

    Exact up to 16 values. Beyond, the first `SCREEN` of the library's draws decide most p-values; only for those that
    they leave `UNSETTLED` all draws are used. What is rejected at 5% after Holm over four is the same.
    """
    n = values.shape[-1]
    if n <= significance.EXACT:
        every = _every_sign(n)
        return _extreme(every, values, np.abs(values)) / len(every)
    drawn, size = _drawn_signs(n), np.sort(np.abs(values), axis=-1)
    p = (1 + _extreme(drawn[:SCREEN], values, size)) / (1 + SCREEN)
    unsettled = (p > UNSETTLED[0]) & (p < UNSETTLED[1])
    p[unsettled] = (1 + _extreme(drawn, values[unsettled], size[unsettled])) / (1 + len(drawn))
    return np.asarray(p)


def _extreme(signs: Array, values: Array, size: Array) -> Array:
    """How many sign patterns of `size` give a sum as far from 0 as that of the row's values."""
    least = np.abs(values.sum(axis=-1)) - significance.ROUNDING * size.sum(axis=-1)
    counts = np.zeros(len(values))
    for start in range(0, len(signs), BLOCK):
        counts += (np.abs(signs[start : start + BLOCK] @ size.T) >= least).sum(axis=0)
    return counts


@cache
def _every_sign(n: int) -> Array:
    return np.array(list(itertools.product((1.0, -1.0), repeat=n)))


@cache
def _drawn_signs(n: int) -> Array:
    """The library's own signs: the same seed and the same chunks."""
    rng, rows = np.random.default_rng(0), max(1, CHUNK // n)
    counts = [min(rows, significance.RESAMPLES - start) for start in range(0, significance.RESAMPLES, rows)]
    drawn = [rng.integers(0, 2, size=(count, n), dtype=np.int8) for count in counts]
    return np.concatenate(drawn).astype(float) * 2 - 1


def mixed(scores: Array) -> tuple[Array, Array]:
    """Effects [repetitions, regularizers] and their standard error [repetitions] in the mixed model.

    scores: [repetitions, tasks, methods, seeds], the baseline first. In a balanced design the model has a closed
    form: the effects are differences of means, with variance 2 s^2 / (tasks x seeds), and by restricted maximum
    likelihood s^2 is the residual mean square, pooled with those of seeds and tasks where these are smaller (a
    variance of a random effect cannot be negative; Thompson 1962).
    """
    tasks, methods, seeds = scores.shape[1:]
    means = scores.mean(axis=(1, 3))
    centred = scores - means[:, None, :, None]
    of_seed = centred.mean(axis=2)
    of_task = of_seed.mean(axis=2)
    squares = np.stack([
        ((centred - of_seed[:, :, None]) ** 2).sum(axis=(1, 2, 3)),
        methods * ((of_seed - of_task[..., None]) ** 2).sum(axis=(1, 2)),
        methods * seeds * (of_task**2).sum(axis=1),
    ])  # fmt: skip
    df = np.array([(methods - 1) * (tasks * seeds - 1), tasks * (seeds - 1), tasks - 1])
    pooled = (np.cumsum(squares, axis=0) / np.cumsum(df)[:, None]).min(axis=0)
    return means[:, 1:] - means[:, :1], np.sqrt(2 * pooled / (tasks * seeds))


def mixed_p(scores: Array) -> Array:
    """Two-sided normal p of each effect, [repetitions, regularizers]."""
    effects, error = mixed(scores)
    return np.asarray(2 * special.ndtr(-np.abs(effects) / error[:, None]))


def mixed_interval(scores: Array, confidence: float = 0.95) -> Interval:
    effects, error = mixed(scores)
    half = special.ndtri((1 + confidence) / 2) * error[:, None]
    return effects - half, effects + half


def interquartile_mean(scores: Array, resamples: int, rng: Generator) -> Interval:
    """Bootstrap interval of one method's scores, [repetitions, tasks, seeds]; one set of resamples for all."""
    tasks, seeds = scores.shape[1:]
    drawn = rng.integers(0, seeds, (resamples, tasks, seeds)) + seeds * np.arange(tasks)[:, None]
    indices, flat = drawn.reshape(resamples, -1), scores.reshape(len(scores), -1)
    estimates = np.stack([_trimmed(row[indices]) for row in flat])
    return _percentiles(estimates)


def _trimmed(values: Array) -> Array:
    """Mean of the middle half of each row."""
    cut = int(TRIM * values.shape[-1])
    return np.asarray(np.sort(values, axis=-1)[:, cut : values.shape[-1] - cut].mean(axis=-1))


def improvement(x: Array, y: Array, resamples: int, rng: Generator) -> Interval:
    """Bootstrap interval of P(x > y) + P(x = y) / 2, scores [repetitions, tasks, seeds]; one set of resamples."""
    tasks, seeds = x.shape[1:]
    estimates = np.zeros((len(x), resamples))
    for task in range(tasks):
        wins = np.heaviside(x[:, task, :, None] - y[:, task, None, :], 0.5)
        sides = [rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds for _ in "xy"]
        shares = sides[0][:, :, None] * sides[1][:, None, :]
        estimates += wins.reshape(len(x), -1) @ shares.reshape(resamples, -1).T / tasks
    return _percentiles(estimates)


def _percentiles(estimates: Array, confidence: float = 0.95) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail], axis=-1)
    flat = np.ptp(estimates, axis=-1) <= 1e-12 * np.abs(estimates).max(axis=-1)
    return np.where(flat, np.nan, low), np.where(flat, np.nan, high)


def signed_rank(means: Array, rope: float, draws: int) -> Array:
    """Posterior probabilities of worse, within, better, [repetitions, 3], by the library's first `draws` draws."""
    means = np.round(means, DECIMALS)
    order = np.lexsort((means, np.abs(means)), axis=-1)
    values = np.concatenate([np.zeros((len(means), 1)), np.take_along_axis(means, order, axis=-1)], axis=-1)
    sums = np.round(values[:, :, None] + values[:, None, :], DECIMALS).reshape(len(means), -1)
    weights = np.random.default_rng(0).dirichlet([PRIOR] + [1.0] * means.shape[1], draws)
    pairs = (weights[:, :, None] * weights[:, None, :]).reshape(draws, -1)
    parts = []
    for start in range(0, len(means), 100):
        some = sums[start : start + 100]
        worse, better = (np.heaviside(side - 2 * rope, 0.5) @ pairs.T for side in (-some, some))
        parts.append(_largest(np.stack([worse, 1 - worse - better, better], axis=-1)))
    return np.concatenate(parts)


def _largest(theta: Array) -> Array:
    """The share of draws (second-last axis) in which each of the last axis is the largest; ties share a draw."""
    largest: Mask = theta >= theta.max(axis=-1, keepdims=True) - significance.ROUNDING
    return np.asarray((largest / largest.sum(axis=-1, keepdims=True)).mean(axis=-2))
