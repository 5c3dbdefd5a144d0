"""The whole of params.yaml: a study, and how it compares its methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, PrivateAttr, field_validator

from kdcache.errors import ComparisonError
from kdcache.study.looks import check_declared, shares_of
from kdcache.study.methods import Regularizer
from kdcache.study.metrics import Metric, Unit, unit_of
from kdcache.study.models import Model, Student, Teacher
from kdcache.study.names import Name
from kdcache.study.seeds import MOST_SEEDS, as_many, in_short, listed
from kdcache.study.task import Task
from kdcache.study.tuning import Setting, Tuning, applied
from kdcache.study.values import Params, Seed, Share
from kdcache.system.quoting import quoted

SeedCounts: TypeAlias = Mapping[str, Mapping[str, Mapping[str, int]]]  # by task, student and method
Choices: TypeAlias = Mapping[tuple[str, str, str], Setting]  # chosen setting by (task, student, method)
TeacherChoices: TypeAlias = Mapping[tuple[str, str], Setting]  # chosen setting by (task, teacher)


class Comparison(Params):
    """The decisions made before the data are seen: baseline, level, margins, correction and its family."""

    baseline: Name = "base"
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    # in the metric's unit (see kdcache.study.metrics): accuracy 1.0 is one percentage point, nll 0.01 is 0.01 nats
    margin: dict[Metric, Annotated[float, Field(gt=0, le=100)]]
    correction: Literal["holm", "bonferroni", "fdr_bh", "none"] = "holm"
    family: Literal["student", "task", "study"] = "student"
    # numbers of seeds after which a study is judged, see kdcache.statistics.looks; None: once, with all seeds
    looks: list[Annotated[int, Field(ge=2, le=MOST_SEEDS)]] | None = Field(default=None, min_length=1)
    spend: Literal["linear", "late"] | list[Share] = "linear"
    boundaries: Literal["split", "exact"] = "split"
    stop_hopeless: Annotated[float, Field(ge=0, lt=1)] = 0.1
    settle: Literal["verdicts", "claims"] = "verdicts"

    def _mistakes(self) -> Iterator[str]:
        if self.looks is None:
            only = sorted(self.model_fields_set & {"spend", "boundaries", "stop_hopeless", "settle"})
            if only:
                yield f"{', '.join(only)}: for studies with looks only; declare looks, such as [5, 10, 20, 40]"
            return
        try:
            shares = shares_of(self.spend, self.looks)
            check_declared(self.looks, shares, self.correction, self.boundaries == "exact")
        except ComparisonError as error:
            yield str(error)


class Study(Params):
    """Everything in params.yaml."""

    seeds: list[Seed] = Field(min_length=1)
    tasks: dict[Name, Task] = Field(min_length=1)
    teachers: dict[Name, Teacher] = Field(default_factory=dict)
    students: dict[Name, Student] = Field(min_length=1)
    regularizers: dict[Name, Regularizer] = Field(min_length=1)
    distillers: dict[Name, Regularizer] = Field(default_factory=dict)
    comparison: Comparison
    tuning: Tuning | None = None
    _counts: SeedCounts = PrivateAttr(default_factory=dict)
    _chosen: Choices = PrivateAttr(default_factory=dict)
    _chosen_teachers: TeacherChoices = PrivateAttr(default_factory=dict)
    _declared: Sequence[Mapping[str, Any]] = PrivateAttr(default=())

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, seeds: object) -> object:
        return listed(seeds)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"a seed is listed twice: {quoted(seeds)}")
        return seeds

    def _mistakes(self) -> Iterator[str]:
        looks = self.comparison.looks
        if looks is not None and len(self.seeds) != looks[-1]:
            right = as_many(self.seeds, looks[-1])
            yield f"seeds: {len(self.seeds)}, but the last look has {looks[-1]}; {right}"

    @property
    def looks(self) -> list[int]:
        """After how many seeds comparisons are judged: the declared looks, or one look with all seeds."""
        return self.comparison.looks or [len(self.seeds)]

    def with_settled(self, counts: SeedCounts, declared: Sequence[Mapping[str, Any]] = ()) -> Self:
        """The study with settle.json's number of seeds for each configuration; see `seeds_of`.

        Args:
            declared: the declarations that the study was judged by so far, oldest first.
        """
        study = self.model_copy()
        study._counts, study._declared = counts, declared
        return study

    def with_chosen(self, choices: Choices, teachers: TeacherChoices | None = None) -> Self:
        """The study with the chosen values in place of the declared ones; see `as_tuned` and `teacher`."""
        study = self.model_copy()
        study._chosen, study._chosen_teachers = choices, teachers or {}
        return study

    def is_chosen(self, task: str, student: str, regularizer: str) -> bool:
        """Whether tuning has chosen a configuration's setting; true if no method is tuned."""
        name = task, student, regularizer
        return name in self._chosen or name not in self.tuned()

    def tuned(self) -> list[tuple[str, str, str]]:
        """The configurations that are tuned: all of them, or none where `tuning` has no space for methods."""
        return list(self.configurations()) if self.tuning is not None and self.tuning.space else []

    def tuning_trials(self) -> int:
        """How many trials choose the settings of methods and teachers."""
        if self.tuning is None:
            return 0
        of_teachers = self.tuning.of_teachers(self.comparison.baseline)
        settings = len(self.tuned()) * self.tuning.budget
        if of_teachers is not None:
            points = of_teachers.points(self.comparison.baseline)
            settings += len(list(self.taught())) * min(points, self.tuning.budget)
        return settings * len(self.tuning.seeds)

    def is_teacher_chosen(self, task: str, name: str) -> bool:
        """Whether tuning has chosen a teacher's setting; true if no teacher is tuned."""
        tuned = self.tuning is not None and self.tuning.teachers is not None
        return not tuned or (task, name) in self._chosen_teachers

    def teacher(self, task: str, name: str) -> Teacher:
        """A teacher on a task, with the values that were chosen for it, if any were."""
        return applied(self.teachers[name], self._chosen_teachers.get((task, name), {}))

    def as_tuned(self, task: str, student: str, regularizer: str) -> tuple[Student, Regularizer]:
        """The student and the method of a configuration, with the chosen values if there are any."""
        setting = self._chosen.get((task, student, regularizer), {})
        return applied(self.students[student], setting), applied(self.method(regularizer), setting)

    @property
    def declarations(self) -> list[Mapping[str, Any]]:
        """The declarations that the study was judged by so far, and its present one last. A declaration is the part of
        params.yaml that has to be decided before the trials.

        More than one means that it was changed after trials had been judged; error rates then hold for none of them.
        `settle` may be changed at any time: it decides which looks are taken, not how they are judged.
        """
        now = {"seeds": in_short(self.seeds), **self.comparison.model_dump(mode="json")}
        others = (declared for declared in self._declared if {**declared, "settle": now["settle"]} != now)
        return [*others, now]

    def seeds_of(self, task: str, student: str, regularizer: str) -> list[int]:
        """The seeds that a configuration has now: all of them, or in a study with looks the first few.

        settle.json says how many; without it, the first look's number. A baseline has as many seeds as any method of
        its student, since each method is compared with it seed by seed.
        """
        if self.comparison.looks is None:
            return self.seeds
        of_student = self._counts.get(task, {}).get(student, {})
        names = self.methods() if regularizer == self.comparison.baseline else [regularizer]
        return self.seeds[: max(of_student.get(name, self.looks[0]) for name in names)]

    def all_trials(self) -> Iterator[tuple[str, str, str, int]]:
        """(task, student, regularizer, seed) of every trial that the study asks for now, in the order of the file."""
        for configuration in self.configurations():
            for seed in self.seeds_of(*configuration):
                yield (*configuration, seed)

    @property
    def unit(self) -> Unit:
        """The unit in which differences are judged, which is the same for all tasks."""
        return unit_of(next(iter(self.tasks.values())).metrics[0])

    def applies(self, model: Model, task: str) -> bool:
        """Whether the model is declared for the task (`tasks:` of a teacher or student; default all)."""
        return model.tasks is None or task in model.tasks

    def method(self, name: str) -> Regularizer:
        """The regularizer or distiller of that name."""
        return self.regularizers[name] if name in self.regularizers else self.distillers[name]

    def methods(self) -> dict[str, Regularizer]:
        """Regularizers, then distillers, in the order of the file."""
        return {**self.regularizers, **self.distillers}

    @property
    def learns_from_baselines(self) -> bool:
        """Whether Self-KD learns from the baselines' own outputs."""
        return any(method.soft_labels == "self" for method in self.methods().values())

    def configurations(self) -> Iterator[tuple[str, str, str]]:
        """(task, student, regularizer) of the whole grid, without pairs of task and student that `tasks:` excludes."""
        for task in self.tasks:
            for student, params in self.students.items():
                if self.applies(params, task):
                    for method in self.methods():
                        yield task, student, method

    def taught(self) -> Iterator[tuple[str, str]]:
        """(task, teacher) for every task and every teacher declared for it."""
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
