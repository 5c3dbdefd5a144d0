"""The expected best of n settings, against counting all draws."""

from __future__ import annotations

from itertools import product
from statistics import fmean

import pytest

from kdcache.statistics.expected_best import expected_best

SCORES = [0.7, 0.9, 0.4, 0.9, 0.5]


@pytest.mark.parametrize(("lower", "best"), [(False, max), (True, min)])
def test_it_is_the_mean_over_all_draws(lower: bool, best: object) -> None:
    assert callable(best)
    counted = [fmean(best(draw) for draw in product(SCORES, repeat=n)) for n in range(1, 6)]
    assert expected_best(SCORES, lower) == pytest.approx(counted, abs=1e-12)


def test_by_hand() -> None:
    """Of two scores, two draws miss the better one in a quarter of cases."""
    assert expected_best([0.0, 1.0]) == [0.5, 0.75]
    assert expected_best([3.0]) == [3.0]
