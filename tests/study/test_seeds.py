"""Short forms of seeds, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.study.seeds import as_many, in_short, listed


@pytest.mark.parametrize(
    ("short", "seeds"),
    [
        (3, [0, 1, 2]),
        ({"first": 100, "count": 2}, [100, 101]),
        ({"first": 7, "count": 1}, [7]),
        ([4, 2, 9], [4, 2, 9]),
    ],
)
def test_what_a_short_form_stands_for(short: Any, seeds: list[int]) -> None:
    assert listed(short) == seeds
    assert in_short(seeds) == short


@pytest.mark.parametrize(
    "wrong", [0, -1, 10_001, {}, {"first": 1}, {"first": 1, "count": 0}, {"first": True, "count": 2},
              {"first": 0, "count": 1.0}, {"first": 0, "count": 1, "step": 2}, {"first": "0", "count": 1}]
)  # fmt: skip
def test_what_is_no_short_form(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected a list of seeds, their number"):
        listed(wrong)


def test_the_last_seed_is_one_that_numpy_takes() -> None:
    assert listed({"first": 2**32 - 2, "count": 2}) == [2**32 - 2, 2**32 - 1]
    np.random.RandomState(2**32 - 1)
    with pytest.raises(ValueError, match="between 0 and"):
        np.random.RandomState(2**32)
    with pytest.raises(ValueError, match="the last seed would be 4294967296, the largest is 4294967295"):
        listed({"first": 2**32 - 2, "count": 3})
    with pytest.raises(ValueError, match="the last seed would be <int of thousands of digits>, the largest"):
        listed({"first": 10**5000, "count": 3})


@pytest.mark.parametrize("other", [True, "3", None, 2.0])
def test_what_does_not_look_like_one_is_left_to_the_schema(other: object) -> None:
    assert listed(other) is other


@pytest.mark.parametrize(
    ("seeds", "advice"),
    [
        ([0, 1], "write `seeds: 5`"),
        ([1100, 1101, 1102, 1103], "write `seeds: {first: 1100, count: 5}`"),
        ([7], "write `seeds: {first: 7, count: 5}`"),
        ([7, 9], "list 5 seeds"),
        ([1, 0], "list 5 seeds"),
    ],
)
def test_more_seeds_begin_as_these_do(seeds: list[int], advice: str) -> None:
    assert as_many(seeds, 5) == advice


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8))
def test_any_seeds_come_back(seeds: list[int]) -> None:
    assert listed(in_short(seeds)) == seeds
