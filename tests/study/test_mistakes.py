"""Mistakes that no single entry shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.study import load_study
from tests.study.samples import (
    ABSENT,
    DIGITS,
    MODEL,
    REGRESSION,
    STUDY,
    changed,
    mistakes_in,
    only_mistake,
    write,
)

ONE = [
    ({"students.small.tasks": ["news", "rte"]},
     "students.small.tasks: no task 'rte' (there are: news, digits)"),
    ({"teachers.big.tasks": ["news", "rte"]}, "teachers.big.tasks: no task 'rte' (there are: news, digits)"),
    ({"students.small.teacher": "huge"}, "students.small.teacher: no teacher 'huge' (there are: big, eye)"),
    ({"students.small.teacher": "eye"}, "students.small.teacher: 'eye' is not declared for task 'news'"),
    ({"students.small.teacher": ABSENT},
     "students.small.teacher: missing, but distillers.kd needs a teacher"),
    ({"students.small.teacher": ["big", "huge"]},
     "students.small.teacher: no teacher 'huge' (there are: big, eye)"),
    ({"students.small.teacher": ["big", "eye"]},
     "students.small.teacher: 'eye' is not declared for task 'news'"),
    ({"students.small.keep": [1, 7]}, "students.small.keep: no seed 7 (there are: 0, 1)"),
    ({"regularizers.smooth.soft_labels": "teacher"},
     "regularizers.smooth.soft_labels: 'teacher' needs cached logits; move it to distillers"),
    ({"distillers.kd.soft_labels": "uniform"},
     "distillers.kd.soft_labels: a distiller needs teacher or self, found"),
    ({"distillers.kd": {}}, "distillers.kd.soft_labels: a distiller needs teacher or self, found none"),
    ({"distillers.kd.teacher": "huge"},
     "distillers.kd.teacher: no teacher 'huge' (there are: big, eye)"),
    ({"distillers.kd.teacher": "big"},
     "distillers.kd.teacher: 'big' is not declared for task 'digits'"),
    ({"distillers.kd.unlabelled": "use", "tasks.digits": {**DIGITS, "train_size": 9, "unlabelled": "rest"}},
     "tasks.news: has no unlabelled rows for distillers.kd; give it `unlabelled: rest` beside train_size, or"),
    ({"distillers.smooth": {"soft_labels": "self", "alpha": 0.5}},
     "distillers.smooth: the name is also a regularizer's; names must differ"),
    ({"comparison.baseline": "plain"},
     "comparison.baseline: no regularizer 'plain' (there are: base, smooth)"),
    ({"students.small.class_weights": "balanced", "regularizers.own": {"function": "losses:mine"}},
     "students.small.class_weights: has no effect on 'own', whose function has to weigh the classes itself"),
    ({"comparison.baseline": "smooth"},
     "comparison.baseline: 'smooth' is a label regularizer; name one without soft labels and function, plain"),
    ({"regularizers.all": {"soft_labels": "uniform", "alpha": 0.1}},
     "regularizers.all: means every method, in tables and in tuning.space; rename it"),
    ({"comparison.baseline": "kd"},
     "comparison.baseline: 'kd' is a distiller; name a regularizer (there are: base"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_a_mistake_between_entries(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)


def test_a_margin_for_another_metric_is_no_margin(tmp_path: Path) -> None:
    assert mistakes_in(tmp_path, changed({"comparison.margin": {"macro_f1": 1.0}})) == [
        "comparison.margin: no margin for 'accuracy', the first metric of task 'news'",
        "comparison.margin: no margin for 'accuracy', the first metric of task 'digits'",
    ]


def test_a_regression_refuses_what_needs_classes(tmp_path: Path) -> None:
    found = mistakes_in(
        tmp_path,
        changed(
            {
                "tasks.sts": REGRESSION,
                "comparison.margin": {"accuracy": 1.0, "pearson": 1.0},
                "distillers.match": {"soft_labels": "teacher", "alpha": 0.5, "divergence": "mse"},
                "regularizers.mine": {"function": "losses:huber"},
            }
        ),
    )
    assert [line.split(":")[0] for line in found] == [
        "regularizers.smooth",
        "distillers.kd",
        "distillers.self_kd",
    ]
    assert "task 'sts' is a regression (one output)" in found[0]


def test_a_regression_has_no_classes_to_weigh(tmp_path: Path) -> None:
    changes = {
        "tasks.sts": REGRESSION,
        "comparison.margin": {"accuracy": 1.0, "pearson": 1.0},
        "regularizers": {"base": {}},
        "distillers": {"match": {"soft_labels": "teacher", "alpha": 0.5, "divergence": "mse"}},
        "teachers.big": {**MODEL, "class_weights": [1, 2]},
        "teachers.eye": {**MODEL, "tasks": ["digits"], "class_weights": "balanced"},
        "students": {"small": {**MODEL, "teacher": "big"}},
    }
    assert mistakes_in(tmp_path, changed(changes)) == [
        "teachers.big.class_weights: task 'sts' is a regression and has no classes"
    ]


def test_a_regression_with_base_and_mse_is_correct(tmp_path: Path) -> None:
    changes = {
        "tasks.sts": REGRESSION,
        "comparison.margin": {"accuracy": 1.0, "pearson": 1.0},
        "regularizers": {"base": {}},
        "distillers": {"match": {"soft_labels": "teacher", "alpha": 0.5, "divergence": "mse"}},
    }
    assert load_study(write(tmp_path, changed(changes))).tasks["sts"].regression


def test_two_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    # "a" + "b-c" and "a-b" + "c" are both train@a-b-c-base, of which DVC keeps one.
    news, student = STUDY["tasks"]["news"], {**MODEL, "teacher": "big"}
    changes = {
        "tasks": {"a": news, "a-b": news},
        "teachers": {"big": MODEL},
        "students": {"c": student, "b-c": student},
    }
    found = mistakes_in(tmp_path, changed(changes))
    assert found[0] == (
        "tasks, students, regularizers: "
        "a + b-c + base and a-b + c + base both become 'a-b-c-base'; rename one"
    )
    assert found[1].startswith("tasks, students, distillers: a + b-c + kd and a-b + c + kd")
    assert len(found) == 2


def test_a_student_needs_no_teacher_where_every_distiller_names_its_own(tmp_path: Path) -> None:
    changes = {
        "teachers.big.tasks": ABSENT,
        "distillers.kd.teacher": "big",
        "students.small.teacher": ABSENT,
        "students.glance.teacher": ABSENT,
    }
    assert load_study(write(tmp_path, changed(changes))).students["small"].teachers == ()
    other = {"soft_labels": "teacher", "alpha": 0.9}
    found = mistakes_in(tmp_path, changed({**changes, "distillers.kd_other": other}))
    assert [line.split(" (")[0] for line in found] == [
        f"students.{name}.teacher: missing, but distillers.kd_other needs a teacher"
        for name in ("small", "glance")
    ]


def test_a_mistake_beside_an_ensemble_hides_no_missing_member(tmp_path: Path) -> None:
    found = mistakes_in(
        tmp_path, changed({"students.small.epoch": 3, "students.small.teacher": ["big", "huge", "eye"]})
    )
    assert sorted(line.split(": ")[0] for line in found) == [
        "students.small.epoch",
        "students.small.teacher",  # no huge
        "students.small.teacher",  # eye is for another task
    ]
