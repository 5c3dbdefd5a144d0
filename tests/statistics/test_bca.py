"""BCa intervals: scipy on the raw values, the limits of five seeds, and properties."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdcache.statistics import bca

D = [0.4, -0.1, 1.3, 0.6, 0.2]


def test_equal_to_scipy_on_the_raw_differences() -> None:
    # whole numbers, whose resampled means tie exactly: scipy compares those of 0.4, -0.1, ... with rounding noise
    whole = np.sort(np.round(10 * np.array(D)))
    oracle = stats.bootstrap(
        (whole,), np.mean, n_resamples=bca.RESAMPLES, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert bca.bca_mean(whole) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    assert bca.bca_mean(D) == pytest.approx((oracle.low / 10, oracle.high / 10), abs=1e-9)


def test_equal_to_scipy_on_independent_samples() -> None:
    x, y = (
        np.sort(np.random.default_rng(1).normal(5, 1, 8)),
        np.sort(np.random.default_rng(2).normal(4, 2, 6)),
    )
    oracle = stats.bootstrap(
        (x, y), lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis), vectorized=True,
        n_resamples=bca.RESAMPLES, method="BCa", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert bca.bca_welch(x, y) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_large_samples_agree_with_the_t_interval() -> None:
    d = np.random.default_rng(3).normal(1, 1, 200)
    low, high = stats.ttest_1samp(d, 0).confidence_interval(0.9)
    assert bca.bca_mean(d, 0.9) == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize("d", [D, [1.0, 2.0, 3.0, 1.0, 3.0], [0.0, 1.0], [-1.0, 0.0, 1.0]])
def test_symmetry_shift_scale_and_order(d: list[float]) -> None:
    found = bca.bca_mean(d)
    assert found is not None
    low, high = found
    assert min(d) <= low + 1e-9 < high <= max(d) + 1e-9  # it never leaves what was seen
    assert bca.bca_mean(d[::-1]) == pytest.approx(found, abs=1e-9)
    assert bca.bca_mean([-v for v in d]) == pytest.approx((-high, -low), abs=1e-9)
    assert bca.bca_mean([v + 50 for v in d]) == pytest.approx((low + 50, high + 50), abs=1e-9)
    assert bca.bca_mean([3 * v for v in d]) == pytest.approx((3 * low, 3 * high), abs=1e-9)


def test_no_spread_no_interval() -> None:
    assert bca.bca_mean([0.5] * 5) is None
    assert bca.bca_welch([1.0, 1.0], [2.0, 2.0]) is None
    one_sided = bca.bca_welch([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert one_sided is not None
    assert -1 <= one_sided[0] < one_sided[1] <= 1
