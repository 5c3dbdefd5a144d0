"""A study's plans: its teachers, their caches and its trials, each with its identity and all that is needed to run it.

Nothing here imports torch, so that a stage with nothing to do ends at once.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.checkpoints.faithful import check_faithful
from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import TrialError
from kdcache.logits import Fingerprints
from kdcache.study import Model, Regularizer, Student, Study, Teacher
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.identity import (
    Parts,
    common_parts,
    content_of,
    identity_of,
    learned_from,
    left_out,
    teacher_caches,
    training_parts,
)
from kdcache.trials.layout import LOGITS, TEACHER, Layout


@dataclass(frozen=True)
class TrialPlan:
    """Everything a worker needs to run one trial; small, and safe to send to another process."""

    folder: Path
    identity: str
    task: str
    task_folder: Path
    data: str  # the prepared task's fingerprint
    student: str
    model: Student
    regularizer: str
    method: Regularizer
    seed: int
    soft_labels: tuple[Path, ...]  # logit caches to learn from; if there are several, they are averaged
    keep_train_logits: bool
    evaluated: tuple[str, ...] = ("validation",)  # the splits to score, see TaskCard
    keep_views: bool = False  # keep the logits of every augmented view too, beside the train logits
    parts: Parts = field(default_factory=dict)  # the parts of the identity
    keep_model: bool = False  # keep the trained model; not part of the identity
    language_modelling: bool = False  # the rows are documents: keep likelihoods, and learn from distributions

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose logits the trial keeps."""
        return ("train", *self.evaluated) if self.keep_train_logits else self.evaluated

    @property
    def name(self) -> str:
        return f"{self.task} / {self.student} / {self.regularizer} / seed {self.seed}"

    @property
    def described(self) -> dict[str, Any]:
        """What result.json says of the plan: its names, places and parameters. The identity has no names."""
        return {
            "task": self.task,
            "student": self.student,
            "init": self.model.init,
            "checkpoint": self.model.checkpoint,
            "layers": self.model.layers,
            "teacher": self.method.teacher_name(self.model),
            "regularizer": self.regularizer,
            "seed": self.seed,
            "params": {
                "student": self.model.model_dump(exclude={"keep", "cache"}),
                "regularizer": self.method.model_dump(exclude=left_out(self.method)),
            },
        }


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher to be fine-tuned."""

    folder: Path
    identity: str
    task: str
    task_folder: Path
    data: str
    teacher: str
    model: Teacher
    parts: Parts = field(default_factory=dict)
    language_modelling: bool = False

    @property
    def name(self) -> str:
        return f"{self.task} / teacher {self.teacher}"


@dataclass(frozen=True)
class CachePlan:
    """A fine-tuned teacher's logits to be cached."""

    folder: Path
    task: str
    task_folder: Path
    teacher: str
    model: Teacher  # the teacher after training: its checkpoint is the trained model
    teacher_folder: Path
    caches: dict[str, Fingerprints]  # by place in the folder, see `teacher_caches`
    language_modelling: bool = False

    @property
    def name(self) -> str:
        return f"{self.task} / logits of {self.teacher}"


class Planner:
    """Makes the plans of a study. Tasks, checkpoints and code are read and hashed only once."""

    def __init__(self, study: Study, layout: Layout) -> None:
        self.study, self.layout = study, layout
        self._tasks: dict[str, PreparedTask] = {}
        self._checkpoints: dict[tuple[Any, ...], Checkpoint] = {}
        self._common: dict[tuple[str, Model, str | None], Parts] = {}
        self._contents: dict[Path, str] = {}

    def with_values(self, study: Study, layout: Layout) -> Planner:
        """A planner for the same tasks and models with other values or folders. It shares what was already read."""
        planner = copy(self)
        planner.study, planner.layout = study, layout
        return planner

    def teacher(self, task: str, name: str) -> TeacherPlan:
        """A teacher's plan.

        Raises:
            KdcacheError: the task is not prepared, or the checkpoint cannot be found or used as it was made.
        """
        model = self.study.teacher(task, name)
        parts = training_parts(self._common_parts(task, model), Regularizer(), model.seed)
        return TeacherPlan(
            folder=self.layout.teacher(task, name),
            identity=identity_of(parts),
            task=task,
            task_folder=self.layout.task(task),
            data=self._task(task).card.fingerprint,
            teacher=name,
            model=model,
            parts=parts,
            language_modelling=self._task(task).card.language_modelling,
        )

    def cache(self, task: str, name: str) -> CachePlan:
        """The plan of a teacher's logits.

        Raises:
            KdcacheError: the task is not prepared, or the teacher is not finished.
        """
        taught = self.layout.teacher(task, name)
        trained = trained_teacher(self.study.teacher(task, name), taught)
        checkpoint = find_checkpoint(trained)
        card = self._task(task).card
        caches = teacher_caches(card, checkpoint, checkpoint.weights)
        place = self.layout.cache(task, name), task, self.layout.task(task)
        return CachePlan(*place, name, trained, taught, caches, card.language_modelling)

    def trials(self, task: str, student: str, regularizer: str) -> list[TrialPlan]:
        """A plan for each seed that the configuration has now.

        Raises:
            KdcacheError: the task is not prepared, the checkpoint cannot be found or used as it was made, or logits to
                learn from are missing.
        """
        return [
            self.trial(task, student, regularizer, seed)
            for seed in self.study.seeds_of(task, student, regularizer)
        ]

    def trial(self, task: str, student: str, regularizer: str, seed: int) -> TrialPlan:
        """The plan of one seed, as in `trials`. For a Self-KD trial, only that seed's baseline needs to be finished."""
        model, method = self.study.as_tuned(task, student, regularizer)
        soft_labels = self._soft_labels(task, student, regularizer, seed)
        contents = [self._content(folder) for folder in learned_from(soft_labels, method)]
        parts = training_parts(self._common_parts(task, model, method.function), method, seed, *contents)
        card = self._task(task).card
        is_baseline = regularizer == self.study.comparison.baseline
        return TrialPlan(
            folder=self.layout.trial(task, student, regularizer, seed),
            identity=identity_of(parts),
            task=task,
            task_folder=self.layout.task(task),
            data=card.fingerprint,
            student=student,
            model=model,
            regularizer=regularizer,
            method=method,
            seed=seed,
            soft_labels=soft_labels,
            keep_train_logits=is_baseline
            and (self.study.learns_from_baselines or not card.language_modelling),
            evaluated=card.evaluated,
            keep_views=is_baseline and card.augment is not None,
            parts=parts,
            keep_model=model.keeps(seed),
            language_modelling=card.language_modelling,
        )

    def _soft_labels(self, task: str, student: str, regularizer: str, seed: int) -> tuple[Path, ...]:
        """The caches that a distiller learns from: its teachers', or (Self-KD) that of the seed's baseline trial."""
        method = self.study.method(regularizer)
        if method.soft_labels == "self":
            return (self.layout.trial(task, student, self.study.comparison.baseline, seed) / LOGITS,)
        teachers = method.teachers_of(self.study.students[student])
        return tuple(self.layout.cache(task, teacher) for teacher in teachers)

    def _content(self, folder: Path) -> str:
        if folder not in self._contents:
            self._contents[folder] = content_of(folder)
        return self._contents[folder]

    def _common_parts(self, task: str, model: Model, function: str | None = None) -> Parts:
        key = (task, model, function)
        if key not in self._common:
            checkpoint, card = self._checkpoint(model), self._task(task).card
            check_faithful(checkpoint, model, card)
            self._common[key] = common_parts(card, checkpoint, model, function)
        return self._common[key]

    def _task(self, task: str) -> PreparedTask:
        if task not in self._tasks:
            self._tasks[task] = PreparedTask(self.layout.task(task))
        return self._tasks[task]

    def _checkpoint(self, model: Model) -> Checkpoint:
        start = (model.checkpoint, model.revision, model.init, model.layers)  # the recipe does not matter
        if start not in self._checkpoints:
            self._checkpoints[start] = find_checkpoint(model)
        return self._checkpoints[start]


def plain_trial(folder: Path, task_folder: Path, name: str, model: Student, seed: int) -> TrialPlan:
    """The plan of a plain fine-tuning trial outside any study.

    Args:
        name: the student's name, for messages.

    Raises:
        KdcacheError: the task is not prepared, or the checkpoint cannot be found or used as it was made.
    """
    card = PreparedTask(task_folder).card
    checkpoint = find_checkpoint(model)
    check_faithful(checkpoint, model, card)
    common = common_parts(card, checkpoint, model)
    parts = training_parts(common, Regularizer(), seed)
    return TrialPlan(
        folder=folder,
        identity=identity_of(parts),
        task=card.name,
        task_folder=task_folder,
        data=card.fingerprint,
        student=name,
        model=model,
        regularizer="base",
        method=Regularizer(),
        seed=seed,
        soft_labels=(),
        keep_train_logits=False,
        evaluated=card.evaluated,
        parts=parts,
        language_modelling=card.language_modelling,
    )


def trained_teacher(teacher: Teacher, folder: Path) -> Teacher:
    """The teacher after training: its checkpoint is the folder of the trained model.

    Raises:
        TrialError: the folder holds no finished teacher.
    """
    if not (folder / TEACHER).is_file():
        raise TrialError(
            f"{folder}: no {TEACHER}, so there is no finished teacher; run stage teach (`dvc repro` does)"
        )
    start = {"checkpoint": str(folder), "revision": None, "init": "pretrained", "layers": None}
    return teacher.model_copy(update=start)
