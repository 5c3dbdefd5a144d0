"""Calibration: lower is better, paired by seed, corrected score by score."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kdcache.errors import ComparisonError
from kdcache.results.schema import CalibrationRow, columns
from kdcache.statistics import compare, compare_calibration, summarize
from kdcache.statistics.interactions import compare_inits
from kdcache.statistics.settling import design_of
from kdcache.study import Study
from tests.statistics.helpers import make_study, make_trials

METHODS = ("up", "down")


def trials() -> pd.DataFrame:
    """nll falls under `down`, rises under `up`, by 0.2 and a little noise; brier and ece do not change on average."""
    table = make_trials({("news", "tiny", m): [80.0] * 5 for m in ("base", *METHODS)})
    rng = np.random.default_rng(0)
    shift = table["regularizer"].map({"base": 0.0, "up": 0.2, "down": -0.2})
    table["nll"] = 1.5 + shift + rng.normal(0, 0.02, len(table))
    wiggle = table["seed"].map({0: 0.01, 1: -0.01, 2: 0.02, 3: -0.02, 4: 0.0})
    return table.assign(brier=0.4 + wiggle, ece=0.15 + wiggle * shift)


def test_direction_and_numbers() -> None:
    table = trials()
    frame = compare_calibration(table, make_study(methods=METHODS))
    assert list(frame.columns) == columns(CalibrationRow)
    assert frame["metric"].tolist() == ["nll", "brier", "ece"] * 2  # configuration by configuration
    found = frame[frame["metric"] == "nll"].set_index("regularizer")
    assert found["direction"].to_dict() == {"up": "worse", "down": "better"}
    values = table.pivot(index="seed", columns="regularizer", values="nll")
    raw = [stats.ttest_rel(values[m], values["base"]).pvalue for m in METHODS]
    np.testing.assert_allclose(found["t_p"], raw, atol=1e-9)
    np.testing.assert_allclose(found["t_p_corrected"], multipletests(raw, method="holm")[1], atol=1e-9)
    assert found.loc["down", "difference"] == pytest.approx((values["down"] - values["base"]).mean())
    low, high = stats.ttest_rel(values["up"], values["base"]).confidence_interval()
    assert found.loc["up", ["ci_low", "ci_high"]].tolist() == pytest.approx([low, high])
    assert set(frame[frame["metric"] != "nll"]["direction"]) == {"unclear"}


def test_with_a_margin_a_small_difference_is_equivalent() -> None:
    """Noise of 0.02 nats: within a margin of 0.1, and not within one of 0.01."""
    table = trials()
    base = table["regularizer"] == "base"
    for method in METHODS:
        change = {0: 0.01, 1: -0.012, 2: 0.008, 3: -0.01, 4: 0.002}
        table.loc[table["regularizer"] == method, "nll"] = (
            table.loc[base, "nll"].to_numpy() + pd.Series(change).to_numpy()
        )
    found = compare_calibration(table, make_study(methods=METHODS, margin={"accuracy": 1.0, "nll": 0.1}))
    nll = found[found["metric"] == "nll"]
    assert set(nll["direction"]) == {"equivalent"}
    d = np.array(list(change.values()))
    upper = stats.ttest_1samp(d, 0.1, alternative="less").pvalue
    lower = stats.ttest_1samp(d, -0.1, alternative="greater").pvalue
    np.testing.assert_allclose(nll["tost_p"], max(upper, lower), rtol=1e-6)
    np.testing.assert_allclose(nll["tost_p_corrected"], 2 * max(upper, lower), rtol=1e-6)
    assert found[found["metric"] != "nll"]["margin"].isna().all()
    strict = compare_calibration(table, make_study(methods=METHODS, margin={"accuracy": 1.0, "nll": 0.01}))
    assert set(strict[strict["metric"] == "nll"]["direction"]) == {"unclear"}


def test_with_looks_a_p_value_is_divided_by_its_looks_share() -> None:
    """Five seeds are the first of two looks, with a quarter of alpha (linear in seeds: 5 of 20)."""
    study = make_study(methods=METHODS, seeds=list(range(20)), looks=[5, 20])
    found = compare_calibration(trials(), study)
    nll = found[found["metric"] == "nll"].set_index("regularizer")
    np.testing.assert_allclose(nll["t_q"], np.minimum(1, nll["t_p"] / design_of(study).shares[0]))
    np.testing.assert_allclose(nll["t_p_corrected"], multipletests(nll["t_q"], method="holm")[1])
    fixed = compare_calibration(trials(), make_study(methods=METHODS))
    wider = nll["ci_high"] - nll["ci_low"]
    assert (wider > fixed[fixed["metric"] == "nll"].set_index("regularizer").eval("ci_high - ci_low")).all()


@pytest.mark.parametrize(("counts", "look", "used"), [(12, 1, 6), (14, 2, 14), (22, 3, 22)])
def test_where_the_looks_were_changed_the_last_look_that_fits_counts(
    counts: int, look: int, used: int
) -> None:
    """settle.json has the numbers of earlier looks. Seeds after the look are left out, as in comparisons.csv."""
    methods = ("base", *METHODS)
    table = make_trials({("news", "tiny", method): [80.0] * counts for method in methods})
    table["nll"] = 1.5 + np.random.default_rng(0).normal(0, 0.02, len(table))
    study = make_study(methods=METHODS, seeds=list(range(22)), looks=[6, 14, 22])
    study = study.with_settled({"news": {"tiny": dict.fromkeys(methods, counts)}})
    found = compare_calibration(table, study).set_index("regularizer")
    assert set(found["seeds"]) == {used}
    nll = table[table["seed"] < used].pivot(index="seed", columns="regularizer", values="nll")
    for method in METHODS:
        p = stats.ttest_rel(nll[method], nll["base"]).pvalue
        assert found.loc[method, "t_p"] == pytest.approx(p)
        assert found.loc[method, "t_q"] == pytest.approx(min(1, p / design_of(study).shares[look - 1]))


def test_before_the_first_look_there_is_evidence_and_no_q() -> None:
    """As in comparisons.csv, where such a comparison is not settled yet."""
    study = make_study(methods=METHODS, seeds=list(range(22)), looks=[6, 22])
    study = study.with_settled({"news": {"tiny": dict.fromkeys(("base", *METHODS), 5)}})
    found = compare_calibration(trials(), study)
    nll = found[found["metric"] == "nll"]
    assert (nll["t_p"] < 0.001).all()
    assert nll[["t_q", "tost_q", "t_p_corrected"]].isna().all(axis=None)
    assert set(found["direction"]) == {"unclear"}


def test_degenerate_input_has_an_answer() -> None:
    table = trials()
    table.loc[(table["regularizer"] == "up") & (table["seed"] == 3), "nll"] = math.nan
    table["ece"] = 0.25
    frame = compare_calibration(table, make_study(methods=METHODS)).set_index(["regularizer", "metric"])
    assert frame.loc[("up", "nll"), "seeds"] == 4
    assert "up has no score at seed 3" in frame.loc[("up", "nll"), "note"]
    same = frame.loc[("down", "ece")]
    assert (same["difference"], same["t_p"], same["direction"]) == (0.0, 1.0, "unclear")
    one = compare_calibration(table, make_study(methods=METHODS, seeds=[0]))
    assert set(one["direction"]) == {"unclear"}
    assert one["t_p"].isna().all()
    table.loc[0, "nll"] = math.inf
    with pytest.raises(ComparisonError, match=r"nll must be finite, found inf \(task news"):
        compare_calibration(table, make_study(methods=METHODS))


def test_what_has_no_calibration_has_no_rows() -> None:
    table = trials().drop(columns=["brier", "ece"])
    assert set(compare_calibration(table, make_study(methods=METHODS))["metric"]) == {"nll"}
    regression = Study.model_validate({
        **make_study(methods=METHODS).model_dump(exclude={"tasks", "regularizers", "comparison"}),
        "tasks": {"news": {"source": {"files": {"train": "a.csv", "validation": "b.csv"}},
                           "text": ["text"], "metrics": ["pearson"], "max_length": 8}},
        "regularizers": {"base": {}, "up": {"function": "m:f"}}, "comparison": {"margin": {"pearson": 1.0}},
    })  # fmt: skip
    assert compare_calibration(trials().assign(pearson=0.5), regression).empty


def test_a_verdict_on_a_score_of_which_less_is_better() -> None:
    study = make_study(methods=METHODS, students={"tiny": ("t", "pretrained"), "raw": ("t", "scratch")})
    task = study.tasks["news"].model_copy(update={"metrics": ["nll"]})
    comparison = study.comparison.model_copy(update={"margin": {"nll": 0.01}})
    study = study.model_copy(update={"tasks": {"news": task}, "comparison": comparison})
    table = pd.concat([trials(), trials().assign(student="raw", nll=lambda t: t["nll"] + 0.01 * t["seed"])])
    table.loc[(table["student"] == "raw") & (table["regularizer"] == "down"), "nll"] -= 1.0
    frame = compare(table, study)
    assert frame["verdict"].tolist() == ["worse", "better"] * 2
    gains = compare_inits(table, study).set_index(["scope", "regularizer"])
    assert gains.loc[("pair", "down"), "interaction"] == pytest.approx(1.0)  # nats less
    claims = {claim["id"]: claim for claim in summarize(table, study, frame)["claims"]}
    assert claims["scratch_some_better"]["better"] == 1
