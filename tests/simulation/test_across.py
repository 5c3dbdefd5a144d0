"""The simulation's fast statistics across tasks, and its claims, give what kdcache.statistics gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdcache.statistics import compare_across_tasks, summarize
from kdcache.statistics.across.bootstrap import interquartile_mean, probability_of_improvement
from kdcache.statistics.across.mixed import mixed_model
from kdcache.statistics.across.permutation import stratified_permutation
from kdcache.statistics.across.ranks import friedman
from kdcache.statistics.across.signed_rank import bayesian_signed_rank, wilcoxon
from kdcache.statistics.against_teacher_free import compare_with_teacher_free
from kdcache.statistics.claims import teacher_needed
from simulation import across as fast
from simulation import across_questions, claims
from simulation.intervals import student
from simulation.montecarlo import rates
from simulation.procedure import against_baseline
from tests.simulation.test_procedure import PAIRS, as_study
from tests.statistics.helpers import make_trials
from tests.statistics.test_against_teacher_free import taught_study

MARGIN = 1.0


def random_scores(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Scores with effects of all sorts; `counted`: few values, so ties and equal differences."""
    rng = np.random.default_rng([seed, len(kind)])
    effects = rng.choice([0.0, 0.0, 0.5, -2.0, 6.0], size=(shape[0], 1, 1, shape[3], 1))
    spread = rng.choice([0.05, 0.5, 2.0], size=(shape[0], 1, 1, 1, 1))
    noise = spread * rng.normal(0, 1, shape) if kind == "normal" else rng.integers(0, 3, shape) * 100 / 277
    return np.asarray(100 * ((80 + effects + noise) / 100))


def one_student(kind: str, repetitions: int, tasks: int, seeds: int = 5) -> np.ndarray:
    return random_scores(kind, (repetitions, tasks, 1, 4, seeds))[:, :, 0]


@pytest.mark.parametrize("kind", ["normal", "counted"])
@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_ranks_equal_the_librarys(kind: str, tasks: int) -> None:
    scores = one_student(kind, 40, tasks, seeds=2)
    scores[0] = 80.0  # every method ties on every task
    means = scores.mean(axis=-1)
    known = [friedman(study) for study in means]
    assert known[0] is None
    np.testing.assert_allclose(fast.friedman(means), [np.nan if k is None else k.p for k in known], atol=1e-9)
    d = against_baseline(scores[:, :, None])[:, :, 0, 0].mean(axis=-1)
    np.testing.assert_allclose(fast.wilcoxon(d), [wilcoxon(study) for study in d], atol=1e-12)


@pytest.mark.parametrize("kind", ["normal", "counted"])
@pytest.mark.parametrize(("tasks", "seeds"), [(1, 4), (3, 5), (4, 5)])  # 20 differences: drawn signs
def test_the_permutation_test_equals_the_librarys(kind: str, tasks: int, seeds: int) -> None:
    d = against_baseline(random_scores(kind, (25, tasks, 1, 2, seeds)))[:, :, 0, 0]
    d[0] = np.random.default_rng(0).normal(0.3, 0.5, d[0].shape)
    known = np.array([stratified_permutation(list(study)) for study in d])
    found = fast.permutation(d)
    low, high = fast.UNSETTLED
    settled = (known < low) | (known > high) if tasks * seeds > 16 else np.zeros(len(d), dtype=bool)
    np.testing.assert_allclose(found[~settled], known[~settled], atol=1e-12)
    np.testing.assert_allclose(found[settled], known[settled], atol=0.03)
    for level in (0.0125, 0.05 / 3, 0.025, 0.05):
        assert ((found <= level) == (known <= level)).all()


@pytest.mark.parametrize("of_task", [0.0, 3.0])  # 0: an estimate of a variance is often 0, and pooled
def test_the_mixed_model_equals_the_fitted_one(of_task: float) -> None:
    rng = np.random.default_rng(3)
    scores = 80 + of_task * rng.normal(0, 1, (3, 3, 1, 1)) + rng.normal(0, 1, (3, 3, 3, 4))
    low, high = fast.mixed_interval(scores)
    p = fast.mixed_p(scores)
    for repetition, study in enumerate(scores):
        rows = [(f"t{t}", s, f"m{m}", value) for (t, m, s), value in np.ndenumerate(study)]
        frame = pd.DataFrame(rows, columns=["task", "seed", "regularizer", "points"])
        effects, note = mixed_model(frame, ["m0", "m1", "m2"], "m0")
        assert note == ""
        for place, name in enumerate(("m1", "m2")):
            known = effects[name]
            found = (low[repetition, place], high[repetition, place])
            assert found == pytest.approx((known.ci_low, known.ci_high), abs=2e-3)
            assert p[repetition, place] == pytest.approx(known.p, abs=2e-3)


@pytest.mark.parametrize("kind", ["normal", "counted"])
def test_bootstrap_intervals_equal_the_librarys(kind: str) -> None:
    scores = one_student(kind, 4, 3)
    x, y = scores[:, :, 1], scores[:, :, 0]
    rng = np.random.default_rng(5)
    for study in range(len(x)):
        known = interquartile_mean(list(x[study]))
        low, high = fast.interquartile_mean(x[study : study + 1], 20_000, rng)
        size = np.ptp(x[study])
        assert (low[0], high[0]) == pytest.approx((known.ci_low, known.ci_high), abs=0.03 * size)
        better = probability_of_improvement(list(zip(x[study], y[study], strict=True)))
        low, high = fast.improvement(x[study : study + 1], y[study : study + 1], 20_000, rng)
        if better.ci_low is None:
            assert np.isnan([low[0], high[0]]).all()
        else:
            assert (low[0], high[0]) == pytest.approx((better.ci_low, better.ci_high), abs=0.03)


def test_the_signed_rank_posterior_equals_the_librarys() -> None:
    d = np.round(np.random.default_rng(6).normal(0.5, 1.0, (6, 7)), 1)
    found = fast.signed_rank(d, 0.5, 5_000)
    for row, study in zip(found, d, strict=True):
        known = bayesian_signed_rank(study, 0.5)
        assert known is not None
        assert row == pytest.approx([known.worse, known.within, known.better], abs=0.03)


def test_the_table_across_is_made_of_these() -> None:
    scores = random_scores("normal", (1, 3, 2, 3, 5))
    frame = compare_across_tasks(*as_study(scores, "student")).set_index(["group", "regularizer"])
    for place, name in enumerate(PAIRS):
        some = scores[:, :, place]
        d = against_baseline(some)
        row = frame.loc[name, "m1"]
        assert row["friedman_p"] == pytest.approx(fast.friedman(some.mean(axis=-1))[0], abs=1e-9)
        assert row["permutation_p"] == pytest.approx(fast.permutation(d[:, :, 0])[0], abs=1e-12)
        low, high = student(d[:, :, 0].mean(axis=-1))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((low[0], high[0]), abs=1e-9)


def verdicts(claim: claims.Claim) -> list[str]:
    supported, contradicted = claim
    assert not (supported & contradicted).any()
    return [
        "supported" if yes else "contradicted" if no else "inconclusive"
        for yes, no in zip(supported, contradicted, strict=True)
    ]


@pytest.mark.parametrize("tasks", [1, 2])
def test_claims_equal_those_of_the_summary(tasks: int) -> None:
    seen: dict[str, set[str]] = {}
    for kind in ("normal", "counted"):
        scores = random_scores(kind, (7, tasks, 2, 3, 5))
        scores[:3, :, :, 1:] = scores[:3, :, :, :1] + 0.1 * (scores[:3, :, :, 1:] % 1)  # alike
        scores[1:3, :, :, 1:] -= 3
        found = {
            "pretrained_within_margin": verdicts(claims.within_margin(scores, MARGIN)),
            "scratch_some_better": verdicts(claims.some_better(scores, MARGIN)),
            "interaction": verdicts(claims.interaction(scores, MARGIN)),
        }
        summaries = [summarize(*as_study(scores[[i]], "student"))["claims"] for i in range(len(scores))]
        known = [{claim["id"]: claim["verdict"] for claim in one} for one in summaries]
        for name, words in found.items():
            assert words == [one[name] for one in known]
            seen.setdefault(name, set()).update(words)
    every = {"supported", "contradicted", "inconclusive"}
    assert seen["pretrained_within_margin"] == seen["scratch_some_better"] == seen["interaction"] == every


def test_the_teachers_claim_equals_that_of_the_summary() -> None:
    names, arms, tasks = ["task0", "task1"], ("base", "smooth", "self_kd", "kd"), 2
    study = taught_study(tasks=names, students=PAIRS)
    scores = random_scores("normal", (12, tasks, 2, len(arms), 5), seed=3)
    found = verdicts(claims.teacher_needed(scores, MARGIN))
    for repetition, word in enumerate(found):
        cells = {
            (task, name, arm): scores[repetition, i, j, k].tolist()
            for i, task in enumerate(names)
            for j, name in enumerate(PAIRS)
            for k, arm in enumerate(arms)
        }
        assert word == teacher_needed(compare_with_teacher_free(make_trials(cells), study), study)["verdict"]
    assert set(found) == {"supported", "contradicted", "inconclusive"}


def test_the_truths_of_the_intervals() -> None:
    middle, better = across_questions._truths("normal")
    assert middle == pytest.approx(80, abs=0.01)
    assert better == pytest.approx(0.5, abs=0.002)
    middle, _ = across_questions._truths("skewed")
    inner = stats.expon.ppf([0.25, 0.75])  # the mean of the middle half of Exp(1), turned round
    known = 81 - stats.expon.expect(lambda value: value, lb=inner[0], ub=inner[1], conditional=True)
    assert middle == pytest.approx(known, abs=0.01)


def test_normal_scores_keep_the_level_across_tasks() -> None:
    found = rates(across_questions.null("normal"), 300, "test")
    assert found["permutation, 8"].value <= 0.05 + 4 * found["permutation, 8"].error
    assert found["mixed model, one of 4, 8"].value == pytest.approx(0.05, abs=0.04)
    coverage = rates(across_questions.coverage("normal"), 300, "test")
    assert coverage["t over tasks, 4"].value == pytest.approx(0.95, abs=0.05)
    assert coverage["pooled interaction, 8"].value == pytest.approx(0.95, abs=0.05)
