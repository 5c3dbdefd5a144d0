"""How much of a teacher must be stored? KD from a part of its distributions against KD from all of them.

Two distillers differ in storage alone if their values and their teachers are the same in all but the teacher's `cache`
(and `tail`, which says what becomes of the probability that a top-k cache lacks). They are compared seed by seed, on
each task and student:

    gain = KD from the smaller cache - KD from the full one   in the metric's unit, more is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from kdcache.results.schema import StorageRow
from kdcache.results.writing import tabulate
from kdcache.statistics.contests import Contest, judge, names_of
from kdcache.statistics.settling import Cells
from kdcache.statistics.verdicts import points_table
from kdcache.study import Student, Study
from kdcache.study.estimates import TokenEstimate

TAILS = {"bucket": "the rest as one", "renormalise": "renormalised", None: ""}


def compare_storage(
    trials: pd.DataFrame, study: Study, sizes: Mapping[tuple[str, str], float]
) -> pd.DataFrame:
    """One row per task, student and distiller with a smaller cache, in the order of the study, `against` the full one.

    All rows of a task and student are corrected together. The numbers are those of `against_teacher_free`.
    bytes_per_token, against_bytes: of the two caches, see `sizes`. stored: what the smaller one keeps, in words.

    Args:
        sizes: bytes a token by task and teacher, see `results.teachers.bytes_per_token`.
    """
    rows = judge(points_table(trials, study), study, lambda cells: _contests(cells, study))
    return tabulate(StorageRow, (_row(columns, study, sizes) for columns in rows))


def _row(columns: dict[str, Any], study: Study, sizes: Mapping[tuple[str, str], float]) -> StorageRow:
    task, student, kd, full = (columns[name] for name in ("task", "student", "regularizer", "against"))
    method, model = study.method(kd), study.students[student]
    tail = TAILS[method.tail]
    return StorageRow(
        **columns,
        stored=", ".join(filter(None, (_estimate(study, kd, model).in_words, tail))),
        bytes_per_token=sizes.get((task, str(method.teacher_name(model)))),
        against_bytes=sizes.get((task, str(study.method(full).teacher_name(model)))),
    )


def _contests(cells: Cells, study: Study) -> Iterator[Contest]:
    for task, student, kd in cells:
        for full in _same_but_full(study, task, student, kd):
            names = names_of([(task, student)], kd, study) | {"scope": "cell", "against": full}
            first, second = needed = (task, student, kd), (task, student, full)
            yield Contest(names, cells[first], cells[second], needed, family=f"{task}/{student}")


def _same_but_full(study: Study, task: str, student: str, kd: str) -> list[str]:
    """The distillers that learn from the whole distributions of the same teacher in the same way."""
    model = study.students[student]
    if not study.tasks[task].language_modelling or not _has_one_teacher(study, kd, model):
        return []
    if _estimate(study, kd, model).estimator == "full":
        return []
    facts = _besides_storage(study, kd, model)
    return [
        full
        for full in study.distillers
        if _has_one_teacher(study, full, model)
        and _estimate(study, full, model).estimator == "full"
        and _besides_storage(study, full, model) == facts
    ]


def _has_one_teacher(study: Study, method: str, student: Student) -> bool:
    return study.method(method).soft_labels == "teacher" and len(_teachers(study, method, student)) == 1


def _teachers(study: Study, method: str, student: Student) -> list[str]:
    return list(study.method(method).teachers_of(student))


def _estimate(study: Study, method: str, student: Student) -> TokenEstimate:
    (teacher,) = _teachers(study, method, student)
    return study.teachers[teacher].estimate


def _besides_storage(study: Study, method: str, student: Student) -> dict[str, Any]:
    """All that a distiller and its teacher are, but for what is stored."""
    (teacher,) = _teachers(study, method, student)
    return {
        "method": study.method(method).model_dump(exclude={"teacher", "tail"}),
        "teacher": study.teachers[teacher].model_dump(exclude={"cache"}),
    }
