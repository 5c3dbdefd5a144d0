"""What is wrong with one regularizer or distiller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.study import Regularizer, load_study
from tests.study.samples import (
    ABSENT,
    ALL_UNLABELLED,
    DIGITS,
    MODEL,
    changed,
    mistakes_in,
    only_mistake,
    write,
)

ONE = [
    ({"regularizers": {}}, "regularizers: expected at least 1, found 0"),
    ({"regularizers.base": {"alpha": 0.1}},
     "regularizers.base: without soft_labels or function, alpha has no effect"),
    ({"regularizers.smooth.alpha": ABSENT}, "regularizers.smooth: alpha must be given and above 0"),
    ({"regularizers.smooth.alpha": 1.5},
     "regularizers.smooth.alpha: Input should be less than or equal to 1, found"),
    ({"regularizers.smooth.alpha": -0.1},
     "regularizers.smooth.alpha: Input should be greater than or equal to 0"),
    ({"regularizers.smooth.alpha": 1},
     "regularizers.smooth: with alpha: 1 and soft_labels: uniform nothing teaches"),
    ({"regularizers.smooth.temperature": 0},
     "regularizers.smooth.temperature: Input should be greater than 0"),
    ({"regularizers.smooth.temperature": float("inf")},
     "regularizers.smooth.temperature: Input should be a finite"),
    ({"regularizers.smooth.soft_labels": "designed"},
     "regularizers.smooth: soft_labels: designed needs `correct`"),
    ({"regularizers.smooth.correct": 0.9},
     "regularizers.smooth: `correct` (probability on the true class) belongs"),
    ({"regularizers.smooth.variant": "released"},
     "regularizers.smooth: variant: released is defined for soft_labels"),
    ({"regularizers.smooth.multiplier": 2}, "regularizers.smooth: multiplier belongs to variant: released"),
    ({"regularizers.smooth.divergence": "mse"},
     "regularizers.smooth: divergence: mse compares logits, so it needs"),
    ({"regularizers.smooth": {"soft_labels": "uniform_others", "alpha": 0.1, "divergence": "reverse_kl"}},
     "regularizers.smooth: divergence: reverse_kl is infinite where soft labels are 0"),
    ({"regularizers.smooth": {"soft_labels": "designed", "correct": 0.9, "alpha": 0.1, "variant": "released",
                              "divergence": "reverse_kl"}},
     "regularizers.smooth: variant: released is defined with divergence: kl only"),
    ({"regularizers.smooth": {"soft_labels": "designed", "correct": 1.0, "alpha": 0.1}},
     "regularizers.smooth.correct: Input should be less than 1, found 1.0"),
    ({"regularizers.mine": {"function": "my loss"}},
     "regularizers.mine.function: expected package.module:name, found"),
    ({"regularizers.mine": {"function": "m:f", "alpha": 0.5, "temperature": 2}},
     "regularizers.mine: beside function, alpha, temperature has no effect"),
    ({"regularizers.mine": {"function": "m:f", "soft_labels": "uniform"}},
     "regularizers.mine: a function is given cached logits (teacher or self) or none, not 'uniform'"),
    ({"distillers.kd.divergence": "mse"}, "distillers.kd: temperature has no effect with divergence: mse"),
    ({"distillers.kd.divergence": "jensen"},
     "distillers.kd.divergence: Input should be 'kl', 'reverse_kl', 'mse' or 'dkd'"),
    ({"distillers.kd.divergence": "dkd"}, "distillers.kd: divergence: dkd needs `beta`"),
    ({"distillers.kd.beta": 8}, "distillers.kd: beta belongs to divergence: dkd"),
    ({"distillers.kd.beta": -1}, "distillers.kd.beta: Input should be greater than or equal to 0, found -1"),
    ({"regularizers.smooth.divergence": "dkd", "regularizers.smooth.beta": 8},
     "regularizers.smooth: divergence: dkd takes logits apart, so it needs soft_labels: teacher or self"),
    ({"distillers.self_kd.teacher": "big"},
     "distillers.self_kd: teacher says whose logits soft_labels: teacher stands for, but soft_labels is 'self'"),
    ({"regularizers.mine": {"function": "m:f", "teacher": "big"}},
     "regularizers.mine: teacher says whose logits soft_labels: teacher stands for, but soft_labels is none"),
    ({"regularizers.base": {"teacher": "big"}},
     "regularizers.base: without soft_labels or function, teacher has no effect"),
    ({"distillers.kd.unlabelled": "yes", "tasks.digits": {**DIGITS, "train_size": 9, "unlabelled": "rest"}},
     "distillers.kd.unlabelled: Input should be 'ignore' or 'use', found 'yes'"),
    ({"distillers.self_kd.unlabelled": "use", **ALL_UNLABELLED},
     "distillers.self_kd: unlabelled: use needs a teacher: the baseline's trials keep no logits of unlabelled rows"),
    ({"regularizers.smooth.unlabelled": "use", **ALL_UNLABELLED},
     "regularizers.smooth: unlabelled: use needs soft_labels: teacher; 'uniform' says nothing of such rows"),
    ({"distillers.kd.unlabelled": "use", "distillers.kd.divergence": "dkd", "distillers.kd.beta": 8, **ALL_UNLABELLED},
     "distillers.kd: unlabelled: use has no divergence: dkd, which takes the true class apart: there is none"),
    ({"distillers.own": {"function": "m:f", "soft_labels": "teacher", "unlabelled": "use"}, **ALL_UNLABELLED},
     "distillers.own: beside function, unlabelled has no effect"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_a_mistake_in_a_method(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)


def test_all_mistakes_of_one_regularizer_are_in_its_line(tmp_path: Path) -> None:
    (line,) = mistakes_in(
        tmp_path, changed({"regularizers.smooth": {"soft_labels": "designed", "multiplier": 3}})
    )
    for part in ("alpha must be given", "needs `correct`", "multiplier belongs to variant: released"):
        assert part in line


@pytest.mark.parametrize(
    "params",
    [
        {},
        {
            "soft_labels": "uniform",
            "alpha": 0.1,
            "temperature": 4,
        },  # tempered student: documented, not refused
        {"soft_labels": "uniform", "alpha": 0.1, "divergence": "reverse_kl"},
        {"soft_labels": "uniform_others", "alpha": 0.1},
        {"soft_labels": "designed", "correct": 0.99, "alpha": 1.0, "temperature": 20},
        {"soft_labels": "designed", "correct": 0.99, "alpha": 0.1, "variant": "released", "multiplier": 100},
        {"soft_labels": "teacher", "alpha": 1.0},
        {"soft_labels": "teacher", "alpha": 0.5, "divergence": "reverse_kl", "temperature": 2},
        {"soft_labels": "self", "alpha": 0.5, "divergence": "mse"},
        {"soft_labels": "self", "alpha": 0.5, "divergence": "dkd", "beta": 0, "temperature": 4},
        {"soft_labels": "teacher", "alpha": {"start": 1.0, "end": 0.0}, "divergence": "mse"},
        {"soft_labels": "teacher", "alpha": 0.5, "temperature": {"start": 8, "end": 1}},
        {"soft_labels": "uniform", "alpha": {"start": "0", "end": 1}},
        {"function": "package.module:name"},
        {"function": "module:name", "soft_labels": "teacher"},
    ],
)
def test_regularizers_that_are_allowed(params: dict[str, Any]) -> None:
    assert Regularizer(**params).is_base == (params == {})


def test_a_distiller_has_the_students_teacher_or_its_own(tmp_path: Path) -> None:
    own = {"soft_labels": "teacher", "alpha": 0.5, "teacher": ["other", "big"]}
    everywhere = {**MODEL, "tasks": ["news", "digits"]}
    changes = {"teachers.other": everywhere, "teachers.big": everywhere, "distillers.kd_own": own}
    study = load_study(write(tmp_path, changed(changes)))
    small, kd, kd_own = study.students["small"], study.method("kd"), study.method("kd_own")
    assert (kd.teachers_of(small), kd.teacher_name(small)) == (("big",), "big")
    assert (kd_own.teachers_of(small), kd_own.teacher_name(small)) == (("other", "big"), "other+big")
    for free in ("base", "smooth", "self_kd"):
        assert (study.method(free).teachers_of(small), study.method(free).teacher_name(small)) == ((), None)
