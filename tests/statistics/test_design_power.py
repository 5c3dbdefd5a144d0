"""What a design costs and decides, against closed forms and exact powers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from kdcache.errors import ComparisonError
from kdcache.statistics.design_power import Assumed, forecast
from kdcache.statistics.looks import Design


def test_a_fixed_design_has_the_power_of_its_test() -> None:
    found = forecast(Design.of([10]), [Assumed((1.0,), (1.2,), margin=0.5)], repetitions=20_000)
    exact = TTestPower().power(1 / 1.2, 10, 0.05)
    assert found.odds[0].better == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert (found.least, found.likely, found.most, found.comparisons) == (20, 20, 20, 1)


def test_the_least_and_the_most_trials() -> None:
    families = [Assumed((0.0, 5.0), (1.0,)), Assumed((0.5,), (0.8,))]
    found = forecast(Design.of([5, 10, 20]), families, repetitions=300)
    assert (found.least, found.most) == (5 * 5, 20 * 5)  # two baselines and three regularizers
    assert found.least <= found.low <= found.likely <= found.high <= found.most
    sure = forecast(Design.of([5, 10, 20]), [Assumed((50.0, -50.0), (1.0,))], repetitions=300)
    assert (sure.low, sure.high, sure.decided) == (15, 15, 2.0)
    assert ([odds.better for odds in sure.odds], [odds.worse for odds in sure.odds]) == ([1, 0], [0, 1])


def test_a_cell_that_was_simulated_independently() -> None:
    # sd 1.2, effect 0.5, four comparisons: 96% decided, 47% better, 48% equivalent, 173 trials
    found = forecast(Design.of([5, 10, 20, 40], stop_hopeless=0.0), [Assumed((0.5,) * 4, (1.2,))])
    assert found.decided / 4 == pytest.approx(0.96, abs=0.01)
    assert np.mean([odds.better for odds in found.odds]) == pytest.approx(0.47, abs=0.025)
    assert 5 * np.mean([odds.seeds for odds in found.odds]) == pytest.approx(173, rel=0.05)


def test_differences_share_their_baseline() -> None:
    d = (
        Assumed((0.0, 1.0), (2.0, 0.5))
        .draw(np.random.default_rng(0), 2000, 20)
        .transpose(1, 0, 2)
        .reshape(2, -1)
    )
    assert stats.pearsonr(*d).statistic == pytest.approx(0.5, abs=0.02)
    assert d.std(axis=1) == pytest.approx([2.0, 0.5], rel=0.02)
    assert d.mean(axis=1) == pytest.approx([0.0, 1.0], abs=0.05)


def test_comparisons_with_baselines_of_their_own_share_nothing() -> None:
    family = Assumed((0.0,) * 3, (1.0,), baselines=(0, 1, 0))
    first, other, same = family.draw(np.random.default_rng(0), 2000, 20).transpose(1, 0, 2).reshape(3, -1)
    assert stats.pearsonr(first, other).statistic == pytest.approx(0.0, abs=0.02)
    assert stats.pearsonr(first, same).statistic == pytest.approx(0.5, abs=0.02)


def test_each_baseline_has_the_seeds_that_its_comparisons_need() -> None:
    # One stops at once, the other, which is nowhere near decided, at the last look.
    design = Design.of([5, 20], stop_hopeless=0.0)
    family = Assumed((50.0, 1.0), (1.0, 40.0), margin=1.0, baselines=(0, 1))
    found = forecast(design, [family], repetitions=200)
    assert (found.least, found.most) == (4 * 5, 4 * 20)
    assert found.likely == 2 * 5 + 2 * 20
    together = Assumed((50.0, 1.0), (1.0, 40.0), margin=1.0)
    assert forecast(design, [together], repetitions=200).likely == 5 + 2 * 20


def test_equal_arguments_give_equal_answers() -> None:
    design, families = Design.of([5, 10]), [Assumed((0.5,), (1.0,))]
    assert forecast(design, families, repetitions=200) == forecast(design, families, repetitions=200)
    assert forecast(design, families, repetitions=200) != forecast(design, families, repetitions=200, seed=1)


@pytest.mark.parametrize(
    ("effects", "sds", "said"),
    [((), (1.0,), "0 effects"), ((1.0, 2.0), (1.0,) * 3, "2 effects"), ((1.0,), (0.0,), "above 0")],
)
def test_what_is_refused(effects: tuple[float, ...], sds: tuple[float, ...], said: str) -> None:
    with pytest.raises(ComparisonError, match=said):
        Assumed(effects, sds)
    with pytest.raises(ComparisonError, match="2 effects need as many baselines"):
        Assumed((1.0, 2.0), (1.0,), baselines=(0,))
    with pytest.raises(ComparisonError, match="one family or more"):
        forecast(Design.of([5]), [])
