"""The section on cost: teachers, paid once, and students, paid for every trial.

A run's cost lies beside its result, on the machine that ran it. On another machine it is unknown, and so is every sum
that includes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd

from kdcache.report.sections import WithoutCharts
from kdcache.report.tables import KINDS
from kdcache.results.reading import Metrics
from kdcache.statistics import wording
from kdcache.study import Study


@dataclass(frozen=True)
class TeacherCost:
    """What a teacher cost once, and what it would have cost without the cache."""

    task: str
    teacher: str
    trained: str
    cached: str
    readers: str
    once: str
    per_student: str
    online: str
    passes: str
    break_even: str
    memory: str
    device: str


@dataclass(frozen=True)
class StudentCost:
    """What a student's trials on a task cost."""

    task: str
    student: str
    trials: str
    each: str
    total: str
    memory: str
    device: str


@dataclass(frozen=True)
class Cost:
    """Both cost tables, and the sums for a sentence, in seconds; None if not known here."""

    teachers: list[TeacherCost] = field(default_factory=list)
    students: list[StudentCost] = field(default_factory=list)
    teacher_seconds: float | None = None
    trial_seconds: float | None = None
    readers: int = 0
    device: str = ""


@dataclass(frozen=True)
class CostSection(WithoutCharts):
    template: ClassVar[str] = "sections/cost.html.j2"
    cost: Cost
    sentence: str


def make_section(metrics: Metrics, study: Study) -> CostSection:
    cost = costs(metrics, study)
    return CostSection(cost, in_a_sentence(cost))


def costs(metrics: Metrics, study: Study) -> Cost:
    """What teachers, caches and trials cost; teachers first."""
    cost = metrics.cost
    by_kind = {kind: cost[cost["kind"] == kind] for kind in KINDS}
    trials, once = by_kind["trial"], cost[cost["kind"] != "trial"]
    names = once[["task", "model"]].drop_duplicates()
    pairs = list(names.itertuples(index=False, name=None))
    readers = [index for task, teacher in pairs for index in _readers(task, teacher, trials, study).index]
    return Cost(
        teachers=[_teacher_cost(task, teacher, by_kind, study) for task, teacher in pairs],
        students=[_student_cost(*key, of_student) for key, of_student in _by_student(trials)],
        teacher_seconds=_known(_total(once)),
        trial_seconds=_known(_total(trials)),
        readers=len(set(readers)),  # a trial taught by an ensemble reads several teachers' logits
        device=_devices(cost),
    )


def _by_student(trials: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for key, of_student in trials.groupby(["task", "model"], sort=False):
        yield (str(key[0]), str(key[1])), of_student


def _readers(task: str, teacher: str, trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The trials that trained on this teacher's cached logits."""
    pairs = [
        (student, method)
        for student, params in study.students.items()
        for method, how in study.methods().items()
        if teacher in how.teachers_of(params)
    ]
    reads = pd.MultiIndex.from_frame(trials[["model", "regularizer"]]).isin(pairs)
    return trials[(trials["task"] == task) & reads]


def _teacher_cost(task: str, teacher: str, by_kind: dict[str, pd.DataFrame], study: Study) -> TeacherCost:
    trained = _rows_of(by_kind["teacher"], task, teacher)
    # views: the same rows again, augmented; unlabelled: further rows
    cached = pd.concat([_rows_of(by_kind[kind], task, teacher) for kind in ("cache", "views", "unlabelled")])
    readers = _readers(task, teacher, by_kind["trial"], study)
    students, passes = readers["model"].nunique(), _passes(readers, study)
    runs = pd.concat([trained, cached])
    once = _total(runs)
    return TeacherCost(
        task=task,
        teacher=teacher,
        trained=wording.seconds(_total(trained)),
        cached=wording.seconds(_total(cached)),
        readers=f"{wording.count(len(readers), 'trial')} of {wording.count(students, 'student')}",
        once=wording.seconds(once),
        per_student=wording.seconds(once * students),
        online=wording.seconds(_online(task, teacher, by_kind, study)),
        passes=wording.count(passes, "pass", "passes"),
        break_even=_break_even(_total(cached), _passed(task, teacher, by_kind, study), students),
        memory=wording.megabytes(runs["peak_memory_mb"].max()),
        device=_devices(runs),
    )


def _online(task: str, teacher: str, by_kind: dict[str, pd.DataFrame], study: Study) -> float:
    """Seconds that the teacher would take, if it ran in every epoch of every trial that reads its logits."""
    return _total(_rows_of(by_kind["teacher"], task, teacher)) + _passed(task, teacher, by_kind, study)


def _passed(task: str, teacher: str, by_kind: dict[str, pd.DataFrame], study: Study) -> float:
    """Seconds of the teacher in all epochs of those trials, on unlabelled rows too if their method uses them."""
    readers, augment = _readers(task, teacher, by_kind["trial"], study), study.tasks[task].augment
    users = [name for name, method in study.methods().items() if method.unlabelled == "use"]
    plain, more = (_rows_of(by_kind[kind], task, teacher) for kind in ("cache", "unlabelled"))
    one_view = _total(more) / (augment.views if augment else 1)
    passes = _passes(readers[readers["regularizer"].isin(users)], study)
    return _total(plain) * _passes(readers, study) + one_view * passes


def _passes(readers: pd.DataFrame, study: Study) -> int:
    """How often these trials go through the logits of the train rows: the sum of their epochs."""
    names = readers[["task", "model", "regularizer"]].itertuples(index=False, name=None)
    return sum(study.as_tuned(*map(str, name))[0].epochs for name in names)


def _break_even(filled: float, passed: float, students: int) -> str:
    """The number of students from which on the cache costs less than running the teacher in every epoch.

    Args:
        filled: seconds that filling the cache took.
        passed: seconds that the teacher would take in all epochs of all students.
    """
    return f"student {math.floor(filled * students / passed) + 1}" if passed > 0 else wording.NONE


def _rows_of(table: pd.DataFrame, task: str, model: str) -> pd.DataFrame:
    return table[(table["task"] == task) & (table["model"] == model)]


def _total(table: pd.DataFrame) -> float:
    """Seconds of all runs in the table; NaN if those of one run are not known here."""
    return float(table["seconds"].astype(float).sum(skipna=False))


def _known(seconds: float) -> float | None:
    return None if wording.missing(seconds) else seconds


def _devices(table: pd.DataFrame) -> str:
    names = sorted({device for device in table["device"] if device})
    return wording.listing(names) if names else "an unknown device"


def _student_cost(task: str, student: str, trials: pd.DataFrame) -> StudentCost:
    return StudentCost(
        task=task,
        student=student,
        trials=f"{len(trials):,}",
        each=wording.seconds(trials["seconds"].mean()),
        total=wording.seconds(_total(trials)),
        memory=wording.megabytes(trials["peak_memory_mb"].max()),
        device=_devices(trials),
    )


def in_a_sentence(cost: Cost) -> str:
    """The total cost in a sentence, for the first screen."""
    if not cost.teachers:
        return f"No teacher. {_trials(cost)}"
    read = f"{wording.count(cost.readers, 'trial')} read those logits."
    if cost.teacher_seconds is None:
        once = "Teachers were trained and their logits cached once; what that took is not known here"
    else:
        spent = wording.seconds(cost.teacher_seconds)
        once = f"Teachers were trained and their logits cached once, in {spent}"
    return f"{once}; {read} {_trials(cost)}"


def _trials(cost: Cost) -> str:
    if cost.trial_seconds is None:
        return "What all trials together took is not known here."
    return f"All trials together took {wording.seconds(cost.trial_seconds)}, on {cost.device}."
