"""Looks as they are declared: each one's share of alpha."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import ComparisonError
from kdcache.study.looks import check_looks, shares_of

LOOKS = (5, 10, 20, 40)


def test_shares_by_hand() -> None:
    assert shares_of("linear", LOOKS) == (1 / 8, 1 / 8, 1 / 4, 1 / 2)
    assert shares_of("late", LOOKS) == pytest.approx((0.05, 0.10, 0.20, 0.65))
    assert shares_of("late", (10, 40)) == pytest.approx((0.35, 0.65))
    assert shares_of([0.2, 0.2, 0.2, 0.2], LOOKS) == (0.2,) * 4  # a reserve of 0.2 is left
    assert shares_of("linear", (7,)) == shares_of("late", (7,)) == (1.0,)


@given(looks=st.lists(st.integers(2, 300), min_size=1, max_size=5, unique=True).map(sorted))
def test_shares_are_positive_and_sum_to_one(looks: list[int]) -> None:
    for spend in ("linear", "late"):
        shares = shares_of(spend, looks)  # type: ignore[arg-type]
        assert min(shares) > 0
        assert sum(shares) == pytest.approx(1.0, abs=1e-12)


def test_a_single_look_may_be_a_single_seed() -> None:
    check_looks([1])
    with pytest.raises(ComparisonError, match="the first 2 or more"):
        check_looks([1, 3])
