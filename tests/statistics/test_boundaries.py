"""Exact boundaries: closed forms, published constants, simulated paths, another implementation where there is one."""

from __future__ import annotations

import importlib.util
import os
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from kdcache.errors import ComparisonError
from kdcache.statistics import boundaries

LOOKS = (5, 10, 20, 40)
LINEAR = (0.125, 0.125, 0.25, 0.5)
SMALL_STEPS = (5, 7, 10, 14)


def oracle() -> ModuleType:
    """Another implementation of the recursion, not part of this project."""
    place = os.environ.get("KDCACHE_SETTLE_ORACLE")
    if not place or not Path(place).is_file():
        pytest.skip("KDCACHE_SETTLE_ORACLE names no file with another implementation to compare with")
    spec = importlib.util.spec_from_file_location("settle_oracle", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("sides", [1, 2])
def test_one_look_is_a_t_test(sides: boundaries.Sides) -> None:
    assert boundaries.crossing([7], [0.03], sides) == pytest.approx([0.03], abs=1e-12)
    assert boundaries.nominal((7,), (1.0,), 0.05, sides) == (0.05,)


def simulated(seeds: tuple[int, ...], levels: list[float], sides: int, paths: int = 100_000) -> np.ndarray:
    """First crossings of made-up paths, by scipy's t-test at each look."""
    d = np.random.default_rng(7).standard_normal((paths, seeds[-1]))
    crossed, first = np.zeros(paths, dtype=bool), []
    for n, level in zip(seeds, levels, strict=True):
        side = "two-sided" if sides == 2 else "greater"
        now = (stats.ttest_1samp(d[:, :n], 0.0, axis=1, alternative=side).pvalue <= level) & ~crossed
        first.append(now.mean())
        crossed |= now
    return np.array(first)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("seeds", [LOOKS, SMALL_STEPS, (2, 4, 9, 12)])
def test_crossings_are_those_of_simulated_paths(seeds: tuple[int, ...], sides: boundaries.Sides) -> None:
    levels = [0.05, 0.1, 0.05, 0.08]  # also falling ones, where paths cross early
    found, exact = simulated(seeds, levels, sides), boundaries.crossing(seeds, levels, sides)
    assert np.abs(found - exact).max() < 4 * np.sqrt(0.1 * 0.9 / 100_000)


def test_without_looking_before_a_look_is_a_t_test() -> None:
    # a level of 1e-12 stops hardly any path, so that the last look is a t-test of its own
    found = boundaries.crossing(LOOKS, [1e-12, 1e-12, 1e-12, 0.05], 2)
    assert found[-1] == pytest.approx(0.05, rel=2e-4)


@pytest.mark.parametrize(
    ("z", "looks"), [([2.361] * 4, 4), (2.024 * np.sqrt(4 / np.arange(1, 5)), 4), ([2.178] * 2, 2)]
)
def test_published_constants_with_many_seeds(z: list[float], looks: int) -> None:
    # Pocock's and O'Brien and Fleming's constants for 5% with equal groups, as tabulated in textbooks
    seeds = [100 * (1 + look) for look in range(looks)]
    assert boundaries.crossing(seeds, list(2 * special.ndtr(-np.asarray(z))), 2).sum() == pytest.approx(
        0.05, abs=4e-4
    )


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("seeds", [LOOKS, (5, 7, 10, 14, 20, 28, 40)])
def test_every_look_spends_its_share(seeds: tuple[int, ...], sides: boundaries.Sides) -> None:
    shares = tuple(new / seeds[-1] for new in np.diff((0, *seeds)))
    levels = boundaries.nominal(seeds, shares, 0.05, sides)
    assert boundaries.crossing(seeds, levels, sides) == pytest.approx(0.05 * np.array(shares), rel=1e-5)
    assert all(level >= share * 0.05 for level, share in zip(levels, shares, strict=True))  # never stricter


def test_levels_that_were_worked_out_independently() -> None:
    levels = boundaries.nominal(LOOKS, LINEAR, 0.0125, 2)  # a family of 4
    assert levels == pytest.approx([0.00156, 0.00166, 0.00339, 0.00713], abs=5e-6)


@pytest.mark.parametrize("sides", [1, 2])
def test_another_implementation_agrees(sides: boundaries.Sides) -> None:
    other, levels = oracle(), [0.00625, 0.01, 0.0125, 0.025]
    critical = [other.tq(level, n, sides) for level, n in zip(levels, LOOKS, strict=True)]
    theirs = other.total(LOOKS, critical, sides, nodes=200, bnodes=150)
    assert boundaries.crossing(LOOKS, levels, sides) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("level", [0.0005, 0.0125, 0.05, 0.2])
def test_the_sequential_p_is_the_level_whose_boundary_is_met(level: float, sides: boundaries.Sides) -> None:
    nominal = boundaries.nominal(LOOKS, LINEAR, level, sides)
    for look, p in enumerate(nominal, 1):
        assert boundaries.sequential(LOOKS, LINEAR, look, np.array(p), sides) == pytest.approx(
            level, rel=3e-4
        )


@settings(deadline=None, max_examples=60)
@given(p=st.lists(st.floats(1e-12, 1.0), min_size=2, max_size=9), look=st.integers(1, 4))
def test_sequential_p_values_grow_with_p_and_never_exceed_the_split(p: list[float], look: int) -> None:
    q = boundaries.sequential(LOOKS, LINEAR, look, np.array(sorted(p)), 2)
    assert all(after >= before - 1e-12 for before, after in pairwise(q))
    assert (q <= np.minimum(1, np.array(sorted(p)) / LINEAR[look - 1])).all()
    assert ((q > 0) & (q <= 1)).all()


def test_a_single_new_seed_is_refused() -> None:
    with pytest.raises(ComparisonError, match=r"two or more new seeds at each look, found \[5, 6\]"):
        boundaries.nominal((5, 6), (0.5, 0.5), 0.05, 2)
