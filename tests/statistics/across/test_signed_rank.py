"""Wilcoxon against scipy and an obvious enumeration; the Bayesian signed-rank test against baycomp."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdcache.errors import ComparisonError
from kdcache.statistics.across.signed_rank import DRAWS, bayesian_signed_rank, wilcoxon
from kdcache.statistics.significance import RESAMPLES

POINTS = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=2, max_size=9)
MONTE_CARLO = 4 * np.sqrt(2 * 0.25 / DRAWS)  # four standard errors of the difference of two shares


def enumerated(d: list[float]) -> float:
    """Every sign pattern of the ranks (Pratt: zeros ranked, then without a sign), one at a time."""
    ranks = stats.rankdata(np.abs(d)) * (np.array(d) != 0)
    observed = abs(float(ranks @ np.sign(d)))
    sums = [abs(float(ranks @ np.array(signs))) for signs in product([1, -1], repeat=len(d))]
    return float(np.mean([total >= observed - 1e-9 for total in sums]))


@settings(max_examples=40, deadline=None)
@given(POINTS)
def test_wilcoxon_is_exact_with_ties_and_zeros(d: list[float]) -> None:
    assert wilcoxon(d) == pytest.approx(enumerated(d), abs=1e-12)


@pytest.mark.parametrize("n", [2, 5, 9, 16])
def test_wilcoxon_is_scipys_without_ties(n: int) -> None:
    d = np.random.default_rng(n).normal(0.3, 1, n)
    assert wilcoxon(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue, abs=1e-9)


def test_wilcoxon_over_many_tasks() -> None:
    d = np.random.default_rng(1).normal(0.3, 1, 25)
    exact = stats.wilcoxon(d, method="exact").pvalue
    assert wilcoxon(d) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / RESAMPLES) + 1e-5)


@settings(max_examples=20, deadline=None)
@given(POINTS)
def test_wilcoxon_symmetry_and_order(d: list[float]) -> None:
    assert wilcoxon([-value for value in d]) == wilcoxon(d)
    assert wilcoxon(d[::-1]) == wilcoxon(d)


def test_few_tasks() -> None:
    assert wilcoxon([1.0]) is None
    assert wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0]) == 0.0625  # the floor of five tasks
    assert wilcoxon([0.0, 0.0]) == 1.0
    assert bayesian_signed_rank([1.0], 1.0) is None
    with pytest.raises(ComparisonError, match="finite mean difference"):
        wilcoxon([1.0, float("nan")])
    with pytest.raises(ComparisonError, match="wider than 0"):
        bayesian_signed_rank([1.0, 2.0], 0.0)


@pytest.mark.parametrize(
    ("d", "rope"),
    [
        ([0.2, -0.4, 1.6, 0.9, 2.2, -0.1, 1.1], 1.0),
        ([2.0, -2.0, 1.0, -1.0, 0.0], 1.0),  # sums on the edges of the ROPE
        ([-3.1, -0.2, -1.4, -2.2, 0.3, -1.7, -0.9, -2.8], 0.5),
    ],
)
def test_bayesian_signed_rank_is_baycomps(d: list[float], rope: float) -> None:
    baycomp = pytest.importorskip("baycomp", reason="an oracle of the development environment")
    found = bayesian_signed_rank(d, rope)
    assert found is not None
    expected = baycomp.SignedRankTest.probs(np.zeros(len(d)), np.array(d), rope=rope, random_state=1)
    assert (found.worse, found.within, found.better) == pytest.approx(expected, abs=MONTE_CARLO)


def test_bayesian_by_hand() -> None:
    # One task at 0 besides the pseudo-task: no sum leaves the ROPE. Two equal tasks d > 2 rope: a sum is above
    # unless both its members are the pseudo-task, so within wins when w0^2 > 1/2, w0 ~ Beta(0.5, 2).
    found = bayesian_signed_rank([0.0, 0.5], 1.0)
    assert found is not None
    assert (found.worse, found.within, found.better) == (0.0, 1.0, 0.0)
    found = bayesian_signed_rank([2.5, 2.5], 1.0)
    assert found is not None
    assert found.within == pytest.approx(stats.beta(0.5, 2).sf(np.sqrt(0.5)), abs=MONTE_CARLO)
    assert found.worse == 0.0


@settings(max_examples=15, deadline=None)
@given(POINTS, st.sampled_from([0.5, 1.0, 2.0]))
def test_bayesian_symmetry_order_and_scale(d: list[float], rope: float) -> None:
    found, swapped = bayesian_signed_rank(d, rope), bayesian_signed_rank([-value for value in d], rope)
    assert found is not None
    assert swapped is not None
    assert found.worse + found.within + found.better == pytest.approx(1.0)
    assert (found.worse, found.better) == pytest.approx((swapped.better, swapped.worse), abs=MONTE_CARLO)
    assert bayesian_signed_rank(d[::-1], rope) == found
    assert bayesian_signed_rank([8 * value for value in d], 8 * rope) == found
