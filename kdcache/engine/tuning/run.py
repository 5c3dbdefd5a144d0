"""Tune a study: the held-out task, its teachers, then each student's methods, the baseline first."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kdcache.engine.teaching import make_cache, make_teacher
from kdcache.engine.tuning.holding_out import hold_out
from kdcache.engine.tuning.places import STUDENT_TRIALS, TEACHER_TRIALS, TuningLayout, folder_of
from kdcache.engine.tuning.search import Tried, best, search
from kdcache.engine.tuning.trying import Configuration, Trying, declared, study_of, teachers_as_students
from kdcache.errors import TrialError
from kdcache.study import Study, load_study
from kdcache.study.schema import Choices, TeacherChoices
from kdcache.study.tuned import asked_for
from kdcache.study.tuning import Setting, in_words
from kdcache.system import processes
from kdcache.system.files import remove
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.keeping import missing_trials
from kdcache.trials.layout import Layout
from kdcache.trials.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """The settings tried for a configuration, in order, and the chosen one's index in `tried`.

    Args:
        metric: the score that chose it.
        teacher: whether this is about a teacher. Its name then stands in place of the student's.
    """

    configuration: Configuration
    tried: list[Tried]
    chosen: int
    metric: str
    teacher: bool = False

    @property
    def setting(self) -> Setting:
        return self.tried[self.chosen].setting


def tune(study: Study, root: Path = Path(), store: Store | None = None) -> list[Tuned]:
    """Bring data/tuning up to date: try the settings of every teacher that is tuned, and of every configuration.

    The results are returned in the study's order, the teachers first.

    Only the train split of the prepared tasks is read. Finished trials stay, so a killed run continues from there.

    Raises:
        KdcacheError: a task is not prepared or has too few rows, a trial failed, or params.yaml was changed meanwhile.
    """
    layout = TuningLayout(root)
    for task in study.tasks:
        processes.from_main(partial(_hold_out, study, Layout(root).task(task), layout.task(task)))
    teachers = _tune_teachers(study, layout, store)
    tuning_study = study_of(study).with_chosen({}, teacher_choices(teachers))
    for task, teacher in needed_teachers(study):
        make_teacher(tuning_study, layout, task, teacher, store)
        make_cache(tuning_study, layout, task, teacher, store)
    trying = Trying(tuning_study, layout, store)
    methods = {one.configuration: one for one in tune_methods(trying)}
    tuned = [*teachers, *(methods[name] for name in study.tuned())]
    if processes.is_main():
        _clear(layout, study, tuned, store)
    if asked_for(load_study(root / "params.yaml")) != asked_for(study):
        raise TrialError(
            "params.yaml was changed while tune ran; what was tried is what was asked for when it began: run again"
        )
    return tuned


def tune_teachers(trying: Trying) -> Iterator[Tuned]:
    """Tune each teacher. `trying` has the study that `teachers_as_students` makes."""
    for name in trying.study.configurations():
        yield replace(_tune_one(trying, name), teacher=True)


def tune_methods(trying: Trying) -> Iterator[Tuned]:
    """Tune each configuration, the baseline first: Self-KD learns from its trials at its chosen setting."""
    baseline = trying.study.comparison.baseline
    for name in sorted(trying.study.tuned(), key=lambda name: name[2] != baseline):
        yield _tune_one(trying, name)


def _tune_one(trying: Trying, name: Configuration) -> Tuned:
    tuning = declared(trying.study).with_metric(trying.metric(name[0]))
    tried = search(tuning, name[2], partial(trying.scores, name))
    metric = trying.metric(name[0])
    tuned = Tuned(name, tried, best(tried, tuning.lower_is_better), metric)
    trying.chosen[name] = tuned.setting
    said = "%s: %s (%s %.4g, the best of %d settings)"  # kdcache.repro.progress looks for such lines
    chosen = tried[tuned.chosen]
    log.info(said, " / ".join(name), in_words(tuned.setting), metric, chosen.mean, len(tried))
    return tuned


def choices(tuned: Sequence[Tuned]) -> Choices:
    """The chosen setting of each configuration."""
    return {choice.configuration: choice.setting for choice in tuned if not choice.teacher}


def teacher_choices(tuned: Sequence[Tuned]) -> TeacherChoices:
    """The chosen setting of each teacher."""
    return {choice.configuration[:2]: choice.setting for choice in tuned if choice.teacher}


def needed_teachers(study: Study) -> list[tuple[str, str]]:
    """(task, teacher) for every teacher that a tuned configuration learns from, in the order of the study."""
    needed = {
        (task, teacher)
        for task, student, method in study.tuned()
        for teacher in study.method(method).teachers_of(study.students[student])
    }
    return [pair for pair in study.taught() if pair in needed]


def _hold_out(study: Study, prepared: Path, folder: Path) -> None:
    tuning = declared(study)
    card = hold_out(PreparedTask(prepared), folder, tuning.hold_out, tuning.seed)
    if tuning.metric == "f1" and card.classes != 2:  # before any trial runs
        raise TrialError(
            f"tuning.metric: f1 is for two classes, task {card.name!r} has {card.classes}; use macro_f1"
        )


def _tune_teachers(study: Study, layout: TuningLayout, store: Store | None) -> list[Tuned]:
    """Tune every teacher on every task that it is for; no teacher if params.yaml does not ask for it."""
    if declared(study).teachers is None:
        return []
    return list(tune_teachers(Trying(teachers_as_students(study), layout.with_trials(teachers=True), store)))


def _clear(layout: TuningLayout, study: Study, tuned: Sequence[Tuned], store: Store | None) -> None:
    """Remove results that are no longer asked for. Their trials stay in the store."""
    asked = {layout.task(task) for task in study.tasks}
    for task, teacher in needed_teachers(study):
        asked |= {layout.teacher(task, teacher), layout.cache(task, teacher)}
    for choice in tuned:
        folder = layout.with_trials(choice.teacher).method(*choice.configuration)
        asked |= {folder / folder_of(tried.setting) for tried in choice.tried}
    for folder in _outputs(layout.data):
        if folder not in asked and folder.is_dir():
            log.info("%s: removed (no longer asked for)", folder)
            if folder.relative_to(layout.data).parts[0] in (STUDENT_TRIALS, TEACHER_TRIALS):
                missing_trials(folder, [], store)
            shutil.rmtree(folder)
        elif folder not in asked:
            remove(folder)


def _outputs(data: Path) -> list[Path]:
    """The folders of tuning that are each made as a whole: a task, a teacher, its logits, a setting's trials."""
    depths = {
        "tasks": "*",
        "teachers": "*/*",
        "logits": "*/*",
        STUDENT_TRIALS: "*/*/*/*",
        TEACHER_TRIALS: "*/*/*/*",
    }
    return [path for kind, depth in depths.items() for path in sorted((data / kind).glob(depth))]
