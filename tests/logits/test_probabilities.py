"""Log probabilities, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax as oracle

from kdcache.logits.probabilities import log_softmax


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (0, 3), (7, 1), (4, 2, 9)])
def test_they_are_those_of_scipy_bit_for_bit(dtype: type[np.floating], shape: tuple[int, ...]) -> None:
    logits = np.random.default_rng(0).normal(0, 30, shape).astype(dtype)
    found = log_softmax(logits)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, oracle(logits, axis=-1))


def test_large_logits_do_not_overflow() -> None:
    np.testing.assert_array_equal(log_softmax(np.array([1e4, 0.0, -1e4])), [0.0, -1e4, -2e4])
