"""KD against the teacher-free regularizers: by hand, pooled within seeds, and the claim that follows."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdcache.results.schema import TeacherNeededRow, columns
from kdcache.results.writing import write_table
from kdcache.statistics import summary
from kdcache.statistics.against_teacher_free import methods, teacher_needed
from kdcache.study import Study
from tests.statistics.helpers import make_study, make_trials

PAIR = {"tiny": ("t", "pretrained"), "raw": ("t", "scratch")}
NOISE = np.array([0.1, -0.1, 0.2, 0.0, -0.2])


def taught_study(**more: Any) -> Study:
    """smooth and self are teacher-free, kd is not."""
    content = make_study(**more).model_dump(exclude_unset=True)
    content["teachers"] = {"big": {"checkpoint": "b", "learning_rate": 1e-3, "epochs": 1, "batch_size": 8}}
    for student in content["students"].values():
        student["teacher"] = "big"
    content["distillers"] = {
        "kd": {"soft_labels": "teacher", "alpha": 0.5, "temperature": 2},
        "self_kd": {"soft_labels": "self", "alpha": 0.5, "temperature": 2},
    }
    return Study.model_validate(content)


def cells(
    kd: float, smooth: float = 0.0, own: float = 0.0, noise: float = 1.0, students: Any = ("tiny",)
) -> dict[tuple[str, str, str], Any]:
    base = 70 + np.arange(5.0)
    return {
        ("news", student, name): base + gain + noise * (rank + 1) * np.roll(NOISE, rank)
        for student in students
        for rank, (name, gain) in enumerate(
            (("base", 0), ("kd", kd), ("smooth", smooth), ("self_kd", own))
        )
    }  # fmt: skip


def claim(points: dict[tuple[str, str, str], Any], study: Study) -> dict[str, Any]:
    found = summary(make_trials(points), study)["claims"]
    return next(claim for claim in found if claim["id"] == "teacher_needed")


def test_who_is_teacher_free() -> None:
    assert methods(taught_study()) == (["kd"], ["smooth", "self_kd"])


def test_a_row_by_hand() -> None:
    points = cells(2.0)
    frame = teacher_needed(make_trials(points), taught_study())
    assert list(frame.columns) == columns(TeacherNeededRow)
    assert frame[["scope", "regularizer", "against"]].to_numpy().tolist() == [
        ["cell", "kd", "smooth"], ["cell", "kd", "self_kd"], ["pooled", "kd", "all"],
    ]  # fmt: skip
    row = frame.iloc[0]
    d = points["news", "tiny", "kd"] - points["news", "tiny", "smooth"]
    test = stats.ttest_1samp(d, 0)
    assert (row["seeds"], row["paired"], row["teacher"]) == (5, True, "big")
    assert row["difference"] == pytest.approx(d.mean(), abs=1e-9)
    assert row["t_p"] == pytest.approx(test.pvalue, abs=1e-9)
    assert row["against_mean"] == pytest.approx(points["news", "tiny", "smooth"].mean())
    low, high = stats.t.interval(0.95, 4, d.mean(), stats.sem(d))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high), abs=1e-9)
    tost = max(stats.ttest_1samp(d, -1, alternative="greater").pvalue,
               stats.ttest_1samp(d, 1, alternative="less").pvalue)  # fmt: skip
    assert row["tost_p"] == pytest.approx(tost, abs=1e-9)


def test_pooled_within_a_seed() -> None:
    points = cells(1.0, smooth=0.5, students=PAIR)
    points["news", "raw", "kd"] = points["news", "raw", "kd"] + [0.3, 0.1, -0.2, 0.4, 0.0]
    frame = teacher_needed(make_trials(points), taught_study(students=PAIR))
    assert frame["family_size"].tolist() == [4] * 4 + [1, 2, 2]
    assert frame["init"].tolist()[4:] == ["all", "pretrained", "scratch"]
    d = [points["news", s, "kd"] - (points["news", s, "smooth"] + points["news", s, "self_kd"]) / 2
         for s in PAIR]  # fmt: skip
    expected = stats.ttest_1samp(np.mean(d, axis=0), 0).pvalue
    row = frame.iloc[4]
    assert (row["t_p"], row["t_p_corrected"]) == pytest.approx((expected, expected), abs=1e-9)
    assert frame.iloc[6]["difference"] == pytest.approx(d[1].mean())
    assert (row["task"], row["student"]) == ("news", "all")


@pytest.mark.parametrize(
    ("kd", "noise", "verdict"),
    [(3.0, 1.0, "supported"), (0.1, 1.0, "contradicted"), (-3.0, 1.0, "contradicted"),
     (1.0, 15.0, "inconclusive")],
)  # fmt: skip
def test_the_claim(kd: float, noise: float, verdict: str) -> None:
    found = claim(cells(kd, noise=noise), taught_study())
    assert found["verdict"] == verdict
    assert found["comparisons"] == 2
    assert found["teacher_free"] == ["smooth", "self_kd"]
    assert "kd against the mean of 2 teacher-free regularizers" in found["sentence"]


def test_better_and_negligible_is_said() -> None:
    found = claim(cells(0.6, noise=0.3), taught_study())
    assert found["verdict"] == "supported"
    assert "better, yet within the margin of 1." in found["sentence"]


def test_each_method_is_told_with_its_own_teacher() -> None:
    content = taught_study(students=PAIR).model_dump(exclude_unset=True)
    content["teachers"]["huge"] = content["teachers"]["big"]
    content["students"]["raw"]["teacher"] = "huge"
    content["distillers"]["kd_both"] = {**content["distillers"]["kd"], "teacher": ["big", "huge"]}
    points = cells(2.0, students=PAIR)
    points |= {(*cell[:2], "kd_both"): values for cell, values in points.items() if cell[2] == "kd"}
    frame = teacher_needed(make_trials(points), Study.model_validate(content))
    cell = frame[frame["scope"] == "cell"].groupby(["regularizer", "student"])["teacher"].agg(set)
    assert cell.to_dict() == {
        ("kd", "tiny"): {"big"}, ("kd", "raw"): {"huge"},
        ("kd_both", "tiny"): {"big+huge"}, ("kd_both", "raw"): {"big+huge"},
    }  # fmt: skip
    over_all = frame[(frame["scope"] == "pooled") & (frame["init"] == "all")]
    assert over_all.set_index("regularizer")["teacher"].to_dict() == {"kd": "all", "kd_both": "big+huge"}


def test_swapping_the_sides_swaps_the_verdicts() -> None:
    kd = teacher_needed(make_trials(cells(3.0)), taught_study())
    free = teacher_needed(make_trials(cells(0.0, smooth=3.0, own=3.0)), taught_study())
    assert kd["verdict"].tolist() == ["better"] * 3
    assert free["verdict"].tolist() == ["worse"] * 3


def test_missing_and_failed_trials() -> None:
    points = cells(2.0, students=PAIR)
    points["news", "tiny", "kd"] = {0: 75.0, 1: 75.5, 2: math.nan, 3: 77.0}
    del points["news", "raw", "kd"]
    frame = teacher_needed(make_trials(points), taught_study(students=PAIR))
    assert frame["seeds"].tolist() == [3, 3, 0, 0, 3, 3, 0]
    assert frame.iloc[4]["note"].startswith("1 of 2 task x student pairs lack trials and are left out")
    assert frame.iloc[2]["verdict"] == "inconclusive"
    none = claim({("news", "tiny", "base"): [70.0, 71.0]}, taught_study())
    assert none["verdict"] == "inconclusive"
    assert "no seed has all the trials" in none["sentence"]
    json.dumps(none, allow_nan=False)


def test_nothing_to_ask() -> None:
    trials = make_trials({("news", "tiny", m): 70 + np.arange(5.0) for m in ("base", "smooth")})
    assert teacher_needed(trials, make_study()).empty
    without = taught_study().model_dump(exclude_unset=True)
    without["regularizers"].pop("smooth")
    without["distillers"].pop("self_kd")
    assert teacher_needed(trials, Study.model_validate(without)).empty


def test_a_table_of_it_has_no_nan(tmp_path: Any) -> None:
    write_table(teacher_needed(make_trials(cells(2.0)), taught_study()), tmp_path / "t.csv")
    assert "nan" not in (tmp_path / "t.csv").read_text().lower()
    assert len(pd.read_csv(tmp_path / "t.csv")) == 3
