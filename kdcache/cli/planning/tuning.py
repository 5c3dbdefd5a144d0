"""What tuning has to run: the trials of every setting, and the teachers that students learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from kdcache.cli.planning.runs import Job, Run, Size, State
from kdcache.engine.tuning.places import TuningLayout, folder_of
from kdcache.engine.tuning.run import needed_teachers
from kdcache.engine.tuning.search import known_settings
from kdcache.study import Model, Regularizer, Study, Teacher
from kdcache.study.tuning import Tuning, applied
from kdcache.trials.layout import LOGITS, RESULT, TEACHER, trial_folder


def tuning_jobs(
    study: Study, data: Path, sizes: Mapping[str, Callable[[Model], Size | None]]
) -> Iterator[Job]:
    """For each tuned task: its teachers, then its students with all their settings and seeds.

    Existing results count as unchecked: only stage `tune` finds out whether they are still valid.

    Args:
        data: the project's data folder.
        sizes: for each task, a function that gives its numbers in the rows that a model takes.
    """
    if study.tuning is None:
        return
    for task in study.tasks:
        lookup = _Lookup(study, study.tuning, TuningLayout(data.parent), task, sizes[task])
        yield from lookup.teachers()
        yield from lookup.students()


@dataclass(frozen=True)
class _Lookup:
    study: Study
    tuning: Tuning
    layout: TuningLayout
    task: str
    size_for: Callable[[Model], Size | None]

    def _held(self, size: Size) -> int:
        """The number of held-out rows. For documents: about as many sequences."""
        return round(self.tuning.hold_out * size.train)

    def teachers(self) -> Iterator[Job]:
        """For each teacher, the runs of its settings, and its own run if students learn from it."""
        for name, teacher in self.study.teachers.items():
            runs = [*self._tried_of_teacher(name, teacher), *self._taught(name)]
            if runs:
                yield Job("tuned teacher", self.task, name, teacher, tuple(runs))

    def _tried_of_teacher(self, name: str, teacher: Teacher) -> Iterator[Run]:
        tuning = self.tuning.of_teachers(self.study.comparison.baseline)
        if tuning is not None and self.study.applies(teacher, self.task):
            lookup = replace(self, tuning=tuning, layout=self.layout.with_trials(teachers=True))
            yield from lookup._settings(name, teacher, self.study.comparison.baseline, Regularizer())

    def _taught(self, name: str) -> Iterator[Run]:
        if (self.task, name) in needed_teachers(self.study):
            folder = self.layout.cache(self.task, name)
            state: State = "unchecked" if (folder / TEACHER).is_file() else "missing"
            teacher = self.study.teacher(self.task, name)
            size, steps = self.size_for(teacher), self._steps(teacher, Regularizer())
            rows = None if size is None else size.train  # without views and unlabelled rows
            yield Run(
                state, steps, rows, None if size is None else size.cache_bytes(size.train), None, folder
            )

    def students(self) -> Iterator[Job]:
        for name, student in self.study.students.items() if self.tuning.space else ():
            if self.study.applies(student, self.task):
                methods = self.study.methods().items()
                runs = (run for method in methods for run in self._settings(name, student, *method))
                yield Job("tuned student", self.task, name, student, tuple(runs))

    def _settings(self, name: str, model: Model, method: str, how: Regularizer) -> Iterator[Run]:
        """The runs of all settings that a model tries with a method."""
        settings = known_settings(self.tuning, method)
        folder = self.layout.method(self.task, name, method)
        if settings is None:  # each setting depends on the scores of those before
            yield from self._unknown(folder, model, method, how)
        for setting in settings or ():
            for seed in self.tuning.seeds:
                place = trial_folder(folder / folder_of(setting), seed)
                yield self._trial(place, applied(model, setting), method, how)

    def _unknown(self, folder: Path, model: Model, method: str, how: Regularizer) -> Iterator[Run]:
        """As many runs as the budget says, with the space's mean number of epochs."""
        epochs = self.tuning.values(method).get("epochs", [model.epochs])
        run = self._trial(
            folder / "unknown", applied(model, {"epochs": max(1, round(fmean(epochs)))}), method, how
        )
        existing = len(list(folder.glob(f"*/seed-*/{RESULT}")))
        for place in range(self.tuning.budget * len(self.tuning.seeds)):
            yield run if place >= existing else replace(run, state="unchecked", logits=folder)

    def _trial(self, folder: Path, model: Model, method: str, how: Regularizer) -> Run:
        state: State = "unchecked" if (folder / RESULT).is_file() else "missing"
        predicted, kept = self._outputs(model, is_baseline=method == self.study.comparison.baseline)
        return Run(state, self._steps(model, how), predicted, kept, None, folder / LOGITS)

    def _outputs(self, model: Model, is_baseline: bool) -> tuple[int | None, int | None]:
        """How many rows a trial predicts, and how many bytes of them it keeps, without views and unlabelled rows."""
        size = self.size_for(model)
        if size is None:
            return None, None
        held = self._held(size)
        documents = self.study.tasks[self.task].language_modelling
        keeps_train = is_baseline and (not documents or self.study.learns_from_baselines)
        train = size.train - held if keeps_train else 0
        return train + held, size.trial_bytes(train, held)

    def _steps(self, model: Model, method: Regularizer) -> int | None:
        size = self.size_for(model)
        if size is None:
            return None
        more = size.unlabelled if method.unlabelled == "use" else 0
        if more is None:
            return None
        return model.epochs * math.ceil((size.train - self._held(size) + more) / model.batch_size)
