"""Judged by a loss: less is better, in nats, in every table; a classification's nll like a language model's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdcache.results.evaluation import Outputs
from kdcache.statistics import compare, compare_examples, rowwise, summarize, weighted
from kdcache.statistics.against_teacher_free import compare_with_teacher_free
from kdcache.statistics.interactions import compare_inits
from kdcache.study import Study
from tests.statistics.helpers import TRAINING

NLL = {
    "base": [5.10, 5.12, 5.11],
    "smooth": [5.20, 5.22, 5.22],
    "kd": [5.00, 5.02, 5.00],
    "same": [5.101, 5.121, 5.109],
}


def study(metric: str = "nll") -> Study:
    kd = {"soft_labels": "teacher", "alpha": 0.5}
    students = {
        name: {"checkpoint": "c", "init": init, "teacher": "t", **TRAINING}
        for name, init in (("tiny", "pretrained"), ("new", "scratch"))
    }
    return Study.model_validate({
        "seeds": [0, 1, 2],
        "tasks": {"bbc": {
            "kind": "language_modelling", "source": {"builtin": "bbc_articles"}, "text": ["text"], "max_length": 8,
            "metrics": [metric],
        }},
        "teachers": {"t": {"checkpoint": "t", **TRAINING}},
        "students": students,
        "regularizers": {"base": {}, **{name: {"soft_labels": "uniform", "alpha": 0.1} for name in ("smooth", "same")}},
        "distillers": {"kd": kd},
        "comparison": {"margin": {metric: 0.02}},
    })  # fmt: skip


def trials(shift: float = 0.0) -> pd.DataFrame:
    """From scratch everything is `shift` nats worse, and kd helps by twice as much."""
    rows = [
        {
            "task": "bbc",
            "student": student,
            "regularizer": name,
            "seed": seed,
            "nll": nll + more * (name == "kd") + extra,
        }
        for student, more, extra in (("tiny", 0.0, 0.0), ("new", -0.1, 2.0))
        for name, values in NLL.items()
        for seed, nll in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_less_is_better_and_the_means_are_as_people_know_them() -> None:
    rows = compare(trials(), study()).set_index(["student", "regularizer"])
    kd, smooth, same = (rows.loc["tiny", name] for name in ("kd", "smooth", "same"))
    assert (kd["mean"], kd["baseline_mean"]) == pytest.approx((np.mean(NLL["kd"]), 5.11))
    gains = np.subtract(NLL["base"], NLL["kd"])  # what is gained is what is less
    assert kd["difference"] == pytest.approx(gains.mean())
    half = stats.t.ppf(0.975, 2) * gains.std(ddof=1) / 3**0.5
    assert (kd["ci_low"], kd["ci_high"]) == pytest.approx((gains.mean() - half, gains.mean() + half))
    assert (kd["verdict"], smooth["verdict"], same["verdict"]) == ("better", "worse", "equivalent")
    assert smooth["difference"] < 0 < kd["cliffs_delta"]
    shifted = np.subtract(NLL["base"], NLL["same"])
    p = stats.ttest_1samp(
        shifted, 0.02, alternative="less"
    ).pvalue  # the larger of the two: the mean is near 0
    q = stats.ttest_1samp(shifted, -0.02, alternative="greater").pvalue
    assert same["tost_p"] == pytest.approx(max(p, q), rel=1e-6)
    assert same["margin"] == 0.02


def test_claims_know_the_direction() -> None:
    table, plan = trials(), study()
    interactions = compare_inits(table, plan)
    of_kd = interactions[(interactions["scope"] == "pair") & (interactions["regularizer"] == "kd")].iloc[0]
    assert of_kd["gain_scratch"] == pytest.approx(of_kd["gain_pretrained"] + 0.1)
    taught = compare_with_teacher_free(table, plan)
    against = taught[
        (taught["scope"] == "cell") & (taught["student"] == "tiny") & (taught["against"] == "smooth")
    ]
    row = against.iloc[0]
    assert (row["mean"], row["against_mean"]) == pytest.approx((np.mean(NLL["kd"]), np.mean(NLL["smooth"])))
    assert (row["difference"] > 0.15, row["verdict"]) == (True, "better")
    claims = {claim["id"]: claim for claim in summarize(table, plan)["claims"]}
    assert claims["scratch_some_better"]["verdict"] == "supported"
    assert claims["teacher_needed"]["verdict"] == "supported"
    assert "nats" in claims["teacher_needed"]["sentence"]
    assert "points" not in " ".join(claim["sentence"] for claim in claims.values())


def test_scores_of_configurations_are_as_people_know_them() -> None:
    rows = summarize(trials(), study())["configurations"]
    base = next(row for row in rows if (row["student"], row["regularizer"]) == ("tiny", "base"))
    assert base["mean"] == pytest.approx(5.11)


def documents(seed: int, better: float) -> Outputs:
    """Six documents of unequal length, three seeds; sums of losses, and tokens."""
    rng = np.random.default_rng(seed)
    tokens = np.array([3, 10, 40, 2, 25, 7])
    each = rng.normal(5 - better, 0.1, (3, 6))
    return Outputs((0, 1, 2), tokens, each * tokens)


def test_documents_are_the_rows_and_their_tokens_the_weights() -> None:
    sides = {
        "base": documents(0, 0.0),
        "kd": documents(1, 0.2),
        "smooth": documents(2, 0.0),
        "same": documents(0, 0.0),
    }
    table = compare_examples(study(), lambda task, student, name: sides[name], resamples=200)
    row = table[(table["student"] == "tiny") & (table["regularizer"] == "kd")].iloc[0]
    means = {name: side.outputs.sum(1) / side.labels.sum() for name, side in sides.items()}
    assert row["difference"] == pytest.approx((means["base"] - means["kd"]).mean())
    assert (row["rows"], row["seeds"], row["metric"]) == (6, 3, "nll")
    assert row[["gained", "lost", "rows_p"]].isna().all()  # no document is right or wrong
    assert 0 < row["rows_low"] < row["difference"] < row["rows_high"]


def test_the_bootstrap_over_documents_against_one_that_repeats_them() -> None:
    base, mine = documents(0, 0.0), documents(1, 0.2)

    def slow(losses: np.ndarray, counts: np.ndarray) -> float:
        return float(losses.sum() / counts.sum())

    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), 20).astype(float)
    np.testing.assert_allclose(
        weighted.SCORES["nll"](weights, mine.outputs[0], base.labels),
        weighted.repeated(slow)(weights, mine.outputs[0], base.labels),
    )
    found = rowwise.row_intervals("nll", base.labels, mine.outputs, base.outputs, resamples=300)
    # as if losses were a score of which more is better, in points: turned round and a hundred times as large
    other = rowwise.row_intervals(slow, base.labels, base.outputs, mine.outputs, resamples=300)
    assert found.difference == pytest.approx(other.difference / 100)
    assert found.sd_rows == pytest.approx(other.sd_rows / 100)
