"""The spread of paired differences, by hand and on made-up trials."""

from __future__ import annotations

import numpy as np
import pytest

from tools.spread import Spread, spread


def test_by_hand() -> None:
    """Two seeds, two rows: differences of (1, 0) and (0, 0), so of 50 and 0 points."""
    right = np.array([[True, True], [True, False]])
    baseline = np.array([[False, True], [True, False]])
    found = spread(right, baseline)
    assert found.sd == pytest.approx(50 / np.sqrt(2))
    assert found.own == pytest.approx(100 * np.sqrt(0.5 / 4))  # one row varies, with variance 1/2, of 2 rows
    assert found.changed == 0.25
    assert (found.seeds, found.rows) == (2, 2)


def test_rows_that_change_by_themselves_make_all_of_it() -> None:
    rng = np.random.default_rng(0)
    right, baseline = rng.random((40_000, 50)) < 0.8, rng.random((40_000, 50)) < 0.7
    found = spread(right, baseline)
    assert found.own == pytest.approx(100 * np.sqrt((0.8 * 0.2 + 0.7 * 0.3) / 50), rel=0.01)
    assert found.sd == pytest.approx(found.own, rel=0.02)
    assert found.with_rows(4) == pytest.approx(found.sd / 2, rel=0.05)


def test_rows_that_change_together_make_none_of_it() -> None:
    right = np.repeat(np.random.default_rng(1).random((50, 1)) < 0.5, 1000, axis=1)
    found = spread(right, np.ones_like(right))
    assert found.own < found.sd / 20
    assert found.with_rows(2) == pytest.approx(found.sd, rel=0.01)


def test_more_rows_never_give_less_than_nothing() -> None:
    assert Spread(10, 100, sd=1.0, own=1.2, correlation=0, changed=0).with_rows(4) == 0.5
