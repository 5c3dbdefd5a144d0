"""The difference of the differences, by hand and against scipy; pooling and what is missing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kdcache.statistics.interactions import compare_inits, pairs
from tests.statistics.helpers import make_study, make_trials

PAIR = {"tiny": ("t", "pretrained"), "raw": ("t", "scratch")}
TWO = PAIR | {"tiny2": ("u", "pretrained"), "raw2": ("u", "scratch")}


def cells(gains: dict[str, list[float]], task: str = "news", method: str = "smooth") -> dict:
    """Students' per-seed gains over a baseline of 70, 71, 72, ..."""
    base = 70 + np.arange(5.0)
    result = {(task, student, "base"): base.tolist() for student in gains}
    return result | {(task, s, method): (base + gain).tolist() for s, gain in gains.items()}


def test_by_hand() -> None:
    # per seed: 3-1, 4-1, 5-2, 3-1, 5-0 = 2 3 3 2 5: mean 3, sd sqrt((1+0+0+1+4)/4) = sqrt(1.5)
    trials = make_trials(cells({"raw": [3, 4, 5, 3, 5], "tiny": [1, 1, 2, 1, 0]}))
    frame = compare_inits(trials, make_study(students=PAIR)).set_index(["scope", "regularizer"])
    row = frame.loc[("pair", "smooth")]
    assert (row["scratch"], row["pretrained"], row["unit"], row["n"]) == ("raw", "tiny", "seeds", 5)
    numbers = (row["gain_scratch"], row["gain_pretrained"], row["interaction"], row["sd"])
    assert numbers == pytest.approx((4, 1, 3, 1.5**0.5))
    assert row["p"] == pytest.approx(stats.t.sf(3 / math.sqrt(1.5 / 5), 4), abs=1e-9)
    assert (row["p_corrected"], row["verdict"]) == (row["p"], "supported")
    assert (row["margin"], row["below_p"]) == (
        1,
        pytest.approx(stats.t.cdf(2 / math.sqrt(1.5 / 5), 4), abs=1e-9),
    )
    # one regularizer only, so the mean over regularizers is the same; one pair, so nothing to pool
    assert frame.loc[("pair", "all"), "interaction"] == pytest.approx(3)
    assert frame.loc[("pooled", "all"), "note"] == "one pair: nothing to pool, see its own row"
    assert pd.isna(frame.loc[("pooled", "all"), "p"])


def test_the_tests_are_one_sided() -> None:
    trials = make_trials(cells({"raw": [1, 1, 2, 1, 0], "tiny": [3, 4, 5, 3, 5]}))
    row = compare_inits(trials, make_study(students=PAIR)).iloc[0]
    assert row["interaction"] == pytest.approx(-3)
    assert row["p"] > 0.99
    # per seed: -2 -3 -3 -2 -5; against the margin of 1 they are -3 -4 -4 -3 -6
    assert row["below_p"] == pytest.approx(
        stats.ttest_1samp([-3, -4, -4, -3, -6], 0, alternative="less").pvalue
    )
    assert (row["below_p_corrected"], row["verdict"]) == (row["below_p"], "contradicted")


@pytest.mark.parametrize(
    ("margin", "verdict"), [(0.5, "inconclusive"), (1.0, "inconclusive"), (2.0, "contradicted")]
)
def test_whether_the_gain_is_less_than_the_margin(margin: float, verdict: str) -> None:
    scratch = [1.5, 0.2, 0.9, -0.4, 1.3]  # mean 0.7, sd 0.78: not shown to be above 0, nor below 1
    trials = make_trials(cells({"raw": scratch, "tiny": [0] * 5}))
    row = compare_inits(trials, make_study(students=PAIR, margin={"accuracy": margin})).iloc[0]
    expected = stats.ttest_1samp(scratch, margin, alternative="less").pvalue
    assert (row["below_p"], row["verdict"]) == (pytest.approx(expected, abs=1e-9), verdict)


def test_a_gain_that_is_shown_and_less_than_the_margin_is_supported() -> None:
    trials = make_trials(cells({"raw": [0.4, 0.5, 0.6, 0.5, 0.5], "tiny": [0] * 5}))
    row = compare_inits(trials, make_study(students=PAIR)).iloc[0]
    assert row["below_p"] < 0.001
    assert (row["verdict"], row["negligible"]) == ("supported", True)


def test_both_tests_are_corrected_over_the_regularizers() -> None:
    mild = cells({"raw": [1.1, 0.2, 0.4, -0.4, 0.7], "tiny": [0] * 5}, method="mild")
    strong = cells({"raw": [0.9, 0.1, -0.2, 0.8, 0.6], "tiny": [0] * 5}, method="strong")
    frame = compare_inits(make_trials(mild | strong), make_study(students=PAIR, methods=["mild", "strong"]))
    rows = frame[(frame["scope"] == "pair") & (frame["regularizer"] != "all")]
    for one in ("p", "below_p"):
        expected = multipletests(rows[one], method="holm")[1]
        assert rows[f"{one}_corrected"].tolist() == pytest.approx(expected.tolist(), abs=1e-9)


def test_pooled_over_pairs_takes_their_means() -> None:
    first = cells({"raw": [3, 4, 5, 3, 5], "tiny": [1, 1, 2, 1, 0]})  # mean 3
    second = cells({"raw2": [1, 2, 3, 2, 2], "tiny2": [1, 1, 1, 1, 1]})  # mean 1
    frame = compare_inits(make_trials(first | second), make_study(students=TWO))
    row = frame[(frame["scope"] == "pooled") & (frame["regularizer"] == "smooth")].iloc[0]
    assert (row["unit"], row["n"], row["interaction"]) == ("pairs", 2, pytest.approx(2))
    assert row["p"] == pytest.approx(stats.ttest_1samp([3, 1], 0, alternative="greater").pvalue, abs=1e-9)
    assert row["below_p"] == pytest.approx(stats.ttest_1samp([3, 1], 1, alternative="less").pvalue, abs=1e-9)
    assert row["note"] == "2 pairs, all on one task: about other students on it, not about other tasks"


def test_mean_over_regularizers_is_taken_within_a_seed() -> None:
    first = cells({"raw": [3, 4, 5, 3, 5], "tiny": [1, 1, 2, 1, 0]}, method="mild")  # 2 3 3 2 5
    second = cells({"raw": [1, 0, 1, 0, 1], "tiny": [1, 1, 0, 0, 0]}, method="strong")  # 0 -1 1 0 1
    frame = compare_inits(make_trials(first | second), make_study(students=PAIR, methods=["mild", "strong"]))
    row = frame[(frame["scope"] == "pair") & (frame["regularizer"] == "all")].iloc[0]
    expected = stats.ttest_1samp([1, 1, 2, 1, 3], 0, alternative="greater").pvalue
    assert (row["n"], row["interaction"]) == (5, pytest.approx(1.6))
    assert row["p"] == pytest.approx(expected, abs=1e-9)
    # x and y are corrected together, `all` is one claim of its own
    assert frame[frame["scope"] == "pair"]["family_size"].tolist() == [2, 2, 1]


def test_pairs_need_the_same_architecture_and_both_inits() -> None:
    assert list(pairs(make_study(students=TWO))) == [("news", "raw", "tiny"), ("news", "raw2", "tiny2")]
    assert not list(pairs(make_study(students={"a": ("t", "scratch"), "b": ("u", "pretrained")})))
    assert compare_inits(
        make_trials({("news", "tiny", "base"): [80.0]}), make_study()
    ).empty  # fmt: skip


def test_missing_trials_leave_their_seed_out() -> None:
    table = cells({"raw": [3, 4, 5, 3, 5], "tiny": [1, 1, 2, 1, 0]})
    table["news", "raw", "smooth"] = {0: 73.0, 1: 75.0, 2: math.nan}
    row = compare_inits(make_trials(table), make_study(students=PAIR)).iloc[0]
    assert (row["n"], row["interaction"]) == (2, pytest.approx(2.5))
    assert row["note"] == "3 of 5 seeds lack one of the four trials"


def test_no_spread_and_no_trials() -> None:
    row = compare_inits(
        make_trials(cells({"raw": [3] * 5, "tiny": [1] * 5})), make_study(students=PAIR)
    ).iloc[0]
    assert (row["p"], row["below_p"], row["note"]) == (1 / 32, 1, "no spread: exact sign-flip test")
    table = {("news", "tiny", "base"): [80.0] * 5}
    frame = compare_inits(make_trials(table), make_study(students=PAIR))
    assert frame["n"].tolist() == [0] * len(frame)
    assert set(frame["verdict"]) == {"inconclusive"}
