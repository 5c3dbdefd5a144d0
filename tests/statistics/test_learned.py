"""Comparisons of models that learned nothing have no verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdcache.statistics import compare, summarize
from kdcache.statistics.against_teacher_free import compare_with_teacher_free
from kdcache.statistics.interactions import compare_inits
from kdcache.statistics.learned import (
    unlearned_seeds,
    without_unlearned,
    without_unlearned_cells,
    without_unlearned_pairs,
)
from kdcache.study import Study
from tests.statistics.helpers import make_study, make_trials
from tests.statistics.test_against_teacher_free import PAIR, taught_study

POOR = ("a", "tiny", "smooth")
BOTH = [47.3, 47.3, 47.2, 47.3, 47.3]
POINTS = {
    ("a", "tiny", "base"): BOTH,
    POOR: [47.3, 47.2, 47.3, 47.3, 47.3],
    ("a", "tiny", "kd"): [80.0, 80.1, 80.2, 80.0, 80.1],
}


def study() -> Study:
    return make_study(["a"], methods=["smooth", "kd"])


def test_equivalent_is_taken_back_where_nobody_learned() -> None:
    trials = make_trials(POINTS)
    before = compare(trials, study()).set_index("regularizer")
    assert list(before["verdict"]) == ["equivalent", "better"]
    after = without_unlearned(compare(trials, study()), trials, study(), {"a": 47.3}).set_index("regularizer")
    assert list(after["verdict"]) == ["inconclusive", "better"]
    assert after["outcome"]["smooth"] == "nothing learned"
    assert after["note"]["smooth"].endswith(
        "no seed of either does better than one answer for every row, 47.3"
    )
    same = [column for column in before.columns if column not in ("verdict", "outcome", "note")]
    assert after[same].equals(before[same])


@pytest.mark.parametrize(("init", "verdict"), [("pretrained", "supported"), ("scratch", "contradicted")])
def test_models_that_learned_nothing_support_no_claim(init: str, verdict: str) -> None:
    points = {name: values for name, values in POINTS.items() if name[2] != "kd"}
    trials, plan = make_trials(points), make_study(["a"], {"tiny": ("tiny", init)})
    compared = compare(trials, plan)
    (claim,) = summarize(trials, plan, comparisons=compared)["claims"]
    assert claim["verdict"] == verdict
    taken_back = without_unlearned(compared, trials, plan, {"a": 47.3})
    (claim,) = summarize(trials, plan, comparisons=taken_back)["claims"]
    assert claim["verdict"] == "inconclusive"


def test_one_seed_that_learned_is_enough_and_so_is_an_unknown_majority() -> None:
    trials = make_trials(POINTS)
    for majorities in ({"a": 47.25}, {"b": 99.0}):
        found = without_unlearned(compare(trials, study()), trials, study(), majorities)
        assert list(found["verdict"]) == ["equivalent", "better"]
    assert unlearned_seeds(trials[trials["regularizer"] == "base"], "accuracy", 47.25) == [2]


def test_a_seed_without_a_score_has_learned_nothing() -> None:
    trials = make_trials(POINTS | {POOR: [47.3, 47.2, 47.3, 47.3, np.nan]})
    found = without_unlearned(compare(trials, study()), trials, study(), {"a": 47.3})
    assert found["outcome"][0] == "nothing learned"


@pytest.mark.parametrize("later", [47.2, 60.0])
def test_seeds_after_the_look_at_which_a_comparison_stopped_do_not_count(later: float) -> None:
    """The baseline goes on with the other method; what its later seeds learned says nothing about the first."""
    plan = make_study(["a"], methods=["smooth", "kd"], seeds=range(10), looks=[5, 10])
    base, other = [*BOTH, *[later] * 5], [49.3, 46.3, 50.3, 47.8, 49.3] * 2
    trials = make_trials({("a", "tiny", "base"): base, POOR: POINTS[POOR], ("a", "tiny", "kd"): other})
    compared = compare(trials, plan)
    assert list(compared["look"]) == [1, 2]
    assert without_unlearned(compared, trials, plan, {"a": 47.3})["outcome"][0] == "nothing learned"


def test_a_teacher_is_not_shown_to_be_needless_where_nobody_learned() -> None:
    names = ("base", "kd", "smooth", "self_kd")
    flat = {
        ("news", "tiny", name): list(47.3 - 0.1 * np.roll(np.arange(5), k)) for k, name in enumerate(names)
    }
    learned = {
        ("sport", "tiny", name): [value + 30 for value in flat["news", "tiny", name]] for name in names
    }
    for points, tasks, verdict in (
        (flat, ["news"], "inconclusive"),
        (flat | learned, ["news", "sport"], "inconclusive"),
    ):
        trials, plan = make_trials(points), taught_study(tasks=tasks)
        before = needed(summarize(trials, plan))
        after = needed(summarize(trials, plan, majorities={"news": 47.3, "sport": 47.3}))
        assert (before["verdict"], after["verdict"]) == ("contradicted", verdict)
        assert after["equivalent"] == before["equivalent"] - 2  # the cells of news


def test_a_row_about_one_kind_of_student_is_kept_where_only_the_other_learned_nothing() -> None:
    names = ("base", "kd", "smooth", "self_kd")
    points = {
        ("news", student, name): list(score - 0.1 * np.roll(np.arange(5), k))
        for student, score in (("tiny", 80.0), ("raw", 47.3))
        for k, name in enumerate(names)
    }
    trials, plan = make_trials(points), taught_study(students=PAIR)
    rows = compare_with_teacher_free(trials, plan)
    assert set(rows["verdict"]) == {"equivalent"}
    found = without_unlearned_cells(rows, trials, plan, {"news": 47.3})
    cells, pooled = (found[found["scope"] == scope] for scope in ("cell", "pooled"))
    assert set(zip(cells["student"], cells["verdict"], strict=True)) == {
        ("tiny", "equivalent"),
        ("raw", "inconclusive"),
    }
    said = "news / raw: no seed of either does better than one answer for every row, 47.3"
    assert list(zip(pooled["init"], pooled["verdict"], pooled["note"], strict=True)) == [
        ("all", "inconclusive", said),
        ("pretrained", "equivalent", ""),
        ("scratch", "inconclusive", said),
    ]


def needed(summary: dict[str, Any]) -> dict[str, Any]:
    return next(claim for claim in summary["claims"] if claim["id"] == "teacher_needed")


@pytest.mark.parametrize(("learned", "verdict"), [(80.0, "contradicted"), (47.3, "inconclusive")])
@pytest.mark.parametrize("student", ["tiny", "raw"])
def test_a_student_that_learned_nothing_is_no_evidence_against_a_larger_gain(
    student: str, learned: float, verdict: str
) -> None:
    scores = {"tiny": 80.0, "raw": 80.0} | {student: learned}
    points = {
        ("news", name, method): list(
            scores[name] - 0.1 * np.roll(np.arange(5), 2 * place + (method == "base"))
        )
        for place, name in enumerate(scores)
        for method in ("base", "smooth")
    }
    trials, plan = make_trials(points), make_study(students=PAIR)
    rows = compare_inits(trials, plan)
    known = rows["n"] > 1  # the pool has a single pair
    assert set(rows["verdict"][known]) == {"contradicted"}
    found = without_unlearned_pairs(rows, trials, plan, {"news": 47.3})[known]
    assert set(found["verdict"]) == {verdict}
    said = f"news / {student}: no seed of either does better than one answer for every row, 47.3"
    assert set(found["note"]) == ({said} if verdict == "inconclusive" else {""})
    claims = {
        one["id"]: one["verdict"] for one in summarize(trials, plan, majorities={"news": 47.3})["claims"]
    }
    assert claims["interaction"] == verdict
