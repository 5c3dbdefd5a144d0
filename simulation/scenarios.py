"""Scores that studies could have: normal, skewed, of unequal spread, counted on 277 rows.

A scenario draws scores [repetitions, tasks, students, arms, seeds] in points, arm 0 the baseline, whose true
means differ by given effects and by nothing else. Scores are drawn, not differences: the regularizers share
their baseline, so their differences are correlated, as in a study.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from simulation.procedure import Array, against_baseline

Shape = tuple[int, int, int, int, int]
LEVEL = 80.0  # points; where the scores lie does not matter to any test


@dataclass(frozen=True)
class Scenario:
    """A kind of scores; `draw(rng, shape, effects, sd)`.

    effects: points added to the true means, of a shape that broadcasts to [arms]; sd: a factor to the spread,
    broadcasting to [students, arms, seeds] (ignored by the counted scores, whose spread is given by their rows).
    """

    name: str
    text: str
    draw: Callable[[Generator, Shape, ArrayLike, ArrayLike], Array]

    def spread(self) -> float:
        """The sd of the differences of matched seeds in points, from 4,000 seeded draws (median over arms)."""
        d = against_baseline(self.draw(np.random.default_rng(0), (4000, 1, 1, 5, 5), 0.0, 1.0))
        return float(f"{np.median(np.sqrt(d.var(axis=-1, ddof=1).mean(axis=(0, 1, 2)))):.2g}")


Noise = Callable[[Generator, Shape], Array]


def _added(name: str, text: str, noise: Noise) -> Scenario:
    """Scores that are their true mean and noise of mean 0."""

    def draw(rng: Generator, shape: Shape, effects: ArrayLike, sd: ArrayLike) -> Array:
        return np.asarray(LEVEL + np.asarray(effects)[..., None] + np.asarray(sd) * noise(rng, shape))

    return Scenario(name, text, draw)


def _normal(rng: Generator, shape: Shape) -> Array:
    return rng.standard_normal(shape)


def _matched(rng: Generator, shape: Shape) -> Array:
    """Normal scores; four fifths of the variance belong to the seed, whatever the arm."""
    of_seed = rng.standard_normal((*shape[:3], 1, shape[4]))
    return math.sqrt(0.8) * of_seed + math.sqrt(0.2) * rng.standard_normal(shape)


def _unequal(rng: Generator, shape: Shape) -> Array:
    return np.resize([1.0, 0.5, 1.0, 2.0, 4.0], shape[3])[:, None] * rng.standard_normal(shape)


def _skewed(rng: Generator, shape: Shape) -> Array:
    """1 - Exp(1): mean 0, sd 1, most runs a little above, some far below."""
    return 1.0 - rng.standard_exponential(shape)


def _skewed_baseline(rng: Generator, shape: Shape) -> Array:
    noise = rng.standard_normal(shape)
    noise[..., :1, :] = _skewed(rng, (*shape[:3], 1, shape[4]))
    return noise


def _skewed_regularizers(rng: Generator, shape: Shape) -> Array:
    noise = _skewed(rng, shape)
    noise[..., :1, :] = 0.1 * rng.standard_normal((*shape[:3], 1, shape[4]))
    return noise


def _lognormal(rng: Generator, shape: Shape) -> Array:
    """exp(1/2) - exp(Z): mean 0, a heavier tail than the exponential's."""
    return math.exp(0.5) - np.exp(rng.standard_normal(shape))


def _collapsing(rng: Generator, shape: Shape) -> Array:
    """One run in ten loses ten sd, since fine-tuning on small tasks sometimes fails."""
    return rng.standard_normal(shape) - 10.0 * ((rng.random(shape) < 0.1) - 0.1)


ROWS = 277
CLASSES = 5  # of difficulty, about equally many rows each
SEED_SD = 0.1  # logits; half of the variance is the seed's, half the arm's


def _counted(name: str, text: str, level: float, difficulty: float) -> Scenario:
    """Accuracies: row i is right with probability expit(level + difficulty_i + u), u the run's noise.

    The rows and their difficulties are the same for all arms and seeds. Given them, the runs are independent, except
    for the part of u that the seed gives to all arms.
    """
    rows = np.diff(np.linspace(0, ROWS, CLASSES + 1).round()).astype(int)
    logits = level + difficulty * stats.norm.ppf((np.arange(CLASSES) + 0.5) / CLASSES)

    def draw(rng: Generator, shape: Shape, effects: ArrayLike, sd: ArrayLike) -> Array:
        values, inverse = np.unique(effects, return_inverse=True)
        shift = np.array([_shift(logits, rows, value) for value in values])[
            inverse.reshape(np.shape(effects))
        ]
        of_seed = rng.standard_normal((*shape[:3], 1, shape[4]))
        u = SEED_SD * math.sqrt(0.5) * (of_seed + rng.standard_normal(shape)) + shift[..., None]
        right = sum(rng.binomial(k, special.expit(logit + u)) for k, logit in zip(rows, logits, strict=True))
        return np.asarray(100.0 * right / ROWS)

    return Scenario(name, text, draw)


def _shift(logits: Array, rows: Array, effect: float) -> float:
    """The logits that add `effect` points to the mean accuracy."""
    if effect == 0:
        return 0.0
    goal = _accuracy(logits, rows, 0.0) + effect
    return float(optimize.brentq(lambda shift: _accuracy(logits, rows, shift) - goal, -10, 10, xtol=1e-10))


def _accuracy(logits: Array, rows: Array, shift: float) -> float:
    """Mean accuracy in points, over the runs' noise by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    p = special.expit(logits[:, None] + shift + SEED_SD * nodes) @ weights / weights.sum()
    return float(100 * rows @ p / rows.sum())


SCENARIOS = (
    _added("normal", "independent normal scores, sd 1", _normal),
    _added("matched seeds", "normal; 80% of the variance is the seed's, shared by all arms", _matched),
    _added("unequal spread", "normal; sd 1 (baseline), 0.5, 1, 2, 4", _unequal),
    _added("skewed", "1 - Exp(1) in all arms: some runs far below the rest", _skewed),
    _added("skewed baseline", "1 - Exp(1) in the baseline, normal in the regularizers, all of sd 1", _skewed_baseline),
    _added("skewed regularizers", "1 - Exp(1) in the regularizers, a steady baseline of sd 0.1", _skewed_regularizers),
    _added("heavy tail", "exp(1/2) - lognormal(0, 1) in all arms", _lognormal),
    _added("collapses", "normal, and one run in ten loses 10 sd", _collapsing),
    _counted("277 rows", "accuracies of 277 rows of unequal difficulty, mean 61%", 1.0, 3.0),
    _counted("277 rows, ceiling", "the same at a mean of 92%", 4.5, 3.0),
)  # fmt: skip
