"""Looks: the numbers of seeds, declared beforehand, at which comparisons are judged.

Who tests after every few seeds and stops at the first p <= alpha is wrong much more often than alpha. So each look
owns a share of alpha, and its p-values are divided by it:

    q = min(1, p / share),   shares that sum to at most 1.

A true null then has P(q <= g at any look) <= sum of share * g <= g, whatever the dependence between the looks: the
smallest q of all looks is a p-value. What corrects p-values for a family corrects these, and it stays right whenever
a comparison stops, for any reason. replay.py does the judging; boundaries.py spends the shares exactly, for matched
seeds, where dividing is a little too strict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdcache.errors import ComparisonError
from kdcache.statistics import boundaries
from kdcache.statistics.boundaries import Sides
from kdcache.statistics.families import level
from kdcache.study.looks import Correction, Spend, check_declared, shares_of


@dataclass(frozen=True)
class Design:
    """What is declared before the trials.

    looks: how many seeds each look has, increasing; shares: of alpha, each look's; alpha, correction: of the family;
    stop_hopeless: a comparison is given up when its chance to be decided at the last look is below this, 0: never;
    exact: exact boundaries for matched seeds, instead of dividing by the share.

    Raises:
        ComparisonError: a design that would not keep its promise, or that cannot work.
    """

    looks: tuple[int, ...]
    shares: tuple[float, ...]
    alpha: float = 0.05
    correction: Correction = "holm"
    stop_hopeless: float = 0.1
    exact: bool = False

    def __post_init__(self) -> None:
        check_declared(self.looks, self.shares, self.correction, self.exact)
        if not 0 < self.alpha < 0.5:
            raise ComparisonError(f"alpha must lie between 0 and 0.5, found {self.alpha}")
        if not 0 <= self.stop_hopeless < 1:
            raise ComparisonError(
                f"stop_hopeless must be a chance in 0..1 (0: never), found {self.stop_hopeless}"
            )

    @classmethod
    def of(
        cls, looks: Sequence[int], spend: Spend = "linear", *, alpha: float = 0.05, correction: Correction = "holm",
        stop_hopeless: float = 0.1, exact: bool = False,
    ) -> Design:  # fmt: skip
        """The design whose shares `spend` gives; see `shares_of`."""
        return cls(tuple(looks), shares_of(spend, looks), alpha, correction, stop_hopeless, exact)

    @property
    def fixed(self) -> bool:
        """One look: a design as it was before there were looks."""
        return len(self.looks) == 1

    def nominal(self, look: int, at: float, sides: Sides) -> float:
        """The p-value at or below which `look` (from 1) rejects at the overall level `at`."""
        if self.exact:
            return boundaries.nominal(self.looks, self.shares, at, sides)[look - 1]
        return self.shares[look - 1] * at

    def sequential(
        self, look: int, p: ArrayLike, sides: Sides, exact: bool | None = None
    ) -> NDArray[np.float64]:
        """q: the smallest overall level at which `look` (from 1) rejects with p-values `p`, of any shape.

        sides: 2 for difference tests, 1 for equivalence (its larger one-sided p) and other one-sided tests.
        exact: False where the p-values are not those of a t-test on all seeds of the look.
        """
        p = np.asarray(p, dtype=np.float64)
        if self.exact and exact is not False:
            return boundaries.sequential(self.looks, self.shares, look, p, sides)
        return np.minimum(1.0, p / self.shares[look - 1])

    def strictest(self, size: int) -> float:
        """The level at which one of a family of `size` is rejected whatever the others show."""
        return level(self.alpha, size, self.correction)
