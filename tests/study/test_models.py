"""What is wrong with one teacher or student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.study import load_study
from tests.study.samples import ABSENT, STUDY, changed, only_mistake, write

ONE = [
    ({"students.small.checkpoint": ABSENT}, "students.small.checkpoint: missing"),
    ({"students.small.checkpoint": ""}, "students.small.checkpoint: String should have at least 1 character"),
    ({"students.small.learning_rate": 0},
     "students.small.learning_rate: Input should be greater than 0, found 0"),
    ({"students.small.learning_rate": "fast"},
     "students.small.learning_rate: Input should be a valid number, unable"),
    ({"students.small.epochs": 1.5}, "students.small.epochs: Input should be a valid integer"),
    ({"students.small.warmup": 1}, "students.small.warmup: Input should be less than 1, found 1"),
    ({"students.small.init": "random"},
     "students.small.init: Input should be 'pretrained' or 'scratch', found 'rand"),
    ({"students.small.tasks": []}, "students.small.tasks: expected at least 1, found 0"),
    ({"students.small.keep": "some"},
     "students.small.keep: expected none, all or a list of different seeds, found 'some'"),
    ({"students.small.keep": []},
     "students.small.keep: expected none, all or a list of different seeds, found []"),
    ({"students.small.keep": [0, 0]},
     "students.small.keep: expected none, all or a list of different seeds, found [0, 0]"),
    ({"students.small.keep": [-1]},
     "students.small.keep: expected none, all or a list of different seeds, found [-1]"),
    ({"teachers.big.keep": "all"}, "teachers.big.keep: unknown key"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_a_mistake_in_a_model(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)


def test_a_student_has_no_teacher_one_or_several(tmp_path: Path) -> None:
    several = changed(
        {"teachers.other": STUDY["teachers"]["big"], "students.small.teacher": ["big", "other"]}
    )
    study = load_study(write(tmp_path, several))
    assert study.students["small"].teachers == ("big", "other")
    assert study.students["glance"].teachers == ("eye",)
    assert study.students["small"].model_copy(update={"teacher": None}).teachers == ()
    assert hash(study.students["small"])  # its encoded rows are kept by it


def test_a_student_keeps_no_model_all_or_those_of_some_seeds(tmp_path: Path) -> None:
    for keep, kept in ((ABSENT, []), ("none", []), ("all", [0, 1]), ([1], [1]), ([1, 0], [0, 1])):
        changes = {} if keep is ABSENT else {"students.small.keep": keep}
        student = load_study(write(tmp_path, changed(changes))).students["small"]
        assert [seed for seed in (0, 1) if student.keeps(seed)] == kept
        assert hash(student)
