"""Interquartile mean and probability of improvement, by hand and against rliable.

rliable is no dependency of the development environment: its interval code fails with pandas 3 (through arch 7,
the newest it admits). The numbers below were made with rliable 1.2.0, arch 7.2.0, numpy 2.4.6 and
pandas 2.3.3, `get_interval_estimates` with 50,000 (IQM) and 20,000 (improvement) resamples after
`numpy.random.seed(0)`.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import ComparisonError
from kdcache.statistics.across.bootstrap import Estimate, interquartile_mean, probability_of_improvement

X = np.array(
    [[81.2, 62.0, 90.1], [80.4, 64.5, 91.3], [82.9, 61.1, 90.7], [81.7, 66.2, 89.9], [79.8, 63.3, 92.0]]
)  # 5 runs x 3 tasks
Y = np.array(
    [[80.1, 62.0, 90.6], [81.5, 60.2, 90.0], [79.9, 61.7, 91.1], [80.8, 64.0, 89.2], [80.0, 63.0, 90.1]]
)
IQM_X = (79.63333333333334, 78.86666667, 80.26666667)
IQM_Y = (78.72222222222223, 78.23333333, 79.1)
IMPROVEMENT = (0.6933333333333334, 0.48, 0.88)
TASKS = st.lists(
    st.lists(st.integers(0, 12).map(lambda n: n / 2), min_size=1, max_size=5), min_size=1, max_size=4
)


def numbers(found: Estimate) -> tuple[float | None, ...]:
    return found.value, found.ci_low, found.ci_high


@pytest.mark.parametrize(("scores", "expected"), [(X, IQM_X), (Y, IQM_Y)])
def test_iqm_is_rliables(scores: np.ndarray, expected: tuple[float, ...]) -> None:
    value, *interval = numbers(interquartile_mean(list(scores.T)))
    assert value == pytest.approx(expected[0], abs=1e-9)
    assert interval == pytest.approx(expected[1:], abs=0.07)  # the resampled IQMs move in steps of 1/7 tenths


def test_improvement_is_rliables() -> None:
    value, *interval = numbers(probability_of_improvement(list(zip(X.T, Y.T, strict=True))))
    assert value == pytest.approx(IMPROVEMENT[0], abs=1e-9)
    assert interval == pytest.approx(IMPROVEMENT[1:], abs=0.015)  # steps of 1/150


def test_by_hand() -> None:
    # 8 scores: the middle half is 2, 3, 4, 5
    assert interquartile_mean([[0, 1, 2, 3], [4, 5, 6, 100]]).value == pytest.approx(3.5)
    # task 1: 3 beats 1 and 2, 1 ties 1 and loses to 2: 2.5 of 4; task 2: 1
    found = probability_of_improvement([([3, 1], [1, 2]), ([9], [0, 8])])
    assert found.value == pytest.approx((2.5 / 4 + 1) / 2)


def test_improvement_resamples_the_runs_of_each_side() -> None:
    # one task, x two runs, y one run at 1: wins of x are 1 and 0, so resamples give 0, 1/2, 1
    # with probabilities 1/4, 1/2, 1/4: every quantile is known
    found = probability_of_improvement([([2, 0], [1])], confidence=0.4)  # quantiles 0.3 and 0.7
    assert numbers(found) == (0.5, 0.5, 0.5)
    found = probability_of_improvement([([2, 0], [1])], confidence=0.6)  # quantiles 0.2 and 0.8
    assert numbers(found) == (0.5, 0.0, 1.0)


@settings(max_examples=15, deadline=None)
@given(TASKS)
def test_improvement_against_itself_and_swapped(tasks: list[list[float]]) -> None:
    assert probability_of_improvement([(x, x) for x in tasks]).value == pytest.approx(0.5)
    pairs = [(x, [3.0, 1.5]) for x in tasks]
    forth = probability_of_improvement(pairs)
    back = probability_of_improvement([(y, x) for x, y in pairs])
    assert forth.value + back.value == pytest.approx(1.0)
    assert probability_of_improvement(pairs[::-1]) == forth


@settings(max_examples=15, deadline=None)
@given(TASKS)
def test_iqm_order_and_shift(tasks: list[list[float]]) -> None:
    found = interquartile_mean(tasks)
    assert interquartile_mean([scores[::-1] for scores in tasks[::-1]]) == found
    shifted = interquartile_mean([[value + 8 for value in scores] for scores in tasks])
    assert shifted.value == pytest.approx(found.value + 8)
    if found.ci_low is not None and found.ci_high is not None:
        assert found.ci_low <= found.ci_high
        assert (shifted.ci_low, shifted.ci_high) == pytest.approx((found.ci_low + 8, found.ci_high + 8))


def test_no_spread_no_interval() -> None:
    assert interquartile_mean([[1.0], [3.0]]) == Estimate(2.0, None, None)
    assert probability_of_improvement([([5, 6], [1, 2])]) == Estimate(1.0, None, None)
    for faulty in ([[]], [[1.0, float("nan")]]):
        with pytest.raises(ComparisonError, match="finite scores"):
            interquartile_mean(faulty)
