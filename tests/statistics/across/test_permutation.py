"""Sign flips within tasks, against an obvious enumeration; weights, symmetry, the seeded draws."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import ComparisonError
from kdcache.statistics.across.permutation import stratified_permutation
from kdcache.statistics.significance import RESAMPLES, paired_t, sign_flip

BLOCK = st.lists(st.integers(-12, 12).map(lambda n: n / 4), min_size=1, max_size=4)
BLOCKS = st.lists(BLOCK, min_size=2, max_size=3)


def enumerated(tasks: list[list[float]]) -> float:
    """The share of all flips whose |mean over tasks of the mean difference| is as large, one at a time."""
    observed = abs(np.mean([np.mean(d) for d in tasks]))
    count = sum(map(len, tasks))
    extreme = 0
    for signs in product([1, -1], repeat=count):
        rest, means = list(signs), []
        for d in tasks:
            means.append(np.mean([value * rest.pop(0) for value in d]))
        extreme += abs(np.mean(means)) >= observed - 1e-9
    return extreme / 2**count


@settings(max_examples=25, deadline=None)
@given(BLOCKS)
def test_exact(tasks: list[list[float]]) -> None:
    assert stratified_permutation(tasks) == pytest.approx(enumerated(tasks), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(BLOCKS)
def test_symmetry_and_order(tasks: list[list[float]]) -> None:
    p = stratified_permutation(tasks)
    assert stratified_permutation([[-value for value in d] for d in tasks]) == p
    assert stratified_permutation([d[::-1] for d in tasks[::-1]]) == p


def test_every_task_has_the_same_weight() -> None:
    # flips of [4] move the mean by 4, flips of [1, 1, 1, 1] together by 1: 4 dominates
    assert stratified_permutation([[4.0], [1.0] * 4]) == 2 / 2**5
    assert stratified_permutation([[4.0], [-1.0] * 4]) == 1.0  # 4 - 1 is the smallest of all sums


def test_one_task_is_the_sign_flip_test() -> None:
    d = [0.5, 1.25, -0.25, 2.0, 0.75]
    assert stratified_permutation([d]) == sign_flip(d)


def test_beyond_enumeration_is_seeded_and_near_the_t_test() -> None:
    rng = np.random.default_rng(5)
    tasks = [rng.normal(0.15, 1, 40) for _ in range(6)]
    p = stratified_permutation(tasks)
    assert p == stratified_permutation([d[::-1] for d in tasks[::-1]])
    assert p == stratified_permutation([-d for d in tasks])
    assert p == pytest.approx(paired_t(np.concatenate(tasks)), abs=0.01)
    other = stratified_permutation(tasks, seed=1)
    assert p is not None
    assert other == pytest.approx(p, abs=5 * np.sqrt(2 * p * (1 - p) / RESAMPLES))


def test_never_zero() -> None:
    assert stratified_permutation([[5.0, 5.1, 5.2, 5.3, 5.4]] * 8) == 1 / (RESAMPLES + 1)


def test_too_little_and_faulty() -> None:
    assert stratified_permutation([]) is None
    assert stratified_permutation([[1.0]]) is None
    assert stratified_permutation([[1.0], [2.0]]) == 0.5
    for faulty in ([[1.0, float("nan")]], [[], [1.0, 2.0]]):
        with pytest.raises(ComparisonError, match="finite differences"):
            stratified_permutation(faulty)


def test_holds_its_level_under_the_null() -> None:
    # symmetric differences of unequal spread: P(p <= 0.05) <= 0.05 exactly
    rng = np.random.default_rng(7)
    spreads = np.repeat([0.2, 1.0, 3.0], 5)
    found = [stratified_permutation((rng.normal(size=15) * spreads).reshape(3, 5).tolist())
             for _ in range(300)]  # fmt: skip
    assert np.mean([p <= 0.05 for p in found if p is not None]) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 300)
