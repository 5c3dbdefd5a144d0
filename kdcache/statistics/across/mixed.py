"""A linear mixed model over tasks and seeds, as a cross-check of the tests that assume less.

    points = intercept + effect[regularizer] + task + seed within task + noise

Task and seed-within-task are normal random effects; the fit is by restricted maximum likelihood (statsmodels). The
model assumes that a regularizer has the same effect on every task. So it is about these tasks, like the stratified
permutation test. Its p-values use the normal distribution instead of t: they are a little too small with few trials.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from kdcache.statistics.significance import ROUNDING


@dataclass(frozen=True)
class Effect:
    """A regularizer's effect against the baseline, in points, with its interval and two-sided p."""

    difference: float
    ci_low: float
    ci_high: float
    p: float


def mixed_model(
    scores: pd.DataFrame, methods: Sequence[str], baseline: str, confidence: float = 0.95
) -> tuple[dict[str, Effect], str]:
    """The effects of `methods` other than `baseline`, and a note that is empty, or says why there are no effects.

    Args:
        scores: columns task, seed, regularizer, points; one row a trial, finite, in any balance.

    The model cannot be fitted with fewer than two tasks, without two seeds on any task, if the scores have no spread,
    or if the optimizer does not converge.
    """
    compared = [name for name in methods if name != baseline and (scores["regularizer"] == name).any()]
    reason = _unfit(scores, compared, baseline)
    if reason:
        return {}, f"mixed model: {reason}"
    order = [baseline, *compared]
    data = scores[scores["regularizer"].isin(order)].sort_values(["task", "seed", "regularizer"])
    data = data.assign(regularizer=pd.Categorical(data["regularizer"], order))
    fitted = _fit(data)
    if fitted is None:
        return {}, "mixed model: did not converge"
    half = float(stats.norm.isf((1 - confidence) / 2))
    effects = zip(compared, fitted[0][1:], fitted[1][1:], strict=True)  # the first is the intercept
    return {name: _effect(float(b), float(error), half) for name, b, error in effects}, ""


def _unfit(scores: pd.DataFrame, compared: list[str], baseline: str) -> str:
    """Why the model cannot be fitted; empty if it can be tried."""
    if not compared or not (scores["regularizer"] == baseline).any():
        return "no trials to compare"
    if scores["task"].nunique() < 2:
        return "needs two tasks"
    if scores.groupby("task")["seed"].nunique().max() < 2:
        return "needs two seeds"
    means = scores.groupby(["task", "regularizer"])["points"].transform("mean")
    if (scores["points"] - means).abs().max() <= ROUNDING * scores["points"].abs().max():
        return "the scores have no spread"
    return ""


def _fit(data: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """Fixed effects and their standard errors, the intercept first; `None` without a usable optimum."""
    from statsmodels.regression.mixed_linear_model import MixedLM  # takes two seconds, so only if needed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the problems they warn of are checked below
        model = MixedLM.from_formula(
            "points ~ C(regularizer)", data, groups="task", re_formula="1", vc_formula={"seed": "0 + C(seed)"}
        )
        try:
            # methods without gradients: they can reach a variance of 0, where the default's line search gives up
            result = model.fit(reml=True, method=["powell", "nm"])
        except (np.linalg.LinAlgError, ValueError):
            return None
    effects, errors = np.asarray(result.fe_params), np.asarray(result.bse_fe)
    usable = (
        result.converged and np.isfinite(effects).all() and np.isfinite(errors).all() and errors.min() > 0
    )
    return (effects, errors) if usable else None


def _effect(difference: float, error: float, half: float) -> Effect:
    p = max(2 * float(stats.norm.sf(abs(difference) / error)), float(np.finfo(np.float64).tiny))
    return Effect(difference, difference - half * error, difference + half * error, p)
