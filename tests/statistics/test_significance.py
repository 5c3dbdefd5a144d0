"""One comparison: numbers worked out by hand, scipy and statsmodels as oracles, and properties."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from kdcache.errors import ComparisonError
from kdcache.statistics import effects, power, significance

CLOSE = 1e-9
X = [81.0, 82.0, 83.0, 82.0, 82.0]
Y = [80.0, 80.0, 80.0, 81.0, 79.0]  # x - y = 1 2 3 1 3: mean 2, sd 1


def samples(n: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(80, 1, n), rng.normal(79.5, 2, n)


def test_paired_difference_by_hand() -> None:
    # d = 1 2 3 1 3, mean 10/5 = 2, variance (1+0+1+1+1)/4 = 1, error 1/sqrt(5), t_{0.975,4} = 2.7764451
    found = significance.paired_difference(X, Y)
    assert (found.mean, found.sd) == (2.0, 1.0)
    assert found.ci_low == pytest.approx(2 - 2.7764451051977987 / math.sqrt(5), abs=CLOSE)
    assert found.ci_high == pytest.approx(2 + 2.7764451051977987 / math.sqrt(5), abs=CLOSE)


def test_sign_flip_by_hand() -> None:
    # d = 1 2 3 1 3 all positive: only +++++ and ----- reach |sum| = 10, so p = 2/32; upwards 1/32.
    d = significance.differences(X, Y)
    assert significance.sign_flip(d) == 2 / 32
    assert significance.sign_flip(d, "greater") == 1 / 32
    assert significance.sign_flip(d, "less") == 1.0
    # d = 3 1 -1: sums of +-3 +-1 +-1 are 5 3 3 1 and their negatives; |sum| >= 3 for 6 of 8.
    assert significance.sign_flip([3.0, 1.0, -1.0]) == 6 / 8


@pytest.mark.parametrize(("n", "floor"), [(2, 0.5), (3, 0.25), (4, 0.125), (5, 0.0625), (8, 0.0078125)])
def test_sign_flip_cannot_go_below_its_floor(n: int, floor: float) -> None:
    assert significance.sign_flip_floor(n) == floor
    assert significance.sign_flip(np.linspace(5, 6, n)) == floor
    assert stats.wilcoxon(np.linspace(5, 6, n), method="exact").pvalue == floor


def test_label_permutation_by_hand() -> None:
    # 1 2 against 11 12: of the 6 splits one is as low, one as high; two-sided 2/6, less 1/6.
    assert significance.label_permutation([1.0, 2.0], [11.0, 12.0]) == pytest.approx(2 / 6)
    assert significance.label_permutation([1.0, 2.0], [11.0, 12.0], "less") == pytest.approx(1 / 6)
    assert significance.label_permutation_floor(2, 2) == 2 / 6
    assert significance.label_permutation_floor(5, 5) == 2 / 252


def test_hedges_g_by_hand() -> None:
    # sd_x^2 = (1+0+1+0+0)/4 = 0.5, sd_y^2 = (0+0+0+1+1)/4 = 0.5, so d_av = 2/sqrt(0.5); J(4) = sqrt(2/pi)
    # because Gamma(2) / (sqrt(2) Gamma(1.5)) = 1 / (sqrt(2) sqrt(pi)/2) = sqrt(2/pi).
    assert effects.hedges_g_av(X, Y) == pytest.approx(math.sqrt(2 / math.pi) * 2 / math.sqrt(0.5), abs=CLOSE)
    # pooled variance 0.5 too, J(8) = Gamma(4)/(2 Gamma(3.5)) = 3/(15 sqrt(pi)/8) = 8/(5 sqrt(pi)).
    assert effects.hedges_g_s(X, Y) == pytest.approx(
        8 / (5 * math.sqrt(math.pi)) * 2 / math.sqrt(0.5), abs=CLOSE
    )
    assert effects.hedges_g_av([1.0, 2.0], [0.0, 3.0]) is None  # two seeds: no unbiased version
    assert effects.hedges_g_av([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]) is None


@pytest.mark.parametrize("n", [2, 3, 5, 12, 40])
def test_t_tests_equal_scipy(n: int) -> None:
    x, y = samples(n, seed=n)
    d = significance.differences(x, y)
    assert significance.paired_t(d) == pytest.approx(stats.ttest_rel(x, y).pvalue, abs=CLOSE)
    assert significance.welch_t(x, y) == pytest.approx(
        stats.ttest_ind(x, y, equal_var=False).pvalue, abs=CLOSE
    )
    low, high = stats.ttest_rel(x, y).confidence_interval(0.9)
    found = significance.paired_difference(x, y, 0.9)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=CLOSE)
    low, high = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.9)
    found = significance.welch_difference(x, y, 0.9)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=CLOSE)


@pytest.mark.parametrize("n", [2, 5, 9])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_permutations_equal_scipy(n: int, alternative: significance.Alternative) -> None:
    x, y = samples(n, seed=n)
    oracle = stats.permutation_test(
        (x, y), lambda a, b: np.mean(a - b), permutation_type="samples", alternative=alternative
    )
    assert significance.sign_flip(x - y, alternative) == pytest.approx(oracle.pvalue, abs=CLOSE)


def test_sign_flip_equals_the_slow_version() -> None:
    d = np.array([1.2, -0.4, 0.7, 2.0, -0.1, 0.3])
    sums = [abs(sum(s * v for s, v in zip(signs, d, strict=True))) for signs in product([1, -1], repeat=6)]
    assert significance.sign_flip(d) == sum(s >= abs(d.sum()) - 1e-9 for s in sums) / 64


def test_sign_flip_beyond_enumeration_is_seeded_and_never_zero() -> None:
    d = np.linspace(1, 2, 30)
    assert significance.sign_flip(d) == significance.sign_flip_floor(30) == 1e-5  # (1 + 0) / (1 + 99,999)
    d = np.random.default_rng(1).normal(0.3, 1, 30)
    assert significance.sign_flip(d) == significance.sign_flip(d)
    assert significance.sign_flip(d) == pytest.approx(significance.paired_t(d), abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 5, 12, 40])
@pytest.mark.parametrize("margin", [0.1, 1.0, 5.0])
def test_tost_equals_statsmodels(n: int, margin: float) -> None:
    x, y = samples(n, seed=n)
    oracle = ttost_paired(x, y, -margin, margin)[0]
    assert significance.tost_paired(significance.differences(x, y), margin) == pytest.approx(
        oracle, abs=CLOSE
    )
    oracle = ttost_ind(x, y, -margin, margin, usevar="unequal")[0]
    assert significance.tost_welch(x, y, margin) == pytest.approx(oracle, abs=CLOSE)


def test_tost_agrees_with_the_90_percent_interval() -> None:
    x, y = samples(5, seed=3)
    interval = significance.paired_difference(x, y, 0.9)
    edge = max(abs(interval.ci_low or 0), abs(interval.ci_high or 0))
    d = significance.differences(x, y)
    assert significance.tost_paired(d, edge) == pytest.approx(0.05, abs=CLOSE)
    assert significance.tost_paired(d, edge * 1.01) < 0.05 < significance.tost_paired(d, edge * 0.99)


def test_minimum_effect_agrees_with_the_95_percent_interval() -> None:
    found = significance.paired_difference(X, Y)
    d = significance.differences(X, Y)
    assert significance.beyond_margin_paired(d, found.ci_low or 0) == pytest.approx(0.05, abs=CLOSE)
    assert significance.beyond_margin_paired(-d, found.ci_low or 0) == pytest.approx(0.05, abs=CLOSE)
    assert significance.beyond_margin_paired(d, 2.0) == 1.0  # twice 0.5
    welch = significance.welch_difference(X, Y)
    assert significance.beyond_margin_welch(X, Y, welch.ci_low or 0) == pytest.approx(0.05, abs=CLOSE)


@pytest.mark.parametrize("alpha", [0.05, 0.0125])
@pytest.mark.parametrize("n", [3, 5, 10, 40])
def test_detectable_difference_has_the_power_that_statsmodels_computes(n: int, alpha: float) -> None:
    effect = power.detectable_difference(n, 2.0, alpha) / 2.0
    assert TTestPower().power(effect, n, alpha) == pytest.approx(0.8, abs=CLOSE)


def test_known_limits() -> None:
    assert power.detectable_difference(5, 1.0) == pytest.approx(1.68, abs=0.005)
    assert power.detectable_difference(40, 1.0) == pytest.approx(0.45, abs=0.005)
    # two seeds, beyond scipy's noncentral t: power of |T_1| has the closed form checked by simulation below
    assert power.detectable_difference(2, 1.0) == pytest.approx(11.55, abs=0.005)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.0125), (5, 0.05), (5, 0.0125), (40, 0.05)])
def test_power_by_simulation(n: int, alpha: float) -> None:
    rng, draws = np.random.default_rng(7), 200_000
    z, s = rng.standard_normal(draws), np.sqrt(rng.chisquare(n - 1, draws) / (n - 1))
    effect = power.detectable_difference(n, 1.0, alpha) * math.sqrt(n)
    found = np.abs(z + effect) > stats.t.isf(alpha / 2, n - 1) * s
    assert found.mean() == pytest.approx(0.8, abs=0.004)  # 4 Monte Carlo errors of 0.0009
    margin = power.tost_detectable_margin(n, 1.0, alpha) * math.sqrt(n)
    shown = np.abs(z) < margin - stats.t.isf(alpha, n - 1) * s
    assert shown.mean() == pytest.approx(0.8, abs=0.004)


def test_tost_margin_limits() -> None:
    # the exact integral; test_power_by_simulation agrees
    assert power.tost_detectable_margin(5, 1.0) == pytest.approx(1.6005, abs=5e-5)
    assert power.tost_detectable_margin(40, 1.0) == pytest.approx(0.4710, abs=5e-5)


def test_detectable_welch_equals_statsmodels_for_equal_samples() -> None:
    from statsmodels.stats.power import TTestIndPower

    x = np.array([1.0, 2.0, 3.0, 4.0])  # equal sizes and variances: Welch is the pooled test, df = 6
    found = power.detectable_welch(x, x + 5)
    assert found is not None
    assert TTestIndPower().power(found / x.std(ddof=1), 4, 0.05) == pytest.approx(0.8, abs=CLOSE)
    assert power.detectable_welch([1.0, 1.0], [2.0, 2.0]) is None


def test_equal_differences_never_give_certainty() -> None:
    x, y = [81.0] * 5, [80.0] * 5
    d = significance.differences(x, y)
    assert significance.paired_t(d) == 0.0625  # the sign-flip floor, not 0
    assert significance.tost_paired(d, 2.0) == 1 / 32  # -2 < 1 < 2: one-sided floors
    assert significance.tost_paired(d, 1.0) == 1.0  # exactly at the margin
    assert significance.welch_t(x, y) == pytest.approx(2 / 252)
    assert significance.paired_difference(x, y) == significance.Difference(1.0, 0.0, None, None)
    assert significance.welch_difference(x, y) == significance.Difference(1.0, None, None, None)


@pytest.mark.parametrize("score", [0.56, 0.57, 0.28, 0.66, 0.8, 0.81])
def test_equal_differences_on_the_margin_are_not_within_it_nor_beyond(score: float) -> None:
    """In floating point one row of 100 is 0.99999999999998 points, or 1.00000000000001."""
    x, y = [100 * (score + 0.01)] * 5, [100 * score] * 5
    d = significance.differences(x, y)
    assert significance.tost_paired(d, 1.0) == significance.beyond_margin_paired(d, 1.0) == 1.0
    assert significance.tost_welch(x, y, 1.0) == significance.beyond_margin_welch(x, y, 1.0) == 1.0
    assert significance.tost_paired(d, 1.001) == 1 / 32
    assert significance.beyond_margin_paired(d, 0.999) == 2 / 32


def test_identical_scores_are_no_difference() -> None:
    d = significance.differences(X, X)
    assert significance.paired_t(d) == significance.sign_flip(d) == 1.0
    assert significance.paired_difference(X, X).mean == 0.0
    assert significance.tost_paired(d, 1.0) == 1 / 32


def test_rounding_noise_is_no_spread() -> None:
    x, y = [85.0, 90.0, 70.0], [100 * (0.85 - 0.05), 100 * (0.9 - 0.05), 100 * (0.7 - 0.05)]
    assert np.ptp(np.subtract(x, y)) > 0  # the noise is there
    assert significance.constant(significance.differences(x, y))
    assert significance.paired_t(significance.differences(x, y)) == 0.25


def test_p_is_never_zero() -> None:
    d = 1e6 + np.random.default_rng(0).normal(0, 1, 200)
    assert 0 < significance.paired_t(d) < 1e-300
    assert 0 < significance.tost_paired(d, 1e7) < 1e-300


@pytest.mark.parametrize("bad", [[1.0], [], [1.0, math.nan], [1.0, math.inf], [[1.0, 2.0]]])
def test_what_no_test_exists_for_is_refused(bad: list[float]) -> None:
    with pytest.raises(ComparisonError, match="a test needs"):
        significance.paired_t(bad)
    with pytest.raises(ComparisonError, match="a test needs"):
        significance.welch_t(bad, [1.0, 2.0])


def test_unmatched_lengths_are_refused() -> None:
    with pytest.raises(ComparisonError, match="found 2 and 3"):
        significance.differences([1.0, 2.0], [1.0, 2.0, 3.0])


values = st.lists(st.integers(-999, 999).map(lambda k: k / 10), min_size=2, max_size=8)


@settings(max_examples=30, deadline=None)
@given(values, st.randoms(use_true_random=False), st.integers(-50, 50), st.integers(1, 40))
def test_symmetry_shift_scale_and_order(d: list[float], random: object, shift: int, scale: int) -> None:
    x = np.asarray(d) + 50.0
    y = np.full_like(x, 50.0)
    assume(np.ptp(significance.differences(x, y)) > 0)
    p, g, tost = significance.paired_t(x - y), effects.hedges_g_s(x, y), significance.tost_paired(x - y, 2.0)
    flip = significance.sign_flip(x - y)
    order = np.random.default_rng(shift + 50).permutation(len(d))
    for first, second, factor, sign in (
        (y, x, 1, -1), (x + shift, y + shift, 1, 1),
        (x * scale, y * scale, scale, 1), (x[order], y[order], 1, 1),
    ):  # fmt: skip
        other = significance.differences(first, second)
        assert significance.paired_t(other) == pytest.approx(p, rel=1e-6, abs=CLOSE)
        assert significance.sign_flip(other) == flip
        assert significance.tost_paired(other, 2.0 * factor) == pytest.approx(tost, rel=1e-6, abs=CLOSE)
        found = effects.hedges_g_s(first, second)
        assert found is None if g is None else found == pytest.approx(sign * g, rel=1e-6, abs=CLOSE)


@settings(max_examples=30, deadline=None)
@given(values, st.sampled_from([0.5, 1.0, 20.0]))
def test_p_values_are_probabilities(d: list[float], margin: float) -> None:
    found = [
        significance.paired_t(d), significance.sign_flip(d), significance.tost_paired(d, margin),
        significance.beyond_margin_paired(d, margin),
        significance.welch_t(d, d[::-1]), significance.label_permutation(d, [v + 1 for v in d]),
    ]  # fmt: skip
    assert all(0 < p <= 1 for p in found)
    # no difference can be shown both within and beyond the same margin
    assert max(significance.tost_paired(d, margin), significance.beyond_margin_paired(d, margin)) >= 0.5
