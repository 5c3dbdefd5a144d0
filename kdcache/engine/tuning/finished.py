"""The plans of what tuning has finished, found by going through the same search again without running a trial."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kdcache.engine.tuning.places import TuningLayout
from kdcache.engine.tuning.run import needed_teachers, teacher_choices, tune_methods, tune_teachers
from kdcache.engine.tuning.trying import Configuration, Trying, study_of, teachers_as_students
from kdcache.study import Study
from kdcache.study.tuning import Setting
from kdcache.trials.adopt import Finished, finished_models
from kdcache.trials.plan import Planner, TrialPlan
from kdcache.trials.result import read_result


class _Unfinished(Exception):
    """A trial that the search asks for next has not been run."""


@dataclass
class _Reading(Trying):
    """Reads the scores of settings whose trials are finished, whatever code ran them, and collects the trials."""

    trials: list[TrialPlan] = field(default_factory=list)

    def scores(self, configuration: Configuration, settings: Sequence[Setting]) -> list[list[float]]:
        plans = self._plans_of(configuration, settings)
        asked = [plan for of_one in plans for plan in of_one]
        finished = [plan for plan in asked if read_result(plan.folder) is not None]
        self.trials += finished
        if len(finished) < len(asked):
            raise _Unfinished
        return self._scores(plans)


def finished_by_tuning(study: Study, root: Path = Path()) -> Finished:
    """The finished teachers, logits and trials in data/tuning, up to the first trial that is missing.

    Raises:
        KdcacheError: a result cannot be read.
    """
    layout = TuningLayout(root)
    if study.tuning is None or not all(layout.task(task).is_dir() for task in study.tasks):
        return Finished()
    models, trials = Finished(), list[TrialPlan]()
    with suppress(_Unfinished):
        tuned = []
        if study.tuning.teachers is not None:
            reading = _Reading(
                teachers_as_students(study), layout.with_trials(teachers=True), None, trials=trials
            )
            tuned = list(tune_teachers(reading))
        tuning_study = study_of(study).with_chosen({}, teacher_choices(tuned))
        models = finished_models(Planner(tuning_study, layout), needed_teachers(study))
        list(tune_methods(_Reading(tuning_study, layout, None, trials=trials)))
    return models + Finished(trials=trials)
