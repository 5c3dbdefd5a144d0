"""KD from a part of a teacher's distributions against KD from all of them: by hand, and which pairs there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdcache.statistics import compare_storage
from kdcache.study import Study
from tests.statistics.helpers import TRAINING

CACHES: dict[str, dict[str, Any]] = {
    "whole": {"estimator": "full"},
    "some": {"estimator": "threshold", "eps": 0.02, "draws": 3},
    "top": {"estimator": "topk", "k": 5},
}
KD = {"soft_labels": "teacher", "alpha": 0.9}
DISTILLERS = {
    "kd_whole": {**KD, "teacher": "whole"},
    "kd_some": {**KD, "teacher": "some"},
    "kd_top": {**KD, "teacher": "top", "tail": "renormalise"},
}
NLL = {
    "base": [5.30, 5.31, 5.33],
    "kd_whole": [5.100, 5.112, 5.121],
    "kd_some": [5.101, 5.112, 5.123],
    "kd_top": [5.160, 5.170, 5.183],
}


def study(**changes: Any) -> Study:
    content: dict[str, Any] = {
        "seeds": [0, 1, 2],
        "tasks": {"bbc": {
            "kind": "language_modelling", "source": {"builtin": "bbc_articles"}, "text": ["text"], "max_length": 8,
            "metrics": ["nll"],
        }},
        "teachers": {name: {"checkpoint": "t", **TRAINING, "cache": cache} for name, cache in CACHES.items()},
        "students": {"tiny": {"checkpoint": "c", "teacher": "some", **TRAINING}},
        "regularizers": {"base": {}},
        "distillers": DISTILLERS,
        "comparison": {"margin": {"nll": 0.02}},
    }  # fmt: skip
    return Study.model_validate({**content, **changes})


def trials(of: Study) -> pd.DataFrame:
    rows = [
        {"task": "bbc", "student": "tiny", "regularizer": name, "seed": seed, "nll": nll}
        for name in of.methods()
        for seed, nll in enumerate(NLL.get(name, NLL["kd_some"]))
    ]
    return pd.DataFrame(rows)


def compared(of: Study) -> pd.DataFrame:
    return compare_storage(trials(of), of, {("bbc", "whole"): 10485.0, ("bbc", "some"): 59.1})


def test_rows_by_hand() -> None:
    rows = compared(study()).set_index("regularizer")
    assert list(rows.index) == ["kd_some", "kd_top"]
    assert set(rows["against"]) == {"kd_whole"}
    assert list(rows["stored"]) == ["threshold 1/50, 3 draws", "top 5, renormalised"]
    some, gains = rows.loc["kd_some"], np.array([-0.001, 0.0, -0.002])  # less nll is better
    assert some["difference"] == pytest.approx(gains.mean())
    assert (some["mean"], some["against_mean"]) == pytest.approx((5.112, 5.111))
    assert (some["bytes_per_token"], some["against_bytes"]) == (59.1, 10485.0)
    assert np.isnan(rows.loc["kd_top", "bytes_per_token"])
    assert some["t_p"] == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    lower = stats.ttest_1samp(gains, -0.02, alternative="greater").pvalue
    upper = stats.ttest_1samp(gains, 0.02, alternative="less").pvalue
    assert some["tost_p"] == pytest.approx(max(lower, upper))
    assert some["tost_p_corrected"] == pytest.approx(2 * some["tost_p"])  # the smaller of two, by Holm
    assert list(rows["verdict"]) == ["equivalent", "worse"]
    assert list(rows["family_size"]) == [2, 2]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"distillers": {**DISTILLERS, "kd_some": {**KD, "teacher": "some", "alpha": 0.5}}}, ["kd_top"]),
        ({"distillers": {name: DISTILLERS[name] for name in ("kd_some", "kd_top")}}, []),  # no full one
        (
            {"distillers": {**DISTILLERS, "other": {**KD, "teacher": "whole", "alpha": 0.1}}},
            ["kd_some", "kd_top"],
        ),
        ({"distillers": {**DISTILLERS, "own": {"soft_labels": "self", "alpha": 0.9}}}, ["kd_some", "kd_top"]),
    ],
    ids=["another alpha", "no full cache", "another full one", "Self-KD"],
)
def test_only_what_differs_in_storage_alone_is_compared(changes: dict[str, Any], left: list[str]) -> None:
    assert list(compared(study(**changes))["regularizer"]) == left


def test_another_teacher_is_another_question() -> None:
    teachers = {
        name: {"checkpoint": "t", **TRAINING, "cache": cache, "epochs": 2 if name == "some" else 1}
        for name, cache in CACHES.items()
    }
    assert list(compared(study(teachers=teachers))["regularizer"]) == ["kd_top"]


def test_a_classification_has_no_such_rows() -> None:
    from tests.statistics.helpers import make_trials
    from tests.statistics.test_against_teacher_free import cells, taught_study

    assert len(compare_storage(make_trials(cells(kd=1.0)), taught_study(), {})) == 0


def test_with_looks_nothing_is_tested_before_the_first_one_is_whole() -> None:
    comparison = {"margin": {"nll": 0.02}, "looks": [3, 5]}
    asked = study(seeds={"first": 0, "count": 5}, comparison=comparison)
    rows = trials(asked)
    whole = compare_storage(rows, asked, {}).set_index("regularizer")
    assert list(whole["look"]) == [1, 1]
    assert whole.loc["kd_top", "verdict"] == "worse"
    early = compare_storage(rows[(rows["regularizer"] != "kd_top") | (rows["seed"] < 2)], asked, {})
    assert list(early.set_index("regularizer")["look"]) == [1, 0]
