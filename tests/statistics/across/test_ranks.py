"""Friedman against scipy, by hand and against published tables; the critical difference of the diagram."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdcache.errors import ComparisonError
from kdcache.statistics.across.ranks import critical_difference, friedman, mean_ranks

# q_0.05 for 2 to 10 methods, Demsar 2006, table 5(a)
DEMSAR = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}


def test_mean_ranks_by_hand() -> None:
    # ranks per task: 1 2 3, 2 1 3, 1.5 1.5 3
    assert mean_ranks([[80, 70, 60], [71, 72, 70], [50, 50, 40]]) == pytest.approx([1.5, 1.5, 3])


def test_friedman_by_hand() -> None:
    # without ties: 12 N / (k (k + 1)) * (sum of squared mean ranks - k (k + 1)^2 / 4), here on ranks
    # 1 2 3, 2 1 3, 1 2 3, 1 2 3: mean ranks 1.25, 1.75, 3, so 4 * (1.5625 + 3.0625 + 9 - 12) = 6.5
    found = friedman([[3, 2, 1], [2, 3, 1], [9, 8, 7], [30, 20, 10]])
    assert found is not None
    assert found.statistic == pytest.approx(6.5, abs=1e-12)
    assert found.p == pytest.approx(math.exp(-6.5 / 2), abs=1e-12)  # chi-squared with 2 degrees of freedom


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(3, 6), st.integers(0, 10**6))
def test_friedman_is_scipys_ties_included(tasks: int, methods: int, seed: int) -> None:
    means = np.random.default_rng(seed).integers(0, 6, size=(tasks, methods)) / 2
    found = friedman(means)
    if not np.ptp(means, axis=1).any():
        assert found is None
        return
    expected = stats.friedmanchisquare(*means.T)
    assert found is not None
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-9)
    shuffled = friedman(np.random.default_rng(seed).permutation(means))  # the order of tasks
    assert shuffled is not None
    assert shuffled.p == pytest.approx(found.p, abs=1e-12)


def test_rounding_noise_is_a_tie() -> None:
    means = [[0.85 - 0.80, 0.90 - 0.85, 0.5], [0.1, 0.1, 0.0]]
    assert mean_ranks(means)[1] == pytest.approx(2.0)  # 2.5 and 1.5
    assert mean_ranks(means)[0] == pytest.approx(2.0)


def test_where_friedman_is_not_defined() -> None:
    assert friedman([[1, 2, 3]]) is None
    assert friedman([[1, 2], [3, 4]]) is None
    assert friedman([[1, 1, 1], [2, 2, 2]]) is None
    with pytest.raises(ComparisonError, match="finite task means"):
        friedman([[1, 2, math.nan], [1, 2, 3]])


@pytest.mark.parametrize("methods", DEMSAR)
def test_critical_difference_is_the_published_one(methods: int) -> None:
    tasks = 14
    expected = DEMSAR[methods] * math.sqrt(methods * (methods + 1) / (6 * tasks))
    assert critical_difference(methods, tasks) == pytest.approx(expected, rel=5e-4)


def test_critical_difference_agrees_with_scikit_posthocs() -> None:
    posthocs = pytest.importorskip("scikit_posthocs", reason="an oracle of the development environment")
    means = np.random.default_rng(3).normal(size=(8, 4))
    nemenyi = posthocs.posthoc_nemenyi_friedman(means).to_numpy()
    ranks = mean_ranks(means)
    for i in range(4):
        for j in range(i):
            # at the level of Nemenyi's own p-value, the critical difference is the difference of the two
            assert critical_difference(4, 8, float(nemenyi[i, j])) == pytest.approx(
                abs(ranks[i] - ranks[j]), abs=1e-6
            )
