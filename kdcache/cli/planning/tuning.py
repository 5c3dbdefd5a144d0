"""What tuning has to run: the trials of every setting, and the teachers that some of them learn from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from kdcache.cli.planning.runs import Job, Run, Size, State
from kdcache.engine.tuning.places import TuningLayout, folder_of
from kdcache.engine.tuning.run import needed_teachers
from kdcache.engine.tuning.search import known_settings
from kdcache.study import Model, Regularizer, Student, Study
from kdcache.study.tuning import Setting, Tuning, applied
from kdcache.trials.layout import LOGITS, RESULT, TEACHER, trial_folder


def tuning_jobs(study: Study, data: Path, sizes: Mapping[str, Size | None]) -> Iterator[Job]:
    """Of each task that is tuned on its teachers, then its students with all their settings and seeds.

    What is there counts as unchecked: whether it still is what is asked for, stage `tune` finds out.

    Args:
        data: the project's data folder.
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
    size: Size | None

    @property
    def held(self) -> int | None:
        """Rows that are held out."""
        return None if self.size is None else round(self.tuning.hold_out * self.size.train)

    def teachers(self) -> Iterator[Job]:
        for task, name in needed_teachers(self.study):
            if task == self.task:
                teacher, folder = self.study.teachers[name], self.layout.cache(task, name)
                state: State = "unchecked" if (folder / TEACHER).is_file() else "missing"
                steps = self._steps(teacher, Regularizer())
                run = Run(state, steps, self._rows(), self._rows(), None, folder)
                yield Job("tuned teacher", task, name, teacher, (run,))

    def students(self) -> Iterator[Job]:
        for name, student in self.study.students.items():
            if self.study.applies(student, self.task):
                yield Job("tuned student", self.task, name, student, tuple(self._trials(name, student)))

    def _trials(self, name: str, student: Student) -> Iterator[Run]:
        for method in self.study.methods():
            settings = known_settings(self.tuning, method)
            folder = self.layout.method(self.task, name, method)
            if settings is None:  # each depends on the scores of those before
                yield from self._unknown(folder, student, method)
            for setting in settings or ():
                for seed in self.tuning.seeds:
                    yield self._trial(
                        trial_folder(folder / folder_of(setting), seed), student, method, setting
                    )

    def _unknown(self, folder: Path, student: Student, method: str) -> Iterator[Run]:
        """As many runs as the budget says, of the space's mean number of epochs."""
        epochs = self.tuning.values(method).get("epochs", [student.epochs])
        setting = {"epochs": max(1, round(fmean(epochs)))}
        there = len(list(folder.glob(f"*/seed-*/{RESULT}")))
        for place in range(self.tuning.budget * len(self.tuning.seeds)):
            run = self._trial(folder / "unknown", student, method, setting)
            yield (
                run if place >= there else Run("unchecked", run.steps, run.predicted, run.kept, None, folder)
            )

    def _trial(self, folder: Path, student: Student, method: str, setting: Setting) -> Run:
        state: State = "unchecked" if (folder / RESULT).is_file() else "missing"
        steps = self._steps(applied(student, setting), self.study.method(method))
        rows = self._rows() if method == self.study.comparison.baseline else self.held
        return Run(state, steps, rows, rows, None, folder / LOGITS)

    def _rows(self) -> int | None:
        """Rows whose logits a teacher or a baseline's trial keeps, views and unlabelled rows not counted."""
        return None if self.size is None or self._documents else self.size.train

    @property
    def _documents(self) -> bool:
        return self.study.tasks[self.task].language_modelling

    def _steps(self, model: Model, method: Regularizer) -> int | None:
        if self.size is None or self.held is None or self._documents:
            return None
        more = self.size.unlabelled if method.unlabelled == "use" else 0
        if more is None:
            return None
        return model.epochs * math.ceil((self.size.train - self.held + more) / model.batch_size)
