"""From a trials table to verdicts: the four verdicts, unequal seeds, degenerate input, what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from kdcache.errors import ComparisonError
from kdcache.results.schema import ComparisonRow, columns
from kdcache.statistics import bca, compare, power, tabulate_scores
from kdcache.statistics.judging import verdict
from tests.statistics.helpers import make_study, make_trials

BASE = [80.0, 80.0, 80.0, 81.0, 79.0]
NUMBERS = [c for c in columns(ComparisonRow) if c not in (
    "task", "student", "family", "init", "teacher", "regularizer", "metric", "baseline", "note", "verdict",
    "negligible", "paired", "settled_by", "outcome", "stopped_by")]  # fmt: skip


def one(values: Any, base: Any = BASE, **study: Any) -> pd.Series:
    """The only row of a study with one regularizer."""
    trials = make_trials({("news", "tiny", "base"): base, ("news", "tiny", "smooth"): values})
    frame = compare(trials, make_study(**study))
    assert len(frame) == 1
    return frame.iloc[0]


def test_a_row_by_hand() -> None:
    row = one([81.0, 82.0, 83.0, 82.0, 82.0])  # d = 1 2 3 1 3: mean 2, sd 1, t = 2 sqrt(5)
    assert list(row.index) == columns(ComparisonRow)
    assert (row["task"], row["student"], row["family"], row["init"]) == ("news", "tiny", "bert", "pretrained")
    assert (row["seeds"], row["paired"], row["baseline"], row["metric"]) == (5, True, "base", "accuracy")
    assert (row["mean"], row["baseline_mean"], row["difference"]) == pytest.approx((82, 80, 2))
    assert (row["sd"], row["baseline_sd"], row["sd_difference"]) == pytest.approx((0.5**0.5, 0.5**0.5, 1))
    assert row["t_p"] == row["t_p_corrected"] == pytest.approx(2 * stats.t.sf(2 * math.sqrt(5), 4), abs=1e-9)
    assert (row["permutation_p"], row["permutation_floor"]) == (0.0625, 0.0625)
    assert row["tost_p"] == pytest.approx(stats.t.sf(-1 * math.sqrt(5), 4), abs=1e-9)  # (1 - 2) / (1/sqrt 5)
    assert (row["verdict"], row["negligible"], row["note"]) == ("better", False, "")
    assert row["detectable"] == pytest.approx(1.682, abs=5e-4)
    assert (row["bca_low"], row["bca_high"]) == pytest.approx(bca.bca_mean([1, 2, 3, 1, 3]), abs=1e-9)
    assert row["cliffs_delta"] == 24 / 25  # of 25 pairs 24 above and one tie, 81 and 81
    assert row["settled_by"] == ""


def test_the_four_verdicts() -> None:
    wiggle = np.array([0.1, -0.1, 0.2, 0.0, -0.2])
    assert one(np.array(BASE) + 2 + wiggle)["verdict"] == "better"
    assert one(np.array(BASE) - 2 + wiggle)["verdict"] == "worse"
    assert one(np.array(BASE) + wiggle)["verdict"] == "equivalent"
    assert one(np.array(BASE) + 20 * wiggle)["verdict"] == "inconclusive"


def test_significant_and_within_the_margin_is_better_and_negligible() -> None:
    row = one(np.add(BASE, [0.3, 0.4, 0.3, 0.2, 0.3]))
    assert (row["verdict"], row["negligible"]) == ("better", True)


@pytest.mark.parametrize(
    ("difference", "t_p", "tost_p", "expected"),
    [
        (1.0, 0.05, 0.9, ("better", False)),  # at alpha counts, as everywhere
        (-1.0, 0.01, 0.9, ("worse", False)),
        (0.1, 0.01, 0.01, ("better", True)),
        (0.1, 0.06, 0.05, ("equivalent", False)),
        (1.0, 0.06, 0.06, ("inconclusive", False)),
        (None, None, None, ("inconclusive", False)),
    ],
)
def test_verdict_table(difference: float, t_p: float, tost_p: float, expected: tuple[str, bool]) -> None:
    assert verdict(difference, t_p, tost_p, 0.05) == expected


def test_equal_to_scipy_and_statsmodels_over_a_family() -> None:
    methods = ["a", "b", "c", "d"]
    rng = np.random.default_rng(5)
    scores = {m: rng.normal(80, 1, 5).round(1) for m in ["base", *methods]}
    frame = compare(
        make_trials({("news", "tiny", m): v for m, v in scores.items()}), make_study(methods=methods)
    )
    raw = [stats.ttest_rel(scores[m], scores["base"]).pvalue for m in methods]
    tost = [ttost_paired(scores[m], scores["base"], -1, 1)[0] for m in methods]
    np.testing.assert_allclose(frame["t_p"], raw, atol=1e-9)
    np.testing.assert_allclose(frame["t_p_corrected"], multipletests(raw, method="holm")[1], atol=1e-9)
    np.testing.assert_allclose(frame["tost_p_corrected"], multipletests(tost, method="holm")[1], atol=1e-9)
    assert set(frame["family_size"]) == {4}


@pytest.mark.parametrize(("family", "size"), [("student", 2), ("task", 4), ("study", 8)])
def test_the_declared_family_decides_the_size(family: str, size: int) -> None:
    students = {"tiny": ("t", "pretrained"), "raw": ("t", "scratch")}
    study = make_study(["a", "b"], students, ["mild", "strong"], family=family)
    rng = np.random.default_rng(0)
    frame = compare(make_trials({cell: rng.normal(80, 1, 5) for cell in study.configurations()}), study)
    assert len(frame) == 8
    assert set(frame["family_size"]) == {size}


def test_a_task_more_never_changes_another_tasks_uncorrected_p() -> None:
    cells = {
        ("a", "tiny", m): np.random.default_rng(i).normal(80, 1, 5) for i, m in enumerate(["base", "smooth"])
    }
    more = {
        ("b", "tiny", m): np.random.default_rng(9).normal(70, 1, 5) + i
        for i, m in enumerate(["base", "smooth"])
    }
    alone = compare(make_trials(cells), make_study(["a"], family="study"))
    both = compare(make_trials(cells | more), make_study(["a", "b"], family="study"))
    assert both["t_p"][0] == alone["t_p"][0]
    assert both["t_p_corrected"][0] >= alone["t_p_corrected"][0]


def test_a_mean_difference_of_zero_is_zero() -> None:
    # 94.24 on average twice, by other seeds; in floating point the differences have a mean of -2.8e-15
    mine = 100 * np.array([0.946, 0.936, 0.942, 0.952, 0.936])
    base = 100 * np.array([0.936, 0.928, 0.938, 0.952, 0.958])
    assert (mine - base).mean() != 0
    row = one(mine, base)
    assert (row["difference"], row["hedges_g"]) == (0.0, 0.0)
    assert row["t_p"] == pytest.approx(1.0)
    apart = one(dict(enumerate(mine)), {seed + 5: value for seed, value in enumerate(base)}, seeds=range(10))
    assert (apart["difference"], apart["paired"]) == (0.0, False)


def test_seeds_that_would_settle_an_inconclusive_comparison() -> None:
    # d = 1 -1 2 -1 0: mean 0.2, sd sqrt(6.8 / 4)
    row = one(np.add(BASE, [1.0, -1.0, 2.0, -1.0, 0.0]))
    assert row["verdict"] == "inconclusive"
    spread = power.Spread(1.7**0.5)
    assert row["seeds_difference"] == power.seeds_to_find(0.2, spread, 0.05)
    assert row["seeds_equivalence"] == power.seeds_to_equate(0.2, spread, 1.0, 0.05)
    assert 5 < row["seeds_equivalence"] == row["seeds_to_settle"] < row["seeds_difference"]
    assert row["settled_by"] == "equivalence"


def test_seeds_to_settle_beyond_the_margin_in_families_and_of_what_is_settled() -> None:
    far = np.add(BASE, [8.0, -4.0, 10.0, 2.0, 4.0])
    row = one(far)
    assert (row["verdict"], row["settled_by"]) == ("inconclusive", "difference")
    assert pd.isna(row["seeds_equivalence"])
    cells = {("news", "tiny", m): far for m in "abcd"} | {("news", "tiny", "base"): BASE}
    frame = compare(make_trials(cells), make_study(methods=list("abcd")))
    assert frame["seeds_to_settle"][0] > row["seeds_to_settle"]  # the level is stricter
    row = one(np.add(BASE, [19.0, -19.0, 20.0, -14.5, 0.0]))
    assert row["settled_by"] == "more than 1000 seeds"
    assert row[["seeds_difference", "seeds_to_settle"]].isna().all()
    for settled in (one(np.add(BASE, 2 + np.array([0.1, -0.1, 0.2, 0, 0]))), one([82.0], [80.0], seeds=[0])):
        assert settled["settled_by"] == ""
        assert pd.isna(settled["seeds_to_settle"])


def test_unequal_seeds_use_the_matched_ones_and_say_so() -> None:
    row = one({0: 81.0, 1: 82.0, 2: 83.0})
    assert (row["seeds"], row["paired"]) == (3, True)
    assert row["baseline_mean"] == 80.0  # seeds 0, 1, 2 only, so that the means explain the difference
    assert row["difference"] == pytest.approx(2.0)
    assert row["t_p"] == pytest.approx(stats.ttest_1samp([1, 2, 3], 0).pvalue, abs=1e-9)
    assert row["note"] == "paired on 3 matched seeds of 3 against 5"


def test_no_matched_seeds_means_welch() -> None:
    base, mine = {0: 80.0, 1: 81.0, 2: 79.5}, {3: 82.0, 4: 83.5}
    row = one(mine, base)
    expected = stats.ttest_ind(list(mine.values()), list(base.values()), equal_var=False).pvalue
    assert not row["paired"]
    assert row["t_p"] == row["welch_p"] == pytest.approx(expected, abs=1e-9)
    assert row["note"] == "no matched seeds: Welch on 2 against 3"
    assert row["permutation_p"] == row["permutation_floor"] == pytest.approx(2 / 10)
    assert row["detectable"] > 0


def test_one_matched_seed_of_several_means_welch() -> None:
    row = one({0: 82.0, 7: 83.5, 8: 82.5}, {0: 80.0, 1: 81.0}, seeds=[0, 1, 7, 8])
    assert not row["paired"]
    assert row["note"] == "1 matched seed: Welch on 3 against 2"


def test_one_seed_gives_no_test() -> None:
    row = one([82.0], [80.0], seeds=[0])
    assert (row["seeds"], row["difference"], row["verdict"]) == (1, pytest.approx(2.0), "inconclusive")
    assert row[["t_p", "tost_p", "ci_low", "detectable", "hedges_g"]].isna().all()
    assert row["note"] == "1 seed against 1: a test needs two or more"


def test_identical_scores() -> None:
    row = one(BASE)
    assert (row["difference"], row["t_p"], row["permutation_p"]) == (0.0, 1.0, 1.0)
    assert row["tost_p"] == 1 / 32
    assert row["verdict"] == "equivalent"  # five agreeing seeds: exact one-sided p = 1/32 on either side
    assert "no spread" in row["note"]


def test_equal_differences_are_never_certain() -> None:
    row = one([v + 5 for v in BASE])
    assert (row["t_p"], row["verdict"]) == (0.0625, "inconclusive")
    assert row[["ci_low", "ci_high", "bca_low", "bca_high", "detectable"]].isna().all()
    assert (row["seeds_to_settle"], row["settled_by"], row["cliffs_delta"]) == (
        6,
        "difference",
        1.0,
    )  # 2 / 2^6


def test_a_metric_at_its_ceiling() -> None:
    row = one([100.0] * 5, [100.0] * 5)
    assert row["t_p"] == row["welch_p"] == 1.0
    assert pd.isna(row["hedges_g"])


def test_a_failed_trial_is_left_out_by_name() -> None:
    row = one([81.0, math.nan, 83.0, 82.0, 82.0])
    assert row["seeds"] == 4
    assert row["note"].startswith("smooth has no score at seed 1 (left out: read with care)")


def test_missing_trials_are_rows_and_count_in_the_family() -> None:
    cells = {("news", "tiny", "base"): BASE, ("news", "tiny", "a"): [81.0, 82.0, 83.0, 82.0, 82.0]}
    frame = compare(make_trials(cells), make_study(methods=["a", "b"])).set_index("regularizer")
    assert (frame.loc["b", "verdict"], frame.loc["b", "note"], frame.loc["b", "seeds"]) == (
        "inconclusive", "no trials yet", 0)  # fmt: skip
    assert frame.loc["a", "t_p_corrected"] == pytest.approx(2 * frame.loc["a", "t_p"])
    only = compare(make_trials({("news", "tiny", "a"): BASE}), make_study(methods=["a"]))
    assert only["note"][0] == "the baseline has no trials yet"


def test_what_the_study_no_longer_asks_for_is_ignored() -> None:
    cells = {("news", "tiny", m): BASE for m in ("base", "smooth", "removed")}
    frame = compare(make_trials(cells), make_study(seeds=[0, 1, 2]))
    assert frame["regularizer"].tolist() == ["smooth"]
    assert frame["seeds"].tolist() == [3]


def test_refusals() -> None:
    study = make_study()
    trials = make_trials({("news", "tiny", "base"): BASE, ("news", "tiny", "smooth"): BASE})
    with pytest.raises(ComparisonError, match="no trial of this study"):
        compare(trials.iloc[:0], study)
    with pytest.raises(ComparisonError, match="no column accuracy"):
        compare(trials.drop(columns="accuracy"), study)
    with pytest.raises(ComparisonError, match="regularizer base, seed 0 is listed twice"):
        compare(pd.concat([trials, trials.iloc[:1]]), study)
    with pytest.raises(ComparisonError, match=r"fraction in -1..1, found 80.0 \(task news"):
        compare(trials.assign(accuracy=80.0), study)


def test_summary_table_has_the_baseline_and_all_seeds() -> None:
    trials = make_trials({("news", "tiny", "base"): BASE, ("news", "tiny", "smooth"): {0: 81.0}})
    table = tabulate_scores(trials, make_study()).set_index("regularizer")
    assert table.loc["base", ["n", "mean"]].tolist() == [5, pytest.approx(80.0)]
    assert table.loc["base", "sd"] == pytest.approx(0.5**0.5)
    assert table.loc["smooth", "n"] == 1
    assert pd.isna(table.loc["smooth", "sd"])


accuracies = st.dictionaries(st.integers(0, 5), st.integers(0, 1000).map(lambda k: k / 10), min_size=1)


@settings(max_examples=30, deadline=None)
@given(accuracies, accuracies, st.randoms(use_true_random=False))
def test_any_input_has_a_whole_answer(mine: dict[int, float], base: dict[int, float], random: Any) -> None:
    cells = {("news", "tiny", "base"): base, ("news", "tiny", "smooth"): mine}
    trials, study = make_trials(cells), make_study(seeds=range(6))
    row = compare(trials, study).iloc[0]
    assert row["verdict"] in ("better", "worse", "equivalent", "inconclusive")
    p_values = row[["t_p", "t_p_corrected", "welch_p", "permutation_p", "tost_p", "beyond_p"]].dropna()
    assert ((p_values > 0) & (p_values <= 1)).all()
    assert not np.isinf(row[NUMBERS].astype(float)).any()
    if row["settled_by"] in ("difference", "equivalence"):
        assert row["verdict"] == "inconclusive"
        assert row["seeds_to_settle"] > 2
    shuffled = trials.sample(frac=1, random_state=random.randrange(1000))
    pd.testing.assert_series_equal(compare(shuffled, study).iloc[0], row)
    swapped = {("news", "tiny", "base"): mine, ("news", "tiny", "smooth"): base}
    mirror = compare(make_trials(swapped), study).iloc[0]
    opposite = {"better": "worse", "worse": "better"}
    assert mirror["verdict"] == opposite.get(row["verdict"], row["verdict"])
