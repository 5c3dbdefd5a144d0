"""What is wrong with one teacher or student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.study import Student, Teacher, load_study
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
    ({"students.small.lora": {"rank": 8}}, "students.small.lora.alpha: missing"),
    ({"students.small.lora": {"rank": 0, "alpha": 1}},
     "students.small.lora.rank: Input should be greater than or equal to 1, found 0"),
    ({"teachers.big.lora": {"rank": 8, "alpha": 1, "target": ["query"]}},
     "teachers.big.lora.target: unknown key; did you mean 'targets'?"),
    ({"students.small.lora": {"rank": 8, "alpha": 1}, "students.small.init": "scratch"},
     "students.small: lora adapts pretrained weights; with init: scratch there are none"),
    ({"students.small.accumulate": 0},
     "students.small.accumulate: Input should be greater than or equal to 1, found 0"),
    ({"students.small.accumulate": 64}, "students.small: accumulate: 64 parts of a batch of 8 rows"),
    ({"students.small.accumulate": True}, "students.small.accumulate: true and false are no values here"),
    ({"students.small.gradient_checkpointing": 1},
     "students.small.gradient_checkpointing: Input should be a valid boolean, found 1"),
    ({"students.small.class_weights": "even"},
     "students.small.class_weights: expected balanced or a list of numbers above 0, one for each class, found 'even'"),
    ({"students.small.class_weights": [1, 0]},
     "students.small.class_weights: expected balanced or a list of numbers above 0, one for each class, found [1, 0]"),
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


def test_keys_that_came_later_are_part_of_a_recipe_only_where_they_are_given() -> None:
    """What was trained before kdcache had them keeps its identity."""
    recipe: dict[str, Any] = {"checkpoint": "x", "learning_rate": 0.1, "epochs": 1, "batch_size": 8}
    as_before = {
        **recipe, "revision": None, "init": "pretrained", "layers": None, "tasks": None, "weight_decay": 0.01,
        "warmup": 0.1, "max_grad_norm": 1.0, "precision": "auto", "teacher": None, "keep": "none",
    }  # fmt: skip
    assert Student(**recipe).model_dump() == as_before
    none = {"lora": None, "accumulate": 1, "gradient_checkpointing": False, "class_weights": None}
    assert Student(**recipe, **none).model_dump() == as_before
    given: dict[str, Any] = {
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.0, "targets": ["query"]},
        "accumulate": 2,
        "gradient_checkpointing": True,
        "class_weights": "balanced",
    }
    student = Student(**recipe, **given)
    assert student.model_dump(mode="json") == {**as_before, **given}
    assert hash(student)
    assert Student(**recipe, class_weights=[1, 2.5]).class_weights == (1, 2.5)
    assert Teacher(**recipe).model_dump().keys() == as_before.keys() - {"teacher", "keep"} | {"seed"}
    assert Teacher(**recipe, threads=1) == Teacher(**recipe)
    assert Teacher(**recipe, threads=4).model_dump()["threads"] == 4
