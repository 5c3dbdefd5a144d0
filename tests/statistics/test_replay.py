"""Looks replayed: equal to a plain loop, to verdicts without looks, and to the same for many families at once."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from kdcache.errors import ComparisonError
from kdcache.results.schema import LookRow
from kdcache.statistics import power
from kdcache.statistics.evidence import Points, evidence_of, scored
from kdcache.statistics.families import correct_by_family, family_key
from kdcache.statistics.judging import verdict
from kdcache.statistics.looks import Design
from kdcache.statistics.replay import AT_MAXIMUM, Comparison, replay, seeds_needed, verdict_evidence
from kdcache.statistics.replay_many import BETTER, EQUIVALENT, HOPELESS, MAXIMUM, WORSE, replay_many
from kdcache.statistics.verdicts import compare, points_table
from tests.statistics.helpers import make_study, make_trials

LOOKS = (5, 10, 20, 40)
SEEDS = range(40)
NAMES = ("a", "b", "c", "d", "e")
QUANTILES = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)


def family(
    d: np.ndarray, margin: float = 1.0, metric: str = "accuracy", base: float = 80.0
) -> list[Comparison]:
    """Comparisons with differences d [comparisons, seeds] from a baseline that is the same for every seed."""
    return [
        Comparison(
            "news", "tiny", NAMES[place], metric, margin,
            {seed: base + float(value) for seed, value in enumerate(row)}, dict.fromkeys(range(len(row)), base),
        )
        for place, row in enumerate(d)
    ]  # fmt: skip


def drawn(seed: int, comparisons: int = 3, seeds: int = 40) -> np.ndarray:
    """Differences of mixed effects and spreads, in eighths, so that no arithmetic rounds them."""
    rng = np.random.default_rng(seed)
    effects, sds = (
        rng.choice([0.0, 0.5, 1.0, -1.0, 3.0], comparisons),
        rng.choice([0.3, 1.0, 2.0, 4.0], comparisons),
    )
    return np.round(8 * (effects[:, None] + sds[:, None] * rng.standard_normal((comparisons, seeds)))) / 8


def plainly(d: np.ndarray, shares: list[float], margin: float, hopeless: float) -> list[tuple[str, int]]:
    """Verdict and look of each comparison, by scipy and statsmodels and one loop."""
    size = len(d)
    verdicts: list[tuple[str, int] | None] = [None] * size
    t_q, tost_q = [1.0] * size, [1.0] * size
    for look, n in enumerate(LOOKS, 1):
        for i in range(size):
            if verdicts[i] is None:
                t_q[i] = min(1, stats.ttest_1samp(d[i, :n], 0).pvalue / shares[look - 1])
                tost_q[i] = min(1, ttost_paired(d[i, :n], np.zeros(n), -margin, margin)[0] / shares[look - 1])
        different, within = stepped_down(t_q), stepped_down(tost_q)
        for i in range(size):
            if verdicts[i] is not None:
                continue
            if different[i]:
                verdicts[i] = ("better" if d[i, :n].mean() > 0 else "worse", look)
            elif within[i]:
                verdicts[i] = ("equivalent", look)
            elif look == 4:
                verdicts[i] = (AT_MAXIMUM, look)
            elif look > 1 and predicted(d[i, :n], shares[3], margin, size) < hopeless:
                verdicts[i] = ("undecided", look)
    return [verdict for verdict in verdicts if verdict is not None]


def stepped_down(q: list[float]) -> list[bool]:
    """Holm by its definition: the smallest at alpha / m, the next at alpha / (m - 1), until one does not reject."""
    rejected = [False] * len(q)
    for step, place in enumerate(sorted(range(len(q)), key=q.__getitem__)):
        if q[place] > 0.05 / (len(q) - step):
            break
        rejected[place] = True
    return rejected


def predicted(d: np.ndarray, share: float, margin: float, size: int) -> float:
    """The chance of a decision at 40 seeds, from equally likely values of the mean that they will have."""
    n, s = len(d), float(np.std(d, ddof=1))
    h = stats.t.isf(share * 0.05 / size / 2, 39) * s / math.sqrt(40)
    e = margin - stats.t.isf(share * 0.05 / size, 39) * s / math.sqrt(40)
    means = d.mean() + s * math.sqrt(1 / n - 1 / 40) * QUANTILES
    return float(((np.abs(means) > h) | (np.abs(means) < e)).mean())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_equal_to_a_plain_loop(seed: int) -> None:
    d = drawn(seed)
    assume(all(np.ptp(row[:n]) > 0 for row in d for n in LOOKS))  # without spread a t-test has no p
    outcomes = replay(Design.of(LOOKS), family(d), SEEDS).outcomes
    found = [(o.verdict.split(":")[0], o.look) for o in outcomes]
    assert found == plainly(d, [1 / 8, 1 / 8, 1 / 4, 1 / 2], 1.0, 0.1)


WORDS = {
    BETTER: "better",
    WORSE: "worse",
    EQUIVALENT: "equivalent",
    MAXIMUM: AT_MAXIMUM,
    HOPELESS: "undecided",
}


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    exact=st.booleans(),
    correction=st.sampled_from(["holm", "bonferroni", "none"]),
)
def test_many_families_at_once_are_judged_the_same(seed: int, exact: bool, correction: Any) -> None:
    design = Design.of(LOOKS, alpha=0.1, correction=correction, exact=exact)
    d = np.stack([drawn(seed), drawn(seed + 1), np.round(drawn(seed + 2) / 8)])  # the last with many ties
    many = replay_many(design, d, 1.0)
    for place, differences in enumerate(d):
        for i, outcome in enumerate(replay(design, family(differences), SEEDS).outcomes):
            assert outcome.last is not None
            assert outcome.verdict.split(":")[0] == WORDS[int(many.verdict[place, i])]
            assert (outcome.look, outcome.seeds) == (many.look[place, i], many.seeds[place, i])
            assert outcome.last.difference == pytest.approx(many.difference[place, i], abs=1e-9)
            low = math.nan if outcome.last.ci_low is None else outcome.last.ci_low
            assert low == pytest.approx(many.low[place, i], abs=1e-9, nan_ok=True)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10**6), correction=st.sampled_from(["holm", "bonferroni", "fdr_bh", "none"]),
    scope=st.sampled_from(["student", "study"]), gaps=st.sampled_from(["none", "missing", "failed"]),
)  # fmt: skip
def test_one_look_gives_the_verdicts_without_looks(seed: int, correction: Any, scope: Any, gaps: str) -> None:
    rng = np.random.default_rng(seed)
    students = {"tiny": ("t", "pretrained"), "raw": ("t", "scratch")}
    study = make_study(students=students, methods=["mild", "strong"], correction=correction, family=scope)
    points = {}
    for cell in study.configurations():
        scores = (
            80 + rng.choice([0, 0.5, 2, -2]) + rng.choice([0.0, 0.1, 1.0]) * rng.standard_normal(5)
        ).round(2)
        kept = {s: v for s, v in enumerate(scores.tolist()) if gaps != "missing" or rng.random() < 0.7}
        points[cell] = {
            s: math.nan if gaps == "failed" and rng.random() < 0.3 else v for s, v in kept.items()
        }
    trials = make_trials(points)
    if trials["accuracy"].notna().sum() == 0:
        return
    today, table = compare(trials, study), points_table(trials, study)
    evidence = {}
    for cell in (cell for cell in study.configurations() if cell[2] != "base"):
        sides = (scored(table[side], "", []) for side in (cell, (*cell[:2], "base")))
        evidence[cell], _ = evidence_of(*sides, 1.0, 0.95, [])
    keys = [family_key(scope, *cell[:2]) for cell in evidence]
    t_p = correct_by_family([one.t_p for one in evidence.values()], keys, correction)
    tost_p = correct_by_family([one.tost_p for one in evidence.values()], keys, correction)
    for place, (cell, one) in enumerate(evidence.items()):
        row = today.iloc[place]
        assert tuple(row[["task", "student", "regularizer"]]) == cell
        assert (row["verdict"], row["negligible"]) == verdict(one.difference, t_p[place], tost_p[place], 0.05)
        same(row["t_p"], one.t_p)
        same(row["ci_low"], one.ci_low)
        same(row["t_p_corrected"], t_p[place])
        same(row["tost_p_corrected"], tost_p[place])


def same(column: Any, value: float | None) -> None:
    """Bit for bit: the same functions on the same numbers."""
    assert (value is None and (column is None or math.isnan(column))) or column == value


@settings(deadline=None, max_examples=40)
@given(
    x=st.dictionaries(st.integers(0, 6), st.sampled_from([79.5, 80.0, 80.25, 82.0]), max_size=7),
    y=st.dictionaries(st.integers(0, 6), st.sampled_from([79.5, 80.0, 80.25]), max_size=7),
)
def test_the_tests_are_those_without_looks(x: Points, y: Points) -> None:
    full, short = evidence_of(x, y, 1.0, 0.95, [])[0], verdict_evidence(x, y, 1.0, 0.95)
    for name in ("t_p", "tost_p", "ci_low", "ci_high", "sd_difference", "paired"):
        assert getattr(short, name) == getattr(full, name)
    if full.t_p is not None:
        assert (short.difference, short.seeds, short.spread) == (full.difference, full.seeds, full.spread)


def test_rows_by_hand() -> None:
    # d = 1 2 3 1 3 repeated: mean 2, sum of squares around it 4 in 5, so sd 1 and sqrt(8/9)
    d = np.array([[1.0, 2, 3, 1, 3, 1, 2, 3, 1, 3]])
    rows = replay(Design.of([5, 10], [0.1, 0.5]), family(d), range(10)).rows
    first, second = rows
    assert (first.look, first.seeds, first.share, first.difference, first.sd) == (1, 5, 0.1, 2.0, 1.0)
    p = 2 * stats.t.sf(2 * math.sqrt(5), 4)
    assert (first.t_p, first.t_q, first.t_q_corrected) == pytest.approx((p, 10 * p, 10 * p))
    assert (first.tost_p, first.tost_q) == pytest.approx((stats.t.sf(-math.sqrt(5), 4), 1.0))
    assert first.outcome == "goes on"  # 10 p = 0.11
    half = stats.t.isf(0.1 * 0.05 / 2, 4) / math.sqrt(5)
    assert (first.ci_low, first.ci_high) == pytest.approx((2 - half, 2 + half))
    assert (second.outcome, second.t_q) == ("better", pytest.approx(2 * stats.ttest_1samp(d[0], 0).pvalue))
    assert second.chance is None


def test_a_row_has_the_columns_of_looks_csv() -> None:
    assert [field.name for field in fields(LookRow)] == [
        "task", "student", "regularizer", "look", "seeds", "difference", "sd", "t_p", "tost_p", "share", "t_q",
        "tost_q", "t_q_corrected", "tost_q_corrected", "chance", "outcome", "ci_low", "ci_high",
    ]  # fmt: skip


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_what_is_judged_are_gains_whatever_the_metric(metric: str) -> None:
    up = np.tile([1.9, 2.0, 2.1, 2.0, 2.0], 8)[None, :]
    better = replay(Design.of(LOOKS), family(up, metric=metric), SEEDS).outcomes[0]
    assert (better.verdict, better.gain) == ("better", pytest.approx(2.0))
    worse = replay(Design.of(LOOKS), family(-up, metric=metric), SEEDS).outcomes[0]
    assert (worse.verdict, worse.gain) == ("worse", pytest.approx(-2.0))


def test_what_waits_and_what_it_waits_for() -> None:
    d = drawn(1, 2)
    d[0], d[1] = np.tile([2.9, 3.0, 3.1, 3.0], 10), np.tile([3.0, -3.0, 2.0, -1.0], 10)
    members = family(d)
    first = replay(Design.of(LOOKS), shortened(members, [5, 5]), SEEDS)
    assert [o.verdict for o in first.outcomes] == ["better", "not settled yet (look 2 of 4)"]
    assert [(o.name[2], o.seeds) for o in first.goes_on] == [("b", 10)]
    assert seeds_needed([first], "base") == {
        ("news", "tiny", "a"): 5, ("news", "tiny", "b"): 10, ("news", "tiny", "base"): 10,
    }  # fmt: skip
    later = replay(Design.of(LOOKS), shortened(members, [5, 10]), SEEDS)
    assert later.rows[:2] == first.rows
    nothing = replay(Design.of(LOOKS), shortened(members, [0, 3]), SEEDS)
    assert {o.verdict for o in nothing.outcomes} == {"not settled yet (look 1 of 4)"}
    assert (nothing.rows, nothing.outcomes[0].last) == ((), None)


def shortened(members: list[Comparison], seeds: list[int]) -> list[Comparison]:
    return [
        replace(member, points={seed: v for seed, v in member.points.items() if seed < n})
        for member, n in zip(members, seeds, strict=True)
    ]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), surplus=st.integers(0, 40))
def test_only_what_is_needed_is_used_and_settling_ends(seed: int, surplus: int) -> None:
    """Adding just the trials asked for ends in the verdicts of all trials; more than asked for change nothing."""
    design, members = Design.of(LOOKS), family(drawn(seed))
    whole = replay(design, members, SEEDS)
    have = [5] * len(members)
    for _ in LOOKS:
        now = replay(design, shortened(members, have), SEEDS)
        assert now.rows == whole.rows[: len(now.rows)]
        have = [outcome.seeds for outcome in now.outcomes]
    assert now == whole
    assert replay(design, shortened(members, [max(n, surplus) for n in have]), SEEDS) == whole


def test_a_failed_trial_counts_as_run() -> None:
    members = family(np.tile([1.9, 2.0, 2.1, 2.0], 10)[None, :])
    members[0].points[3] = math.nan
    outcome = replay(Design.of(LOOKS), members, SEEDS).outcomes[0]
    assert (outcome.verdict, outcome.look) == ("better", 1)
    assert outcome.last is not None
    assert outcome.last.seeds == 4
    members[0].points.update(dict.fromkeys(range(40), math.nan))
    outcome = replay(Design.of(LOOKS), members, SEEDS).outcomes[0]
    assert (outcome.verdict, outcome.last.t_p if outcome.last else 0) == (AT_MAXIMUM, None)


def test_a_comparison_that_cannot_be_tested_counts_in_its_family() -> None:
    d = np.random.default_rng(3).normal(1.1, 1.0, (2, 5))
    alone, both = family(d[:1]), family(d)
    both[1].points.update(dict.fromkeys(range(5), math.nan))
    p = [replay(Design.of([5]), members, SEEDS).rows[0].t_q_corrected for members in (alone, both)]
    assert p[1] == pytest.approx(2 * (p[0] or 0))


def test_hopeless_comparisons_are_given_up_with_the_seeds_they_need() -> None:
    d = np.tile([6.0, -6.0, 5.0, -4.0], 10)[None, :]  # mean 0.25, sd 5.5: far from any verdict at 40 seeds
    replayed = replay(Design.of(LOOKS), family(d), SEEDS)
    # by hand at 10 seeds: mean 0.2; beyond 2.05 at 40 seeds is 1.2 sd up and 1.5 down: 0.12 + 0.07, not yet hopeless
    assert replayed.rows[1].chance == pytest.approx(predicted(d[0, :10], 0.5, 1.0, 1), abs=1e-3)
    assert 0.15 < (replayed.rows[1].chance or 0) < 0.22
    outcome = replayed.outcomes[0]
    assert (outcome.look, outcome.stopped_by) == (3, "hopeless")
    spread, mean = power.Spread(float(np.std(d[0, :20], ddof=1))), float(d[0, :20].mean())
    needs = [power.seeds_to_find(mean, spread, 0.05), power.seeds_to_equate(mean, spread, 1.0, 0.05)]
    assert outcome.needs == min(n for n in needs if n is not None)
    assert outcome.verdict == f"undecided: would need about {outcome.needs} seeds"
    goes_on = replay(Design.of(LOOKS, stop_hopeless=0.0), family(d), SEEDS).outcomes[0]
    assert (goes_on.verdict, goes_on.look) == (AT_MAXIMUM, 4)
    wild = replay(Design.of(LOOKS), family(20 * d), SEEDS).outcomes[0]
    assert (wild.verdict, wild.needs) == ("undecided: would need more than 1000 seeds", None)


def test_differences_without_spread_are_judged_by_the_sign_flip_test() -> None:
    rows = replay(Design.of(LOOKS, exact=True), family(np.full((1, 40), 0.5)), SEEDS).rows
    assert [row.t_q for row in rows] == pytest.approx(
        [8 * 2 / 2**5, 8 * 2 / 2**10]
    )  # stops at the second look
    assert (rows[0].chance, rows[0].ci_low, rows[1].outcome) == (None, None, "better")


def test_what_a_replay_refuses() -> None:
    members = family(drawn(0))
    with pytest.raises(ComparisonError, match="needs 40 different seeds"):
        replay(Design.of(LOOKS), members, range(39))
    with pytest.raises(ComparisonError, match="each comparison once"):
        replay(Design.of(LOOKS), [members[0], members[0]], SEEDS)
