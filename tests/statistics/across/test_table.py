"""across.csv: what a row is made of, what is left blank and why, and what must not depend on what."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdcache.results.schema import AcrossRow, columns
from kdcache.statistics import across, compare
from kdcache.statistics.across.groups import groups
from kdcache.statistics.across.permutation import stratified_permutation
from kdcache.statistics.across.table import ONE_TASK
from kdcache.study import Study
from tests.statistics.helpers import make_study, make_trials

TASKS = ("a", "b", "c", "d", "e", "f")
METHODS = ("smooth", "tf")


def scores(
    tasks: tuple[str, ...] = TASKS, students: tuple[str, ...] = ("tiny",), seeds: int = 5
) -> dict[tuple[str, str, str], Any]:
    """Random points that depend on the task's, student's and method's names only."""
    cells = {}
    for task in tasks:
        for student in students:
            rng = np.random.default_rng([ord(c) for c in task + student])
            shared = 60 + 3 * ord(task[0]) % 20 + rng.normal(0, 1, seeds)
            for method, effect in (("base", 0.0), ("smooth", 0.6), ("tf", -0.2)):
                cells[task, student, method] = (shared + effect + rng.normal(0, 0.7, seeds)).round(2).tolist()
    return cells


def row_of(frame: pd.DataFrame, group: str, regularizer: str) -> pd.Series:
    found = frame[(frame["group"] == group) & (frame["regularizer"] == regularizer)]
    assert len(found) == 1
    return found.iloc[0]


def study(tasks: tuple[str, ...] = TASKS, **more: Any) -> Study:
    return make_study(tasks=tasks, methods=METHODS, **more)


def test_a_row_by_hand() -> None:
    cells = scores()
    frame = across(make_trials(cells), study())
    assert list(frame.columns) == columns(AcrossRow)
    assert frame["regularizer"].tolist() == ["base", "smooth", "tf"]
    row = row_of(frame, "tiny", "smooth")
    d = {t: np.subtract(cells[t, "tiny", "smooth"], cells[t, "tiny", "base"]) for t in TASKS}
    means = [float(values.mean()) for values in d.values()]
    assert (row["tasks"], row["trials"], row["family_size"]) == (6, 30, 2)
    assert row["difference"] == pytest.approx(np.mean(means), abs=1e-9)
    interval = stats.t.interval(0.95, 5, np.mean(means), np.std(means, ddof=1) / math.sqrt(6))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(interval, abs=1e-9)
    assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(means, method="exact").pvalue, abs=1e-9)
    assert row["wilcoxon_floor"] == 2 / 2**6
    assert row["permutation_p"] == pytest.approx(stratified_permutation(list(d.values())))
    assert row["mixed_difference"] == pytest.approx(np.mean(means), abs=1e-6)
    wins = [stats.mannwhitneyu(cells[t, "tiny", "smooth"], cells[t, "tiny", "base"]).statistic for t in TASKS]
    assert row["improvement"] == pytest.approx(np.mean(wins) / 25, abs=1e-9)
    assert row["bayes_worse"] + row["bayes_within"] + row["bayes_better"] == pytest.approx(1)
    assert row["note"] == ""


def test_holm_over_the_regularizers_of_a_group() -> None:
    frame = across(make_trials(scores()), study())
    p = [row_of(frame, "tiny", m)["wilcoxon_p"] for m in METHODS]
    corrected = [row_of(frame, "tiny", m)["wilcoxon_p_corrected"] for m in METHODS]
    first = int(np.argmin(p))
    assert corrected[first] == pytest.approx(min(1.0, 2 * p[first]))
    assert corrected[1 - first] == pytest.approx(max(p[1 - first], min(1.0, 2 * p[first])))
    assert pd.isna(row_of(frame, "tiny", "base")["wilcoxon_p_corrected"])
    # a family wider than the student holds the other student's regularizers too
    two = {"tiny": ("t", "pretrained"), "raw": ("t", "scratch")}
    wide = across(make_trials(scores(students=("tiny", "raw"))), study(students=two, family="study"))
    assert set(wide["family_size"].dropna()) == {4}


def test_the_ranking_is_shared_by_the_group() -> None:
    cells = scores()
    frame = across(make_trials(cells), study())
    means = np.array([[np.mean(cells[t, "tiny", m]) for m in ("base", *METHODS)] for t in TASKS])
    assert frame["mean_rank"].tolist() == pytest.approx(stats.rankdata(-means, axis=1).mean(axis=0))
    assert frame["friedman_p"].tolist() == pytest.approx([stats.friedmanchisquare(*means.T).pvalue] * 3)
    assert frame["critical_difference"].tolist() == pytest.approx([2.343 * math.sqrt(12 / 36)] * 3, rel=1e-3)
    assert frame["iqm"].iloc[0] == pytest.approx(
        stats.trim_mean(np.concatenate([cells[t, "tiny", "base"] for t in TASKS]), 0.25)
    )


def test_one_task() -> None:
    frame = across(make_trials(scores(("a",))), study(("a",)))
    assert frame["note"].tolist() == [ONE_TASK] * 3
    assert frame["trials"].tolist() == [5, 5, 5]
    blank = [
        name
        for name in columns(AcrossRow)
        if name.endswith(("_p", "_low", "_high")) or name.startswith("bayes")
    ]
    assert frame[[*blank, "difference", "iqm", "improvement", "mean_rank"]].isna().all(axis=None)


def test_several_students_of_an_init_are_one_value_a_task() -> None:
    two = {"tiny": ("t", "scratch"), "raw": ("u", "scratch")}
    cells = scores(students=("tiny", "raw"))
    frame = across(make_trials(cells), study(students=two))
    assert frame["scope"].tolist() == ["student"] * 6 + ["init"] * 3
    row = row_of(frame, "scratch", "smooth")
    assert (row["tasks"], row["trials"]) == (6, 30)
    both = [row_of(frame, name, "smooth")["difference"] for name in two]
    assert row["difference"] == pytest.approx(np.mean(both), abs=1e-9)
    del cells["a", "raw", "smooth"]  # then the mean over students is not known on task a
    row = row_of(across(make_trials(cells), study(students=two)), "scratch", "smooth")
    assert (row["tasks"], row["note"]) == (5, "matched seeds on 5 of 6 tasks")


def test_missing_failed_and_degenerate_trials() -> None:
    cells = scores()
    cells["a", "tiny", "smooth"] = {0: 80.0, 1: math.nan, 2: 81.0}
    for task in TASKS[1:]:
        cells[task, "tiny", "tf"] = cells[task, "tiny", "base"]
    del cells["a", "tiny", "tf"]
    frame = across(make_trials(cells), study())
    assert row_of(frame, "tiny", "smooth")["trials"] == 2 + 25
    row = row_of(frame, "tiny", "tf")
    assert (row["tasks"], row["difference"]) == (5, 0)
    assert (row["wilcoxon_p"], row["permutation_p"], row["bayes_within"]) == (1, 1, 1)
    assert row["ranked_tasks"] == 5
    assert pd.isna(row["ci_low"])
    numbers = frame.select_dtypes("number").to_numpy()
    assert not np.isinf(numbers[~np.isnan(numbers)]).any()


def test_no_trials_of_a_regularizer() -> None:
    cells = {key: value for key, value in scores().items() if key[2] != "tf"}
    frame = across(make_trials(cells), study())
    row = row_of(frame, "tiny", "tf")
    assert (row["tasks"], row["trials"]) == (0, 0)
    assert row["note"] == "matched seeds on 0 of 6 tasks: two are needed"
    # it counts in its family as p = 1
    known = row_of(frame, "tiny", "smooth")
    assert known["wilcoxon_p_corrected"] == pytest.approx(min(1.0, 2 * known["wilcoxon_p"]))


def test_few_tasks_have_no_posterior_and_differing_metrics_are_said() -> None:
    four = across(make_trials(scores(TASKS[:4])), study(TASKS[:4]))
    assert four["bayes_within"].isna().all()
    assert four["wilcoxon_p"].notna().sum() == 2
    mixed = study().model_dump(exclude_unset=True)
    mixed["tasks"]["a"]["metrics"] = ["macro_f1"]
    mixed["comparison"]["margin"] = {"accuracy": 1.0, "macro_f1": 1.0}
    trials = make_trials(scores()).assign(macro_f1=lambda frame: frame["accuracy"])
    frame = across(trials, Study.model_validate(mixed))
    assert set(frame["note"]) == {"points of different metrics"}
    assert set(frame["metric"]) == {"accuracy/macro_f1"}


def test_the_rope_is_each_tasks_margin() -> None:
    # differences of 1.5 points: beyond a margin of 1, within one of 2
    cells = {(t, "tiny", m): [70.0 + 1.5 * (m == "smooth") + 0.1 * s for s in range(5)]
             for t in TASKS for m in ("base", *METHODS)}  # fmt: skip
    near = across(make_trials(cells), study(margin={"accuracy": 2.0}))
    far = across(make_trials(cells), study(margin={"accuracy": 1.0}))
    assert row_of(near, "tiny", "smooth")["bayes_within"] == 1
    # a sum with the pseudo-task at 0 stays within, so better wins when (1 - w0)^2 > 1/2, w0 ~ Beta(0.5, 6)
    expected = stats.beta(0.5, 6).cdf(1 - math.sqrt(0.5))
    assert row_of(far, "tiny", "smooth")["bayes_better"] == pytest.approx(expected, abs=0.005)


def test_another_task_changes_no_tasks_own_p() -> None:
    trials = make_trials(scores())
    columns = ["t_p", "tost_p", "welch_p", "permutation_p", "difference", "ci_low"]
    fewer = compare(trials, study(TASKS[:3]))
    more = compare(trials, study())
    kept = more[more["task"].isin(TASKS[:3])].reset_index(drop=True)
    pd.testing.assert_frame_equal(fewer[columns], kept[columns])


def test_the_order_of_tasks_seeds_and_other_students_is_irrelevant() -> None:
    two = {"tiny": ("t", "pretrained"), "raw": ("t", "scratch")}
    alone = across(make_trials(scores()), study())
    trials = make_trials(scores(students=("tiny", "raw"))).sample(frac=1, random_state=0)
    other = across(trials, study(TASKS[::-1], students=two, seeds=[4, 2, 0, 1, 3]))
    other = other[other["group"] == "tiny"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, other, rtol=1e-6, check_dtype=False)


def test_groups() -> None:
    mean = {"tiny": ("t", "scratch"), "raw": ("u", "scratch")}
    trials = make_trials(scores(students=("tiny", "raw")))
    assert [(g.scope, g.name) for g in groups(trials, study(students=mean))] == [
        ("student", "tiny"), ("student", "raw"), ("init", "scratch"),
    ]  # fmt: skip
    found = next(iter(groups(trials, study(students=mean))))
    assert found.common().keys() == found.scores.keys() == set(TASKS)
    assert len(found.frame()) == 6 * 3 * 5
