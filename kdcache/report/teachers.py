"""The section on teachers: how good each is, how soft its labels are, and warnings about what a study cannot find."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from kdcache.report.sections import WithoutCharts
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import TeacherRow
from kdcache.statistics import wording
from kdcache.study import Study
from kdcache.study.metrics import unit_of

# Labels are nearly hard if their mean entropy is below this share of ln K, the entropy of uniform labels.
NEARLY_HARD = 0.05
NAMED_AT_MOST = 3  # teachers whose scores are in the page's head


@dataclass(frozen=True)
class TeacherLine:
    """A teacher on a task, in words; scores and the gap in the metric's unit, the entropy in nats."""

    task: str
    teacher: str
    metric: str
    train: str
    validation: str
    majority: str
    entropy: str
    most: str
    confidence: str
    student: str
    student_score: str
    gap: str


@dataclass(frozen=True)
class TeachersSection(WithoutCharts):
    template: ClassVar[str] = "sections/teachers.html.j2"
    rows: list[TeacherLine]
    warnings: list[str]


def make_section(metrics: Metrics, study: Study) -> TeachersSection | None:
    rows = list(rows_of(TeacherRow, metrics.teachers))
    return TeachersSection([_line(row) for row in rows], warnings(metrics, study)) if rows else None


def _line(row: TeacherRow) -> TeacherLine:
    known, unit = row.entropy is not None, unit_of(row.metric)
    return TeacherLine(
        task=row.task,
        teacher=row.teacher,
        metric=wording.metric(row.metric),
        train=wording.score(row.train, unit),
        validation=wording.score(row.validation, unit),
        majority=wording.score(row.majority, unit),
        entropy=wording.number(row.entropy, 2),
        most=f"of {wording.number(math.log(row.classes), 2)}" if known else "",
        confidence=wording.number(row.confidence, 3),
        student=row.student or wording.NONE,
        student_score=wording.score(row.student_score, unit),
        gap=wording.gain(row.gap, unit),
    )


def in_a_sentence(metrics: Metrics) -> str:
    """Every teacher's score, for the page's head; of many teachers the lowest and the highest. Empty without any."""
    rows = list(rows_of(TeacherRow, metrics.teachers))
    if len(rows) <= NAMED_AT_MOST:
        return f"{'; '.join(map(_scored, rows))}." if rows else ""
    names = dict.fromkeys(row.metric for row in rows)
    parts = (_range(name, [row for row in rows if row.metric == name]) for name in names)
    return f"{len(rows)}, on validation {'; '.join(parts)}; the table below has each."


def _scored(row: TeacherRow) -> str:
    unit = unit_of(row.metric)
    over = "" if row.gap is None else f", {wording.gain(row.gap, unit)} {unit.plural} over its best student"
    return (
        f"{row.teacher} on {row.task} {wording.score(row.validation, unit)} in {wording.metric(row.metric)} "
        f"({wording.score(row.train, unit)} on train){over}"
    )


def _range(metric: str, rows: Sequence[TeacherRow]) -> str:
    scores = [row.validation for row in rows if row.validation is not None]
    if not scores:
        return f"no {wording.metric(metric)} known"
    low, high = (wording.score(value, unit_of(metric)) for value in (min(scores), max(scores)))
    return f"{low} to {high} in {wording.metric(metric)}"


def warnings(metrics: Metrics, study: Study) -> list[str]:
    """Facts about the models that limit what the study can find, one sentence each.

    A model counts as at chance, and a teacher as no better than its student, if it is ahead by no more than the margin
    that params.yaml declares for the metric. (Within the margin, the study calls two scores equivalent.)
    """
    rows = list(rows_of(TeacherRow, metrics.teachers))
    return [
        *(said for row in rows for said in _of_teacher(row, _margin(study, row))),
        *_students_at_chance(metrics, study, rows),
    ]


def _of_teacher(row: TeacherRow, margin: float) -> Iterator[str]:
    name, unit = f"{row.teacher} on {row.task}", unit_of(row.metric)
    if _no_better(row.validation, row, margin):
        yield _at_chance(name, row.validation, row)
    if row.gap is not None and row.gap <= margin:
        how = "not better" if row.gap <= 0 else f"only {wording.size(row.gap, unit)} {unit.plural} better"
        yield (
            f"{name} is {how} than its student {row.student} by plain fine-tuning "
            f"({wording.score(row.validation, unit)} against {wording.score(row.student_score, unit)}). What it can "
            "add is how sure to be of a label, not which is right."
        )
    if row.entropy is not None and row.entropy < NEARLY_HARD * math.log(row.classes):
        yield (
            f"The soft labels of {name} are nearly hard: a mean entropy of {wording.number(row.entropy, 3)} nats on "
            f"train, of {wording.number(math.log(row.classes), 2)} that is possible. They say little more than the "
            "labels do; a higher temperature softens them."
        )


def _students_at_chance(metrics: Metrics, study: Study, rows: Sequence[TeacherRow]) -> Iterator[str]:
    trials, baseline = metrics.trials, study.comparison.baseline
    for row in {row.task: row for row in rows}.values():
        base = trials[(trials["task"] == row.task) & (trials["regularizer"] == baseline)]
        scores = unit_of(row.metric).size * base.groupby("student", sort=False)[row.metric].mean()
        for student, score in scores.items():
            if _no_better(float(score), row, _margin(study, row)):
                yield _at_chance(f"{student} on {row.task}, by plain fine-tuning,", float(score), row)


def _margin(study: Study, row: TeacherRow) -> float:
    """In the metric's unit; 0 for a metric without one."""
    return next((size for metric, size in study.comparison.margin.items() if metric == row.metric), 0.0)


def _no_better(score: float | None, row: TeacherRow, margin: float) -> bool:
    """Whether a score is no better than one answer for every row, by no more than the margin."""
    if score is None or row.majority is None:
        return False
    return unit_of(row.metric).sign * (score - row.majority) <= margin


def _at_chance(name: str, score: float | None, row: TeacherRow) -> str:
    shown, majority = (wording.score(value, unit_of(row.metric)) for value in (score, row.majority))
    metric = wording.metric(row.metric)
    return f"{name} is at chance: {shown} in {metric}, where one answer for every row has {majority}."
