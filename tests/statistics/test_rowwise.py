"""Row by row: statsmodels and enumeration as oracles, McNemar as the case of one seed, and known variances."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as oracle_mcnemar

from kdcache.errors import ComparisonError
from kdcache.statistics import rowwise
from kdcache.tasks import scoring

CLOSE = 1e-9


def right(seed: int, seeds: int = 5, rows: int = 40, rate: float = 0.7) -> np.ndarray:
    return np.random.default_rng(seed).random((seeds, rows)) < rate


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 60), st.floats(0, 1))
def test_mcnemar_equals_statsmodels(seed: int, rows: int, rate: float) -> None:
    a, b = right(seed, 3, rows), right(seed + 1000, 3, rows, rate)
    found = rowwise.mcnemar(a, b)
    for s in range(3):
        table = [[np.sum(i & j) for j in (b[s], ~b[s])] for i in (a[s], ~a[s])]
        assert found.p[s] == pytest.approx(oracle_mcnemar(table, exact=True).pvalue, abs=CLOSE)
        assert (found.gained[s], found.lost[s]) == (table[0][1], table[1][0])


def test_mcnemar_by_hand() -> None:
    # 4 rows gained, 1 lost: 2 * P(Bin(5, 1/2) <= 1) = 2 * 6 / 32
    a, b = np.array([[1, 1, 1, 1, 0, 1]], bool), np.array([[0, 0, 0, 0, 1, 1]], bool)
    assert rowwise.mcnemar(a, b).p == pytest.approx([12 / 32])
    assert rowwise.mcnemar(a, a).p.tolist() == [1.0]  # nothing discordant
    long = np.ones((1, 2000), bool)
    assert 0 < rowwise.mcnemar(long, ~long).p[0] < 1e-300


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 60))
def test_the_row_test_of_one_seed_is_mcnemars(seed: int, rows: int) -> None:
    a, b = right(seed, 1, rows), right(seed + 1000, 1, rows, 0.5)
    assert rowwise.row_test(a, b) == pytest.approx(rowwise.mcnemar(a, b).p[0], abs=CLOSE)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 9))
def test_the_row_test_equals_all_sign_patterns(seed: int, seeds: int, rows: int) -> None:
    a, b = right(seed, seeds, rows), right(seed + 1000, seeds, rows, 0.4)
    totals = a.sum(axis=0) - b.sum(axis=0)
    sums = [abs(np.dot(signs, totals)) for signs in product([1, -1], repeat=rows)]
    assert rowwise.row_test(a, b) == pytest.approx(np.mean(np.array(sums) >= abs(totals.sum())), abs=CLOSE)


def test_copies_of_one_model_are_no_more_evidence_than_one() -> None:
    a, b = right(1, 1, 200, 0.75), right(2, 1, 200, 0.65)
    alone = rowwise.row_test(a, b)
    assert rowwise.row_test(np.repeat(a, 5, axis=0), np.repeat(b, 5, axis=0)) == pytest.approx(
        alone, abs=CLOSE
    )
    # what adding up the discordant rows of the copies would have claimed
    found = rowwise.mcnemar(a, b)
    fewer, all_rows = 5 * min(found.gained[0], found.lost[0]), 5 * (found.gained[0] + found.lost[0])
    assert 2 * stats.binom.cdf(fewer, all_rows, 0.5) < alone / 10


def test_the_row_test_draws_when_there_are_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = right(3, 5, 400, 0.72), right(4, 5, 400)
    exact = rowwise.row_test(a, b)
    monkeypatch.setattr(rowwise, "EXACT_SUM", 0)
    drawn = rowwise.row_test(a, b)
    assert drawn == pytest.approx(exact, abs=4 * (0.25 / rowwise.FLIPS) ** 0.5)
    assert drawn == rowwise.row_test(a, b)
    everything = np.ones((5, 400), bool)
    assert rowwise.row_test(everything, ~everything) == 1 / (1 + rowwise.FLIPS)  # never 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_the_row_test_knows_no_sides_and_no_order(seed: int) -> None:
    a, b = right(seed), right(seed + 1000, rate=0.6)
    rng = np.random.default_rng(seed)
    rows, seeds = rng.permutation(40), rng.permutation(5)
    p = rowwise.row_test(a, b)
    assert rowwise.row_test(b, a) == p
    assert rowwise.row_test(a[seeds][:, rows], b[seeds][:, rows]) == p


def test_row_intervals_of_accuracy_have_the_textbook_error() -> None:
    # independent rows: the mean over seeds of the difference of correctness, d_i; its standard error is
    # sd(d) / sqrt(N) (n instead of n - 1: the bootstrap's), the interval close to the normal one
    rows = 600
    a, b = right(5, 4, rows, 0.8), right(6, 4, rows)
    d = 100 * (a.mean(axis=0) - b.mean(axis=0))
    found = rowwise.row_intervals("accuracy", np.ones(rows), a, b, resamples=20_000)
    assert found.difference == pytest.approx(d.mean(), abs=CLOSE)
    assert found.sd_rows == pytest.approx(d.std() / rows**0.5, rel=0.02)  # 4 Monte Carlo errors of 0.5%
    assert found.low == pytest.approx(d.mean() - 1.96 * found.sd_rows, abs=0.1 * found.sd_rows)
    assert found.high == pytest.approx(d.mean() + 1.96 * found.sd_rows, abs=0.1 * found.sd_rows)
    by_seed = 100 * (a.mean(axis=1) - b.mean(axis=1))
    assert found.sd_seeds == pytest.approx(by_seed.std(ddof=1) / 2, abs=CLOSE)


def test_the_parts_of_the_variance_are_those_of_a_two_way_analysis() -> None:
    # the analysis of variance of D[s, i] gives the interaction's mean square; V_both = MS / (S N)
    seeds, rows = 5, 500
    rng = np.random.default_rng(7)
    hard, lucky = rng.normal(0, 0.6, rows), rng.normal(0, 0.4, (seeds, 1))
    a = rng.normal(hard + lucky + 0.3, 0.7, (seeds, rows)) > 0
    b = rng.normal(0, 0.7, (seeds, rows)) > 0
    d = 100 * (a.astype(float) - b)
    residual = d - d.mean(axis=0) - d.mean(axis=1, keepdims=True) + d.mean()
    both = (residual**2).sum() / ((seeds - 1) * (rows - 1)) / (seeds * rows)
    of_rows, of_seeds = d.mean(axis=0).var(ddof=1) / rows, d.mean(axis=1).var(ddof=1) / seeds
    found = rowwise.row_intervals("accuracy", np.ones(rows), a, b, resamples=20_000)
    assert found.sd_rows == pytest.approx(of_rows**0.5, rel=0.02)
    assert found.sd_seeds == pytest.approx(of_seeds**0.5, rel=1e-9)
    assert found.sd_total == pytest.approx((of_rows + of_seeds - both) ** 0.5, rel=0.02)


def test_the_total_interval_by_hand() -> None:
    # no row matters more than another when every seed gains on all rows or on none: only seeds vary. Differences of
    # seeds 100 100 0 0, mean 50, V_seeds = (10000/3) / 4; rows bring nothing, so V_total is that, df = 3
    a = np.array([[1] * 9, [1] * 9, [0] * 9, [0] * 9], bool)
    found = rowwise.row_intervals("accuracy", np.ones(9), a, np.zeros_like(a), resamples=50)
    sd = (10_000 / 3 / 4) ** 0.5
    assert (found.difference, found.low, found.high, found.sd_rows) == (50.0, None, None, 0.0)
    assert (found.sd_seeds, found.sd_total) == pytest.approx((sd, sd))
    half = stats.t.ppf(0.975, 3) * sd
    assert (found.total_low, found.total_high) == pytest.approx((50 - half, 50 + half))


def test_any_function_of_predictions_gives_what_its_named_version_gives() -> None:
    rng = np.random.default_rng(8)
    labels, a, b = rng.integers(0, 3, 60), rng.integers(0, 3, (2, 60)), rng.integers(0, 3, (2, 60))
    for name, metric in (("macro_f1", scoring.macro_f1), ("matthews", scoring.matthews)):
        named = rowwise.row_intervals(name, labels, a, b, resamples=40)
        own = rowwise.row_intervals(metric, labels, a, b, resamples=40)
        assert vars(own) == pytest.approx(vars(named), abs=CLOSE)


def test_resampling_kinds_is_resampling_rows() -> None:
    # the slow, obvious version: N rows with replacement, one draw at a time
    rng = np.random.default_rng(9)
    labels, a, b = rng.integers(0, 2, 80), rng.integers(0, 2, (3, 80)), rng.integers(0, 2, (3, 80))
    found = rowwise.row_intervals("f1", labels, a, b, resamples=4000)
    slow = []
    for _ in range(1000):
        pick = rng.integers(0, 80, 80)
        slow.append(np.mean([scoring.f1(x[pick], labels[pick]) - scoring.f1(y[pick], labels[pick])
                             for x, y in zip(a, b, strict=True)]))  # fmt: skip
    assert found.sd_rows == pytest.approx(100 * np.std(slow), rel=0.12)  # 4 Monte Carlo errors of 2.5%, about


def test_one_seed_has_no_seeds_error() -> None:
    found = rowwise.row_intervals("accuracy", np.ones(40), right(1, 1), right(2, 1))
    assert found.sd_rows > 0
    assert (found.sd_seeds, found.sd_total, found.total_low) == (None, None, None)


@pytest.mark.parametrize("metric", ["accuracy", "matthews"])
def test_identical_outputs_and_a_ceiling(metric: str) -> None:
    labels = np.arange(12) % 2
    outputs = np.tile(labels, (3, 1))
    found = rowwise.row_intervals(metric, labels, outputs, outputs, resamples=100)
    assert (found.difference, found.sd_rows, found.sd_seeds, found.sd_total) == (0.0, 0.0, 0.0, 0.0)
    assert (found.low, found.high, found.total_low, found.total_high) == (None,) * 4
    assert rowwise.row_test(outputs == labels, outputs == labels) == 1.0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.sampled_from(["accuracy", "macro_f1"]))
def test_order_of_rows_is_irrelevant_and_sides_mirror(seed: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    labels, a, b = rng.integers(0, 3, 50), rng.integers(0, 3, (3, 50)), rng.integers(0, 3, (3, 50))
    order = rng.permutation(50)
    found = rowwise.row_intervals(metric, labels, a, b, resamples=400)
    shuffled = rowwise.row_intervals(metric, labels[order], a[:, order], b[:, order], resamples=400)
    assert shuffled == found
    mirrored = rowwise.row_intervals(metric, labels, b, a, resamples=400)
    assert mirrored.difference == pytest.approx(-found.difference, abs=CLOSE)
    assert mirrored.sd_seeds == pytest.approx(found.sd_seeds, abs=CLOSE)
    assert mirrored.sd_rows == pytest.approx(found.sd_rows, rel=0.25)  # other draws of the same distribution


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rowwise.row_intervals("accuracy", np.ones(40), right(1), right(2), resamples=300)
    monkeypatch.setattr(rowwise, "BLOCK", 1)
    assert vars(
        rowwise.row_intervals("accuracy", np.ones(40), right(1), right(2), resamples=300)
    ) == pytest.approx(vars(whole), abs=CLOSE)


def test_refusals() -> None:
    ones = np.ones((2, 4))
    with pytest.raises(ComparisonError, match=r"found \[2, 4\] and \[2, 3\]; compare matched seeds"):
        rowwise.row_test(ones, ones[:, :3])
    with pytest.raises(ComparisonError, match="expected 4 finite labels"):
        rowwise.row_intervals("accuracy", np.ones(3), ones, ones)
    with pytest.raises(ComparisonError, match="must be finite"):
        rowwise.row_intervals("pearson", np.ones(4), ones * np.nan, ones)
    with pytest.raises(ComparisonError, match="no metric 'acc'"):
        rowwise.row_intervals("acc", np.ones(4), ones, ones)
