"""How many seeds: statsmodels and direct integration as oracles. What a given number detects is in test_tests.py."""

from __future__ import annotations

import math

import pytest
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower

from kdcache.statistics import power
from kdcache.statistics.power import Spread


@pytest.mark.parametrize("alpha", [0.05, 0.0125])
@pytest.mark.parametrize("effect", [0.3, 0.5, 1.0, 3.0])
def test_seeds_to_find_are_the_fewest_that_statsmodels_finds_enough(effect: float, alpha: float) -> None:
    n = power.seeds_to_find(-2 * effect, Spread(2.0), alpha)
    assert n is not None
    assert TTestPower().power(effect, n, alpha) >= 0.8
    assert n == 2 or TTestPower().power(effect, n - 1, alpha) < 0.8


def tost_power(difference: float, sd: float, margin: float, n: int, alpha: float) -> float:
    """P(both tests reject) by direct integration over the sample's sd."""
    error, critical = sd / math.sqrt(n), stats.t.isf(alpha, n - 1)

    def given(s: float) -> float:
        reach = margin / error - critical * s
        if reach <= 0:
            return 0.0
        shown = stats.norm.cdf(reach - difference / error) - stats.norm.cdf(-reach - difference / error)
        return float(shown * stats.chi.pdf(s, n - 1, scale=1 / math.sqrt(n - 1)))

    return float(integrate.quad(given, 0, margin / error / critical, limit=200)[0])


@pytest.mark.parametrize(("difference", "margin"), [(0.0, 1.0), (0.4, 1.0), (-0.8, 1.0), (0.1, 3.0)])
def test_seeds_to_equate_are_the_fewest_with_enough_power(difference: float, margin: float) -> None:
    n = power.seeds_to_equate(difference, Spread(1.2), margin, 0.0125)
    assert n is not None
    assert tost_power(abs(difference), 1.2, margin, n, 0.0125) >= 0.8
    assert n == 2 or tost_power(abs(difference), 1.2, margin, n - 1, 0.0125) < 0.8


def test_seeds_agree_with_what_is_detectable() -> None:
    # 5 seeds detect exactly that difference and show exactly that margin; a little less takes 6
    found, shown = power.detectable_difference(5, 1.0), power.tost_detectable_margin(5, 1.0)
    assert power.seeds_to_find(found * 1.0001, Spread(1.0), 0.05) == 5
    assert power.seeds_to_find(found * 0.9999, Spread(1.0), 0.05) == 6
    assert power.seeds_to_equate(0.0, Spread(1.0), shown * 1.0001, 0.05) == 5
    assert power.seeds_to_equate(0.0, Spread(1.0), shown * 0.9999, 0.05) == 6


def test_what_no_number_of_seeds_settles() -> None:
    assert power.seeds_to_find(0.0, Spread(1.0), 0.05) is None
    assert power.seeds_to_find(0.01, Spread(1.0), 0.05) is None  # tens of thousands
    assert power.seeds_to_equate(1.0, Spread(1.0), 1.0, 0.05) is None  # at the margin
    assert power.seeds_to_equate(0.99, Spread(1.0), 1.0, 0.05) is None


def test_without_spread_the_exact_test_decides() -> None:
    # 2 / 2^n <= 0.05 from 6 on, 1 / 2^n from 5 on; unpaired 2 / (2n over n): 2/20 at 3, 2/70 at 4
    assert power.seeds_to_find(1.0, Spread(0.0), 0.05) == 6
    assert power.seeds_to_equate(1.0, Spread(0.0), 2.0, 0.05) == 5
    assert power.seeds_to_find(1.0, Spread.unpaired(0.0, 0.0), 0.05) == 4
    assert power.seeds_to_equate(1.0, Spread.unpaired(0.0, 0.0), 2.0, 0.05) == 3


def test_unpaired_spread_by_hand() -> None:
    # equal sds 3 and 3: variance 18 / n on 2 (n - 1) degrees of freedom; 0 and 3: 9 / n on n - 1
    assert Spread.unpaired(3.0, 3.0) == Spread(math.sqrt(18), 2.0, paired=False)
    assert Spread.unpaired(0.0, 3.0) == Spread(3.0, 1.0, paired=False)
    from statsmodels.stats.power import TTestIndPower

    n = power.seeds_to_find(2.0, Spread.unpaired(3.0, 3.0), 0.05)
    assert n is not None
    assert TTestIndPower().power(2 / 3, n, 0.05) >= 0.8 > TTestIndPower().power(2 / 3, n - 1, 0.05)
