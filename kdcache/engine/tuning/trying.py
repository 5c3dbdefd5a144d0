"""Try settings of one configuration: run their missing trials, and score them on the held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from kdcache.engine import run_trials
from kdcache.engine.tuning.places import TuningLayout
from kdcache.errors import TrialError
from kdcache.study import Regularizer, Student, Study
from kdcache.study.tuning import Setting, Tuning
from kdcache.system import processes
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.keeping import missing_trials
from kdcache.trials.plan import Planner, TrialPlan
from kdcache.trials.scores import trial_scores
from kdcache.trials.store import Store, run_and_store

Configuration: TypeAlias = tuple[str, str, str]  # task, student, method


@dataclass
class Trying:
    """Tries settings of a study's configurations.

    Args:
        study: tuning's study, see `study_of` and `teachers_as_students`.
        layout: the folders of its trials.
        chosen: what other configurations learn from, here the baseline of Self-KD. It grows as tuning goes on.
    """

    study: Study
    layout: TuningLayout
    store: Store | None
    chosen: dict[Configuration, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._planner = Planner(self.study, self.layout)
        self._tasks: dict[str, PreparedTask] = {}

    def scores(self, configuration: Configuration, settings: Sequence[Setting]) -> list[list[float]]:
        """The scores of each setting, one for each seed. The missing trials of all settings are run together.

        Raises:
            TrialError: trials failed, or the task has no such score.
        """
        plans = self._plans_of(configuration, settings)
        missing = processes.from_main(lambda: self._missing(plans))
        run_trials(missing, run_and_store)
        return processes.from_main(lambda: self._scores(plans))

    def _plans_of(self, configuration: Configuration, settings: Sequence[Setting]) -> list[list[TrialPlan]]:
        """Each setting's trials."""
        return [self._plans(configuration, setting) for setting in settings]

    def _plans(self, configuration: Configuration, setting: Setting) -> list[TrialPlan]:
        settings = {**self.chosen, configuration: setting}
        planner = self._planner.with_values(
            self.study.with_chosen(settings), replace(self.layout, settings=settings)
        )
        return planner.trials(*configuration)

    def _scores(self, plans: Sequence[Sequence[TrialPlan]]) -> list[list[float]]:
        return [[self._score(plan) for plan in of_one] for of_one in plans]

    def _missing(self, plans: Sequence[Sequence[TrialPlan]]) -> list[TrialPlan]:
        return [
            plan
            for of_configuration in plans
            for plan in missing_trials(of_configuration[0].folder.parent, of_configuration, self.store)
        ]

    def _score(self, plan: TrialPlan) -> float:
        if plan.task not in self._tasks:
            self._tasks[plan.task] = PreparedTask(plan.task_folder)
        scores = trial_scores(plan.folder, self._tasks[plan.task])
        metric = self.metric(plan.task)
        if metric not in scores:
            raise TrialError(
                f"tuning.metric: task {plan.task!r} has no score {metric}; it has {', '.join(scores)}"
            )
        return scores[metric]

    def metric(self, task: str) -> str:
        """The metric by which a task's settings are judged."""
        return metric_of(self.study, task)


def metric_of(study: Study, task: str) -> str:
    """The metric by which a task's settings are judged: the declared metric, or by default the task's first."""
    return declared(study).metric or study.tasks[task].metrics[0]


def declared(study: Study) -> Tuning:
    """The study's tuning.

    Raises:
        TrialError: the study has none.
    """
    if study.tuning is None:
        raise TrialError("params.yaml: has no `tuning`, so there is nothing to tune")
    return study.tuning


def study_of(study: Study) -> Study:
    """The study of tuning: the same configurations with tuning's seeds, without looks, and at their declared values.

    It keeps no trained models, even if the study does.
    """
    comparison = study.comparison.model_copy(update={"looks": None})
    students = {name: model.model_copy(update={"keep": "none"}) for name, model in study.students.items()}
    changes = {"seeds": declared(study).seeds, "comparison": comparison, "students": students}
    return study.model_copy(update=changes).with_chosen({})


def teachers_as_students(study: Study) -> Study:
    """The study in which teachers are tuned. Each is a student, and its only method is plain fine-tuning.

    So a teacher's setting is a trial like any other: run beside others, kept in the store, scored on held-out rows.
    """
    baseline = study.comparison.baseline
    students = {
        name: Student(**teacher.model_dump(exclude={"seed", "threads"}, exclude_unset=True))
        for name, teacher in study.teachers.items()
    }
    changes = {
        "students": students,
        "regularizers": {baseline: Regularizer()},
        "distillers": {},
        "tuning": declared(study).of_teachers(baseline),
    }
    return study_of(study).model_copy(update=changes)
