"""Exact boundaries of a t-test that is looked at several times.

`kdcache.statistics.looks` divides a look's p-value by the look's share of alpha. That is valid for any p-values, but a
little too strict, because the looks share their seeds. For matched seeds with normal differences the joint distribution
of the looks is known, so that each look can spend exactly its share.

Of n differences with sum S and sum of squares Q,

    U = S / sqrt(n Q),   |U| <= 1,   t = U sqrt((n - 1) / (1 - U^2)),

is the cosine of the angle between the differences and (1, ..., 1). If the true mean is 0, the direction of the
differences is uniform and U has the density c (1 - u^2)^((n - 3) / 2). With m more seeds

    U' = sqrt(n / N) X U + sqrt(m / N) sqrt(1 - X^2) V,   N = n + m,

where X^2 is Beta(n / 2, m / 2), V is the cosine of the m new differences, and U, X and V are independent, because the
length and the direction of a normal vector are. So U over the looks is a Markov chain. It is followed here by Gauss
quadrature over the paths that have not crossed a boundary yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate, optimize, special

from kdcache.study.looks import check_steps

Array: TypeAlias = NDArray[np.float64]
Sides: TypeAlias = Literal[1, 2]

NODES = 48  # quadrature nodes for the paths at one look
INNER = 32  # nodes of the integral over X, up to 40 seeds; X has a spread of about 1 / sqrt(seeds)
TINY = 1e-300
GRID = np.geomspace(1e-5, 0.5, 20)  # overall levels between which q is interpolated


@dataclass(frozen=True)
class Paths:
    """The paths that have crossed no boundary: the density of the angle asin(U) at Legendre nodes, [NODES]."""

    seeds: int
    low: float  # the paths lie between the angles `low` and `high`
    high: float
    density: Array

    def at(self, angle: Array) -> Array:
        """The density at angles in between, [...], by the nodes' polynomial in barycentric form."""
        x, weight = _gauss(NODES)
        place = (2 * angle - self.low - self.high) / (self.high - self.low)
        away = place[..., None] - x
        share = (
            np.resize([1.0, -1.0], NODES) * np.sqrt((1 - x * x) * weight) / np.where(away == 0, 1e-300, away)
        )
        return np.asarray(share @ self.density / share.sum(axis=-1))

    def reaching(self, y: Array, a: float, b: float) -> tuple[Array, Array]:
        """U and mass of the paths that can reach U' = y or beyond, [..., NODES] for y [...].

        |y| > b needs a U of the same sign with a^2 U^2 > y^2 - b^2. With few new seeds the transition has a step or a
        corner at that U, so the nodes begin there.
        """
        least = np.arcsin(np.clip(np.sqrt(np.maximum(y * y - b * b, 0.0)) / a, 0, 1))
        low = np.where(y > b, least, self.low)
        high = np.where(y < -b, -least, self.high)
        angle, weight = _cosine(np.clip(low, self.low, self.high), np.clip(high, self.low, self.high), NODES)
        return np.sin(angle), self.at(angle) * weight


def crossing(seeds: Sequence[int], levels: Sequence[float], sides: Sides) -> Array:
    """P(the first rejection is at look k) under the null, [looks].

    Args:
        seeds: each look's number of seeds, increasing by two or more.
        levels: for each look, the p-value at or below which it rejects.
        sides: 2 for a two-sided test, 1 for a one-sided one.
    """
    paths, chances = None, []
    for n, level in zip(seeds, levels, strict=True):
        bound = _bound(level, n, sides)
        chances.append(sides * _beyond(paths, n, bound))
        paths = _inside(paths, n, bound, sides)
    return np.array(chances)


@lru_cache(maxsize=256)
def nominal(
    seeds: tuple[int, ...], shares: tuple[float, ...], level: float, sides: Sides
) -> tuple[float, ...]:
    """The p-values at or below which the looks reject, such that look k rejects first with chance shares[k] * level.

    Raises:
        ComparisonError: fewer than two new seeds at a look.
    """
    check_steps(seeds)
    paths, levels = None, []
    for n, share in zip(seeds, shares, strict=True):
        levels.append(_spending(paths, n, share * level, sides))
        paths = _inside(paths, n, _bound(levels[-1], n, sides), sides)
    return tuple(levels)


def sequential(seeds: tuple[int, ...], shares: tuple[float, ...], look: int, p: Array, sides: Sides) -> Array:
    """The smallest overall level at which `look` (from 1) rejects with p-values `p`, of any shape.

    It is interpolated between the levels of `GRID`; outside them it is p / share, which is never smaller.
    """
    split = np.minimum(1.0, p / shares[look - 1])
    if look == 1:
        return split
    at = _table(seeds, shares, sides)[look - 1]
    inner = np.exp(_inverse(seeds, shares, sides, look)(np.log(np.clip(p, at[0], at[-1]))))
    exact = np.where(p < at[0], np.minimum(split, GRID[0]), np.where(p > at[-1], split, inner))
    return np.asarray(np.minimum(exact, split))


@lru_cache(maxsize=16)
def _table(seeds: tuple[int, ...], shares: tuple[float, ...], sides: Sides) -> Array:
    """Nominal levels [looks, GRID]."""
    return np.array([nominal(seeds, shares, float(level), sides) for level in GRID]).T


@lru_cache(maxsize=64)
def _inverse(
    seeds: tuple[int, ...], shares: tuple[float, ...], sides: Sides, look: int
) -> interpolate.PchipInterpolator:
    """log overall level as a monotone function of the log nominal level."""
    return interpolate.PchipInterpolator(np.log(_table(seeds, shares, sides)[look - 1]), np.log(GRID))


def _spending(paths: Paths | None, n: int, chance: float, sides: Sides) -> float:
    """The nominal level at which the look is the first to reject with the given probability."""
    if paths is None:
        return chance

    def excess(log_level: float) -> float:
        chance_here = sides * _beyond(paths, n, _bound(math.exp(log_level), n, sides))
        return math.log(max(chance_here, TINY)) - math.log(chance)

    if excess(-1e-9) <= 0:
        return 1.0  # the remaining paths together have less than this probability
    # without earlier looks the level would equal the chance; start a little lower for the quadrature's error
    return max(chance, math.exp(optimize.brentq(excess, math.log(chance) - 0.05, -1e-9, xtol=1e-8)))


def _bound(level: float, n: int, sides: Sides) -> float:
    """The U above which n seeds reject at a nominal level."""
    t = -float(special.stdtrit(n - 1, level / sides))
    return t / math.sqrt(n - 1 + t * t)


def _beyond(paths: Paths | None, n: int, bound: float) -> float:
    """P(U > bound at n seeds, no boundary crossed before)."""
    if paths is None:
        return float(_upper_tail(np.array(bound), n))
    move = _Move.between(paths.seeds, n)
    y = max(bound, -move.b)  # below -b nearly all paths exceed the bound, so no path may be left out
    u, mass = paths.reaching(np.array(y), move.a, move.b)
    return float(mass @ move.exceeds(u, bound))


def _inside(paths: Paths | None, n: int, bound: float, sides: Sides) -> Paths:
    """The paths that have still not crossed a boundary at n seeds."""
    low, high = -math.asin(bound) if sides == 2 else -math.pi / 2, math.asin(bound)
    angle = low + (high - low) * (1 + _gauss(NODES)[0]) / 2
    u = np.sin(angle)
    return Paths(n, low, high, np.cos(angle) * (_density(u, n) if paths is None else _moved(paths, n, u)))


def _moved(paths: Paths, n: int, y: Array) -> Array:
    """The density of U' at y [nodes] for the paths that have crossed no boundary."""
    move = _Move.between(paths.seeds, n)
    u, mass = paths.reaching(y, move.a, move.b)
    return np.asarray((move.density(u, y[:, None]) * mass).sum(axis=-1))


def _cosine(low: Array, high: Array, nodes: int) -> tuple[Array, Array]:
    """Nodes between `low` and `high` [...] and their weights, [..., nodes], dense at both ends.

    The substitution middle - half cos(angle) makes powers of the distance to an end smooth, even square roots.
    """
    x, weight = _gauss(nodes)
    angle = math.pi * (1 + x) / 2
    middle, half = (low + high)[..., None] / 2, (high - low)[..., None] / 2
    return middle - half * np.cos(angle), half * np.sin(angle) * weight * math.pi / 2


@lru_cache(maxsize=16)
def _gauss(nodes: int) -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(nodes)


def _log_constant(n: int) -> float:
    """log c of the density c (1 - u^2)^((n - 3) / 2) of U."""
    return math.lgamma(n / 2) - math.lgamma((n - 1) / 2) - math.log(math.pi) / 2


def _density(u: Array, n: int) -> Array:
    return np.asarray(np.exp(_log_constant(n) + (n - 3) / 2 * np.log1p(-u * u)))


def _upper_tail(v: Array, m: int) -> Array:
    """P(V > v) for the cosine V of m differences, by Student's t."""
    t = v * np.sqrt((m - 1) / np.maximum(1 - v * v, TINY))
    return np.asarray(special.stdtr(m - 1, -t))


@dataclass(frozen=True)
class _Move:
    """From n to N = n + m seeds, with a^2 = n / N and b^2 = m / N.

    U = u leads to U' = y if V = (y - a u x) / (b sqrt(1 - x^2)). |V| < 1 is a quadratic inequality in x:
    R(x) = 1 - x^2 - (y - a u x)^2 / b^2 > 0, which holds between the roots of R.
    """

    n: int
    m: int
    a: float
    b: float

    @classmethod
    def between(cls, n: int, after: int) -> _Move:
        return cls(n, after - n, math.sqrt(n / after), math.sqrt((after - n) / after))

    def density(self, u: Array, y: Array) -> Array:
        """Density of U' at y given U = u: 2 c_m / (Beta(n/2, m/2) b) times the integral of x^(n-1) R(x)^((m-3) / 2)."""
        possible, root, high = self._roots(u, y)
        x, weight = _cosine(np.clip(root, 0, 1), high, self._nodes())
        leading = 1 + (self.a * u[..., None] / self.b) ** 2
        inside = leading * (x - root[..., None]) * (high[..., None] - x)
        log = (self.n - 1) * np.log(np.maximum(x, TINY)) + (self.m - 3) / 2 * np.log(np.maximum(inside, TINY))
        constant = self._log_beta() + _log_constant(self.m) - math.log(self.b)
        return np.where(possible, (np.exp(log + constant) * weight).sum(axis=-1), 0.0)

    def exceeds(self, u: Array, bound: float) -> Array:
        """P(U' > bound | U = u); where R(x) <= 0, V does not matter and the answer is 0 or 1."""
        possible, root, high = self._roots(u, np.array(bound))
        low = np.clip(root, 0, 1)
        x, weight = _cosine(low, high, self._nodes())
        short = np.sqrt(np.maximum(1 - x * x, TINY))
        v = np.clip((bound - self.a * u[..., None] * x) / (self.b * short), -1, 1)
        log = self._log_beta() + (self.n - 1) * np.log(np.maximum(x, TINY)) + (self.m - 2) * np.log(short)
        between = (np.exp(log) * _upper_tail(v, self.m) * weight).sum(axis=-1)
        below, above = (special.betainc(self.n / 2, self.m / 2, end**2) for end in (low, high))
        sure = (bound < -self.b) * below + (self.a * u > bound) * (1 - above)
        return np.where(possible, between + sure, float(bound < 0))

    def _roots(self, u: Array, y: Array) -> tuple[NDArray[np.bool_], Array, Array]:
        """Whether R is positive anywhere in 0..1, its lower root, and its upper root clipped to 0..1."""
        slope = self.a * u / self.b
        leading, middle = 1 + slope**2, slope * y / self.b
        discriminant = leading - (y / self.b) ** 2
        half = np.sqrt(np.maximum(discriminant, 0.0))
        high = (middle + half) / leading
        return (discriminant > 0) & (high > 0), (middle - half) / leading, np.clip(high, 0, 1)

    def _nodes(self) -> int:
        return max(INNER, math.ceil(INNER * math.sqrt((self.n + self.m) / 40)))

    def _log_beta(self) -> float:
        """log of 2 / Beta(n/2, m/2), the constant of the density of X."""
        return math.log(2) - float(special.betaln(self.n / 2, self.m / 2))
