"""The mixed model: in a balanced design it has a closed form; and what happens when it cannot be fitted."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdcache.statistics.across.mixed import mixed_model

METHODS = ["base", "a", "b"]


def scores(tasks: int = 4, seeds: int = 5, noise: float = 0.5, rng: int = 0) -> pd.DataFrame:
    """Tasks and seeds vary more than the noise; a is 0.4 points better than base, b 1.0 worse."""
    random = np.random.default_rng(rng)
    rows = []
    for task in range(tasks):
        level = 70 + random.normal(0, 5)
        for seed in range(seeds):
            shift = level + random.normal(0, 1)
            for method, effect in zip(METHODS, (0, 0.4, -1.0), strict=True):
                rows.append((f"t{task}", seed, method, shift + effect + random.normal(0, noise)))
    return pd.DataFrame(rows, columns=["task", "seed", "regularizer", "points"])


def test_a_balanced_design_is_the_two_way_analysis_of_variance() -> None:
    # effects: differences of means; their squared error 2 s^2 / (tasks seeds), s^2 the mean square of what
    # remains after the means of method and of task x seed
    data = scores()
    wide = data.pivot_table(index=["task", "seed"], columns="regularizer", values="points")
    rest = wide.sub(wide.mean(axis=1), axis=0) - (wide.mean() - wide.mean().mean())
    error = math.sqrt(2 * float((rest**2).to_numpy().sum()) / ((20 - 1) * (3 - 1)) / 20)
    effects, note = mixed_model(data, METHODS, "base")
    assert note == ""
    assert list(effects) == ["a", "b"]
    for name, effect in effects.items():
        difference = float(wide[name].mean() - wide["base"].mean())
        assert effect.difference == pytest.approx(difference, abs=1e-9)
        half = 1.959963984540054 * error
        # REML is an iterative optimum: the error agrees to its tolerance
        assert (effect.ci_low, effect.ci_high) == pytest.approx(
            (difference - half, difference + half), abs=1e-4
        )
        assert effect.p == pytest.approx(2 * stats.norm.sf(abs(difference) / error), rel=1e-2)


def test_order_and_swapping() -> None:
    data = scores()
    effects, _ = mixed_model(data, METHODS, "base")
    shuffled, _ = mixed_model(data.sample(frac=1, random_state=1), METHODS, "base")
    assert shuffled["a"].p == pytest.approx(effects["a"].p, rel=1e-6)
    swapped, _ = mixed_model(data, METHODS, "a")
    assert list(swapped) == ["base", "b"]
    assert swapped["base"].difference == pytest.approx(-effects["a"].difference, abs=1e-9)
    assert swapped["base"].p == pytest.approx(effects["a"].p, rel=1e-3)


def test_unbalanced_data_are_used() -> None:
    data = scores()
    effects, note = mixed_model(data.drop(index=data.index[[1, 20, 34]]), METHODS, "base")
    assert note == ""
    assert effects["a"].difference == pytest.approx(0.4, abs=0.5)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (scores(tasks=1), "needs two tasks"),
        (scores(seeds=1), "needs two seeds"),
        (scores().assign(points=70.0), "the scores have no spread"),
        (scores().query("regularizer == 'base'"), "no trials to compare"),
        (scores().query("regularizer != 'base'"), "no trials to compare"),
    ],
)
def test_what_cannot_be_fitted_says_so(data: pd.DataFrame, reason: str) -> None:
    assert mixed_model(data, METHODS, "base") == ({}, f"mixed model: {reason}")


@pytest.mark.parametrize("failure", ["singular", "not converged", "no error"])
def test_a_failed_fit_is_a_note(monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    def fit(self: object, **options: object) -> SimpleNamespace:
        if failure == "singular":
            raise np.linalg.LinAlgError("Singular matrix")
        errors = np.array([1.0, np.nan if failure == "no error" else 1.0, 1.0])
        return SimpleNamespace(fe_params=np.zeros(3), bse_fe=errors, converged=failure != "not converged")

    monkeypatch.setattr("statsmodels.regression.mixed_linear_model.MixedLM.fit", fit)
    assert mixed_model(scores(), METHODS, "base") == ({}, "mixed model: did not converge")


def test_variances_at_zero_still_converge() -> None:
    # neither task nor seed matters, so their variances are at or near 0, where a line search gives up
    random = np.random.default_rng(1)
    grid = [(t, s, m) for t in "abcdefgh" for s in range(5) for m in METHODS]
    data = pd.DataFrame(grid, columns=["task", "seed", "regularizer"])
    data["points"] = 70 + random.normal(size=len(data))
    effects, note = mixed_model(data, METHODS, "base")
    assert note == ""
    by_task = data.groupby(["task", "regularizer"])["points"].mean().unstack()
    for name, effect in effects.items():
        assert effect.difference == pytest.approx((by_task[name] - by_task["base"]).mean(), abs=1e-9)
        error = (effect.ci_high - effect.ci_low) / (2 * 1.959963984540054)
        assert error == pytest.approx(math.sqrt(2 / 40), rel=0.25)


def test_no_warnings_where_the_model_is_at_its_edge() -> None:
    # no noise at all beyond task, seed and method, and a single value that differs: nearly singular fits
    for data in (scores(noise=0.0), scores(tasks=2, seeds=2, noise=0.0)):
        exact = data.assign(points=data["points"].round(1))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            effects, note = mixed_model(exact, METHODS, "base")
        assert bool(effects) != bool(note)
        for effect in effects.values():
            assert 0 < effect.p <= 1
            assert np.isfinite([effect.difference, effect.ci_low, effect.ci_high]).all()
