"""Cliff's delta against Mann-Whitney's U; Hedges' g is in test_tests.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdcache.statistics import effects

values = st.lists(st.integers(-20, 20).map(lambda k: k / 10), min_size=2, max_size=8)


def test_cliffs_delta_by_hand() -> None:
    # of the pairs (2, 1) (2, 3) (4, 1) (4, 3) three are above and one below
    assert effects.cliffs_delta([2.0, 4.0], [1.0, 3.0]) == 0.5
    assert effects.cliffs_delta([5.0, 6.0], [1.0, 2.0]) == 1.0
    assert effects.cliffs_delta([1.0, 1.0], [1.0, 1.0]) == 0.0
    assert effects.cliffs_delta([0.1 + 0.2, 0.3], [0.3, 0.3]) == 0.0  # rounding is no difference


@settings(max_examples=40, deadline=None)
@given(values, values, st.integers(-9, 9), st.integers(1, 9))
def test_cliffs_delta_equals_mann_whitney(x: list[float], y: list[float], shift: int, scale: int) -> None:
    found = effects.cliffs_delta(x, y)
    u = stats.mannwhitneyu(x, y).statistic
    assert found == pytest.approx(2 * u / (len(x) * len(y)) - 1, abs=1e-9)
    assert effects.cliffs_delta(y, x) == -found
    moved = effects.cliffs_delta([scale * v + shift for v in x], [scale * v + shift for v in y])
    assert moved == found


def test_an_effect_that_is_rounding_noise_is_zero() -> None:
    x, y = [0.1 + 0.2, 0.5, 0.1], [0.3, 0.1, 0.5]  # means differ by 2e-17
    assert effects.hedges_g_av(x, y) == 0.0
    assert effects.hedges_g_s(x, y) == 0.0
