"""Two runs side by side: which parameters differ, and what each configuration changed by, worked out by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from kdcache.statistics.runs import Change, StudyRun, changes, different_params


def run(
    scores: dict[str, list[float]], metric: str = "accuracy", first_seed: int = 0, **params: Any
) -> StudyRun:
    """One student on one task: scores in points by regularizer, one a seed, `base` the baseline."""
    trials = [
        {"task": "t", "student": "s", "regularizer": name, "seed": seed, metric: score / 100}
        | {"identity": f"{name}-{seed}-{score}"}
        for name, values in scores.items()
        for seed, score in enumerate(values, start=first_seed)
    ]
    compared = [
        {"task": "t", "student": "s", "regularizer": name, "metric": metric, "verdict": "inconclusive"}
        for name in scores
        if name != "base"
    ]
    return StudyRun("run", params, pd.DataFrame(trials), pd.DataFrame(compared))


def only(found: list[Change], regularizer: str) -> Change:
    return next(change for change in found if change.regularizer == regularizer)


def test_parameters_that_differ_by_their_path() -> None:
    a = run({}, seeds=[0, 1], distillers={"kd": {"alpha": 0.5, "temperature": 2}}, students={"s": {}})
    b = run(
        {},
        seeds=[0, 1, 2],
        distillers={"kd": {"alpha": 0.9, "temperature": 2}, "hot": {"alpha": 0.5}},
        students={"s": {}},
    )
    assert different_params(a, b) == [
        ("seeds", "[0, 1]", "[0, 1, 2]"),
        ("distillers.kd.alpha", "0.5", "0.9"),
        ("distillers.hot.alpha", "absent", "0.5"),
    ]


def test_the_change_is_matched_by_seed() -> None:
    a, b = run({"base": [70, 72, 74], "kd": [71, 73, 75]}), run({"base": [70, 72, 74], "kd": [72, 75, 75]})
    kd = only(changes(a, b), "kd")
    assert (kd.a.mean, kd.b.mean, kd.a.sd) == (pytest.approx(73), pytest.approx(74), pytest.approx(2))
    # differences 1, 2, 0: mean 1, sd 1, t(0.975, 2) = 4.302653
    half = 4.302652729911275 / 3**0.5
    assert (kd.change, kd.ci_low, kd.ci_high) == (
        pytest.approx(1),
        pytest.approx(1 - half),
        pytest.approx(1 + half),
    )
    assert (kd.same, kd.note) == (False, "")


def test_the_same_trials_are_named_so() -> None:
    a = run({"base": [70, 72], "kd": [71, 73]})
    base = only(changes(a, a), "base")
    assert (base.same, base.change, base.note, base.a.verdict) == (True, 0.0, "same scores", "baseline")


def test_a_configuration_of_one_run_only() -> None:
    found = changes(run({"base": [70, 72], "old": [1, 2]}), run({"base": [70, 72], "new": [3, 4]}))
    assert [change.regularizer for change in found] == ["base", "old", "new"]
    old, new = only(found, "old"), only(found, "new")
    assert (old.b.verdict, old.b.mean, old.change) == ("absent", None, None)
    assert (new.a.verdict, new.b.mean, new.change) == ("absent", pytest.approx(3.5), None)


def test_the_baseline_alone_is_judged_by_the_metric_of_its_task() -> None:
    declared = {"tasks": {"t": {"metrics": ["f1", "accuracy"]}}}
    alone = run({"base": [70, 74]}, metric="f1", **declared)
    (base,) = changes(alone, run({"base": [71, 75], "kd": [1, 2]}, metric="f1"))[:1]
    assert (base.metric, base.a.mean, base.a.seeds) == ("f1", pytest.approx(72), 2)
    assert (base.b.mean, base.change) == (pytest.approx(73), pytest.approx(1))


@pytest.mark.parametrize("tasks", [None, [], {"t": None}, {"t": {"metrics": []}}, {"u": {"metrics": ["f1"]}}])
def test_params_that_do_not_name_the_metric(tasks: Any) -> None:
    alone = run({"base": [70, 74]}, tasks=tasks)
    (base,) = changes(alone, alone)
    assert (base.a.mean, base.a.seeds, base.a.verdict) == (None, 0, "baseline")


def test_fewer_shared_seeds_are_said() -> None:
    a, b = (
        run({"base": [0] * 3, "kd": [70, 72, 74]}),
        run({"base": [0] * 3, "kd": [73, 76, 90]}, first_seed=1),
    )
    kd = only(changes(a, b), "kd")
    # seeds 1 and 2: 73 - 72 and 76 - 74
    assert (kd.change, kd.note) == (pytest.approx(1.5), "2 matched seeds of 3 and 3")
    assert (kd.a.mean, kd.b.mean) == (pytest.approx(72), pytest.approx(239 / 3))


def test_scores_of_different_metrics_are_not_subtracted() -> None:
    a, b = run({"base": [1, 2], "kd": [70, 72]}), run({"base": [1, 2], "kd": [70, 72]}, metric="f1")
    kd = only(changes(a, b), "kd")
    assert (kd.change, kd.note) == (None, "judged by accuracy and by f1")
