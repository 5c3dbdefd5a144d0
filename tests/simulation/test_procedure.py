"""The simulation's fast procedure gives what kdcache.statistics gives, verdict for verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdcache.statistics import compare, compare_inits, significance
from kdcache.statistics.families import correct
from simulation import intervals, procedure
from tests.statistics.helpers import make_study, make_trials

PAIRS = {"raw": ("t", "scratch"), "tiny": ("t", "pretrained")}
STUDIES = 12  # of each kind and family


def random_scores(kind: str, seed: int) -> np.ndarray:
    """One study, [1, tasks, 2 students, arms, seeds], as trials.csv would give it back."""
    rng = np.random.default_rng([seed, len(kind)])
    shape = (1, int(rng.choice([1, 1, 2, 3])), 2, int(rng.integers(2, 5)), int(rng.integers(2, 7)))
    effects = rng.choice([0.0, 0.0, 1.0, -3.0, 6.0], size=shape[:4])[..., None]
    if kind == "normal":
        scores = 80 + effects + rng.normal(0, rng.choice([0.05, 0.5, 2.0]), shape)
    else:  # few values: equal scores, equal differences, no differences at all
        scores = 80 + effects + rng.integers(0, 1 + int(rng.integers(3)), shape) * 100 / 277
    return 100 * (scores / 100)


def as_study(scores: np.ndarray, family: str):
    _, tasks, _, arms, seeds = scores.shape
    names = [f"task{i}" for i in range(tasks)]
    methods = [f"m{i}" for i in range(1, arms)]
    study = make_study(names, PAIRS, methods, range(seeds), family=family)
    cells = {
        (task, student, method): scores[0, i, j, k].tolist()
        for i, task in enumerate(names)
        for j, student in enumerate(PAIRS)
        for k, method in enumerate(["base", *methods])
    }
    return make_trials(cells), study


def at(frame: pd.DataFrame, column: str, tasks: int, methods: int) -> np.ndarray:
    """A column of comparisons as [tasks, students, regularizers]."""
    placed = frame.set_index(["task", "student", "regularizer"])[column]
    keys = [(f"task{i}", s, f"m{k}") for i in range(tasks) for s in PAIRS for k in range(1, methods + 1)]
    return np.array([placed[key] for key in keys]).reshape(tasks, 2, methods)


@pytest.mark.parametrize("kind", ["normal", "counted"])
@pytest.mark.parametrize("family", ["student", "task", "study"])
def test_equal_to_compare(kind: str, family: str) -> None:
    seen: set[str] = set()
    for seed in range(STUDIES):
        scores = random_scores(kind, seed)
        frame = compare(*as_study(scores, family))
        judged = procedure.judge(scores, 1.0, family)
        size = (scores.shape[1], scores.shape[3] - 1)
        for column in ("t_p", "t_p_corrected", "tost_p", "tost_p_corrected"):
            np.testing.assert_allclose(getattr(judged, column)[0], at(frame, column, *size), atol=1e-9)
        words = np.array(procedure.VERDICTS)[judged.verdict[0]]
        assert (words == at(frame, "verdict", *size)).all()
        significant = judged.different[0]
        assert (judged.within[0][significant] == at(frame, "negligible", *size)[significant]).all()
        seen |= set(words.ravel())
    assert seen == set(procedure.VERDICTS)


def test_the_counted_studies_have_comparisons_without_spread() -> None:
    d = [procedure.against_baseline(random_scores("counted", seed)) for seed in range(STUDIES)]
    flat = [(values[0], procedure.constant(values)[0]) for values in d]
    assert any((mask & (values[..., 0] == 0)).any() for values, mask in flat)
    assert any((mask & (values[..., 0] != 0)).any() for values, mask in flat)


@pytest.mark.parametrize("family", ["student", "task", "study"])
def test_equal_to_interaction(family: str) -> None:
    for kind in ("normal", "counted"):
        for seed in range(STUDIES):
            scores = random_scores(kind, seed)
            frame = compare_inits(*as_study(scores, family))
            _, tasks, _, arms, _ = scores.shape
            pairs = frame[frame["scope"] == "pair"]["p_corrected"].to_numpy(float).reshape(tasks, arms)
            np.testing.assert_allclose(procedure.interaction_pair(scores, family)[0], pairs, atol=1e-9)
            if tasks > 1:
                pooled = frame[frame["scope"] == "pooled"]["p_corrected"].to_numpy(float)
                np.testing.assert_allclose(procedure.interaction_pooled(scores)[0], pooled, atol=1e-9)


def test_holm_row_by_row() -> None:
    p = np.random.default_rng(0).random((50, 7)) ** 3
    p[:10, 3] = p[:10, 2]  # ties
    np.testing.assert_array_equal(procedure.holm(p), [correct(row, "holm") for row in p])


def test_intervals_equal_kdcaches() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(80, 1, (50, 5)), rng.normal(79, 3, (50, 7))
    x[0], y[0] = 80.0, 79.0
    for found, one in [
        (intervals.student(x), [significance.mean_interval(row) for row in x]),
        (intervals.welch(x, y), [significance.welch_difference(a, b) for a, b in zip(x, y, strict=True)]),
    ]:
        assert one[0].ci_low is None
        assert np.isnan([found[0][0], found[1][0]]).all()
        expected = [[each.ci_low for each in one[1:]], [each.ci_high for each in one[1:]]]
        np.testing.assert_allclose([found[0][1:], found[1][1:]], expected, rtol=1e-9)


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("unmatched", [False, True])
def test_bootstrap_intervals_equal_scipys_on_the_same_resamples(n: int, method: str, unmatched: bool) -> None:
    rng = np.random.default_rng(n)
    samples = [np.concatenate([rng.exponential(1, (15, n)), rng.integers(0, 3, (15, n)) / 2])]
    if unmatched:
        samples.append(rng.integers(0, 2, (30, n + 1)) / 2)
    estimates = intervals.resampled(samples, 999, rng)
    low, high = getattr(intervals, method)(samples, estimates)
    for row in range(30):
        sample = tuple(side[row] for side in samples)
        if all(np.ptp(side) == 0 for side in sample):
            assert np.isnan([low[row], high[row]]).all()
        else:
            known = scipys_interval(sample, estimates[row], method)
            assert (low[row], high[row]) == pytest.approx(known, rel=1e-9, abs=1e-12)


def mean_difference(x: np.ndarray, y: np.ndarray | float = 0.0, axis: int = -1) -> np.ndarray:
    return np.mean(x, axis=axis) - np.mean(y, axis=axis if np.ndim(y) else None)


def scipys_interval(
    sample: tuple[np.ndarray, ...], estimates: np.ndarray, method: str
) -> tuple[float, float]:
    """scipy's interval from given resamples: it takes them from an earlier result."""
    options = {"method": {"bca": "BCa"}.get(method, method), "vectorized": True}
    earlier = stats.bootstrap(sample, mean_difference, n_resamples=2, method="percentile", rng=0)
    earlier.bootstrap_distribution = estimates
    again = stats.bootstrap(sample, mean_difference, n_resamples=0, bootstrap_result=earlier, **options)
    return again.confidence_interval.low, again.confidence_interval.high


@pytest.mark.parametrize("unmatched", [False, True])
def test_bootstrap_intervals_agree_with_scipys_own_resamples(unmatched: bool) -> None:
    rng = np.random.default_rng(2)
    samples = [rng.exponential(1, 30), rng.exponential(2, 20)][: 2 if unmatched else 1]
    ours = [sample[None] for sample in samples]
    estimates = intervals.resampled(ours, 50_000, np.random.default_rng(3))
    own = np.array(intervals.bca(ours, estimates)).ravel()
    scipys = stats.bootstrap(samples, mean_difference, n_resamples=50_000, rng=4, batch=5000)
    low, high = scipys.confidence_interval
    assert own == pytest.approx((low, high), abs=0.03)  # Monte-Carlo error below 0.01
