"""Looks: the numbers of seeds, declared beforehand, at which comparisons are judged.

Testing after every few seeds and stopping at the first p <= alpha gives far more false rejections than alpha. So each
look has a share of alpha, and its p-values are divided by the share:

    q = min(1, p / share),   shares that sum to at most 1.

Under a true null, P(q <= g at any look) <= sum of share * g <= g, whatever the dependence between the looks. So the
smallest q of all looks is a p-value. Any family correction of p-values applies to q as well, and stays valid if a
comparison stops at any look, for any reason. replay.py does the judging. boundaries.py spends the shares exactly for
matched seeds, for which dividing is a little too strict.
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
    """The design that is declared before the trials.

    looks: each look's number of seeds, increasing; shares: each look's share of alpha; alpha, correction: the family's
    level and correction; stop_hopeless: a comparison is given up if the chance that the last look decides it is below
    this (0: never); exact: exact boundaries for matched seeds, instead of division by the share.

    Raises:
        ComparisonError: a design that would not keep its error rate, or that cannot work.
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
        """Whether there is only one look."""
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

        sides: 2 for difference tests, 1 for equivalence (the larger one-sided p) and other one-sided tests.
        exact: False if the p-values are not those of a t-test on all seeds of the look.
        """
        p = np.asarray(p, dtype=np.float64)
        if self.exact and exact is not False:
            return boundaries.sequential(self.looks, self.shares, look, p, sides)
        return np.minimum(1.0, p / self.shares[look - 1])

    def strictest(self, size: int) -> float:
        """The level at which a comparison in a family of `size` rejects, whatever the others show."""
        return level(self.alpha, size, self.correction)
