"""Mistakes that no single entry of params.yaml shows: a teacher that is missing, a metric that a task cannot have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from kdcache.study.models import Student
from kdcache.study.schema import Comparison, Study
from kdcache.study.task import Source


# `study` may lack entries whose own mistakes are in the way; `names` has them all.
def cross_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    yield from _task_mistakes(study, names)
    yield from _teacher_mistakes(study, names)
    yield from _method_mistakes(study, names)
    yield from _regression_mistakes(study)
    yield from _unlabelled_mistakes(study)
    yield from _comparison_mistakes(study, names)
    yield from _stage_name_mistakes(names)


def _task_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    groups: dict[str, dict[str, Any]] = {"teachers": study.teachers, "students": study.students}
    for group, models in groups.items():
        for name, model in models.items():
            for task in model.tasks or []:
                if names["tasks"] and task not in names["tasks"]:
                    yield f"{group}.{name}.tasks: no task {task!r} (there are: {', '.join(names['tasks'])})"


def _teacher_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    known = ", ".join(names["teachers"]) or "none"
    needing = [
        f"distillers.{name}"
        for name, method in study.distillers.items()
        if method.soft_labels == "teacher" and not method.own_teachers
    ]
    for name, student in study.students.items():
        where = f"students.{name}.teacher"
        if needing and not student.teachers:
            yield f"{where}: missing, but {', '.join(needing)} needs a teacher (there are: {known})"
        yield from _unusable_teachers(where, student.teachers, [student], study, names)
    for name, method in study.distillers.items():
        if method.soft_labels == "teacher":
            where, students = f"distillers.{name}.teacher", list(study.students.values())
            yield from _unusable_teachers(where, method.own_teachers, students, study, names)


def _unusable_teachers(
    where: str, teachers: Iterable[str], students: list[Student], study: Study, names: dict[str, list[str]]
) -> Iterator[str]:
    """Teachers that there are not, or that are not for a task which one of the students is for."""
    tasks = [task for task in names["tasks"] if any(study.applies(student, task) for student in students)]
    for teacher in teachers:
        if teacher not in names["teachers"]:
            yield f"{where}: no teacher {teacher!r} (there are: {', '.join(names['teachers']) or 'none'})"
        elif teacher in study.teachers:
            for task in tasks:
                if not study.applies(study.teachers[teacher], task):
                    yield f"{where}: {teacher!r} is not declared for task {task!r}"


def _method_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    for name in names["distillers"]:
        if name in names["regularizers"]:
            yield f"distillers.{name}: the name is also a regularizer's; names must differ"
    for name, method in study.regularizers.items():
        if method.soft_labels in ("teacher", "self"):
            where = f"regularizers.{name}.soft_labels"
            yield f"{where}: {method.soft_labels!r} needs cached logits; move it to distillers"
    for name, method in study.distillers.items():
        if method.soft_labels not in ("teacher", "self"):
            found = repr(method.soft_labels) if method.soft_labels else "none"
            yield f"distillers.{name}.soft_labels: a distiller needs teacher or self, found {found}"


def _regression_mistakes(study: Study) -> Iterator[str]:
    tasks = [name for name, task in study.tasks.items() if task.regression]
    groups = {"regularizers": study.regularizers, "distillers": study.distillers}
    for group, methods in groups.items():
        for name, method in methods.items():
            if tasks and not (method.is_base or method.function or method.divergence == "mse"):
                yield (
                    f"{group}.{name}: task {tasks[0]!r} is a regression (one output), where only base, "
                    "teacher/self soft labels with divergence: mse and an own function are defined"
                )


def _unlabelled_mistakes(study: Study) -> Iterator[str]:
    users = [f"distillers.{name}" for name, method in study.distillers.items() if method.unlabelled == "use"]
    for name, task in study.tasks.items():
        read = isinstance(getattr(task, "source", None), Source)  # or else the task has mistakes of its own
        if users and read and not task.has_unlabelled:
            yield (
                f"tasks.{name}: has no unlabelled rows for {', '.join(users)}; give it `unlabelled: rest` beside "
                "train_size, or its source a split named unlabelled"
            )


def _comparison_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    comparison: Comparison | None = study.comparison  # None in a study that has mistakes there
    if comparison is None:
        return
    where, known = "comparison.baseline", ", ".join(names["regularizers"])
    if comparison.baseline in names["distillers"]:
        yield f"{where}: {comparison.baseline!r} is a distiller; name a regularizer (there are: {known})"
    elif names["regularizers"] and comparison.baseline not in names["regularizers"]:
        yield f"{where}: no regularizer {comparison.baseline!r} (there are: {known})"
    for name, task in study.tasks.items():
        if task.metrics[0] not in comparison.margin:
            yield f"comparison.margin: no margin for {task.metrics[0]!r}, the first metric of task {name!r}"


def _stage_name_mistakes(names: dict[str, list[str]]) -> Iterator[str]:
    """DVC joins a stage's names with '-' and silently drops the second of two that read the same."""
    for last in ("teachers", "regularizers", "distillers"):
        groups = ["tasks", last] if last == "teachers" else ["tasks", "students", last]
        seen: dict[str, tuple[str, ...]] = {}
        for combination in product(*(names[group] for group in groups)):
            stage = "-".join(combination)
            if stage in seen:
                first, second = (" + ".join(parts) for parts in (seen[stage], combination))
                yield f"{', '.join(groups)}: {first} and {second} both become {stage!r}; rename one"
                break
            seen[stage] = combination
