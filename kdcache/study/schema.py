"""The whole of params.yaml: a study, and how it compares its methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from kdcache.study.methods import Regularizer
from kdcache.study.models import Model, Student, Teacher
from kdcache.study.names import Name
from kdcache.study.task import Task
from kdcache.study.values import Metric, Params, Seed
from kdcache.system.quoting import quoted


class Comparison(Params):
    """What was decided before the data: baseline, level, margins, correction and its family."""

    baseline: Name = "base"
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    # in points: accuracy 1.0 is one percentage point
    margin: dict[Metric, Annotated[float, Field(gt=0, le=100)]]
    correction: Literal["holm", "bonferroni", "fdr_bh", "none"] = "holm"
    family: Literal["student", "task", "study"] = "student"


class Study(Params):
    """Everything in params.yaml."""

    seeds: list[Seed] = Field(min_length=1)
    tasks: dict[Name, Task] = Field(min_length=1)
    teachers: dict[Name, Teacher] = Field(default_factory=dict)
    students: dict[Name, Student] = Field(min_length=1)
    regularizers: dict[Name, Regularizer] = Field(min_length=1)
    distillers: dict[Name, Regularizer] = Field(default_factory=dict)
    comparison: Comparison

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"a seed is listed twice: {quoted(seeds)}")
        return seeds

    def applies(self, model: Model, task: str) -> bool:
        """Whether the model is declared for the task (`tasks:` of a teacher or student; default all)."""
        return model.tasks is None or task in model.tasks

    def method(self, name: str) -> Regularizer:
        """The regularizer or distiller of that name."""
        return self.regularizers[name] if name in self.regularizers else self.distillers[name]

    def methods(self) -> dict[str, Regularizer]:
        """Regularizers, then distillers, in the order of the file."""
        return {**self.regularizers, **self.distillers}

    def configurations(self) -> Iterator[tuple[str, str, str]]:
        """(task, student, regularizer) for the whole grid, without the pairs that `tasks:` excludes."""
        for task in self.tasks:
            for student, params in self.students.items():
                if self.applies(params, task):
                    for method in self.methods():
                        yield task, student, method

    def taught(self) -> Iterator[tuple[str, str]]:
        """(task, teacher) for every teacher that is declared for the task."""
        for task in self.tasks:
            for teacher, params in self.teachers.items():
                if self.applies(params, task):
                    yield task, teacher


GROUPS: dict[str, type[Params]] = {
    "tasks": Task,
    "teachers": Teacher,
    "students": Student,
    "regularizers": Regularizer,
    "distillers": Regularizer,
}
