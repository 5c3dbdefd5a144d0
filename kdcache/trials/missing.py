"""What a stage has to make: nothing, where it is there already, the store has it, or the study does not ask for it.

Each function brings a stage's output folder up to date as far as that needs no computing, and returns what is left.
"""

from __future__ import annotations

import logging

from kdcache.hashing import fingerprint
from kdcache.study import Study
from kdcache.trials.keeping import mark_inapplicable, missing_trials, why_cache, why_teach
from kdcache.trials.layout import TEACHER, Layout
from kdcache.trials.plan import CachePlan, Planner, TeacherPlan, TrialPlan
from kdcache.trials.store import Store

log = logging.getLogger(__name__)


def teacher_to_train(
    study: Study, layout: Layout, task: str, teacher: str, store: Store | None = None
) -> TeacherPlan | None:
    """The teacher, when it has to be trained."""
    folder = layout.teacher(task, teacher)
    if not study.applies(study.teachers[teacher], task):
        mark_inapplicable(folder, _why_not("teachers", teacher, task))
        return None
    plan = Planner(study, layout).teacher(task, teacher)
    reason = why_teach(folder, plan.identity)
    if reason and store is not None and store.take("teachers", plan.identity, folder):
        reason = why_teach(folder, plan.identity)
        log.info("%s: %s", folder, f"not used: {reason}" if reason else "the teacher is taken from the store")
    elif not reason:
        log.info("%s: the teacher is there already", folder)
    if reason:
        log.info("%s: training (%s)", folder, reason)
    return plan if reason else None


def cache_to_write(
    study: Study, layout: Layout, task: str, teacher: str, store: Store | None = None
) -> CachePlan | None:
    """The teacher's logits, when they have to be computed."""
    folder = layout.cache(task, teacher)
    if not study.applies(study.teachers[teacher], task):
        mark_inapplicable(folder, _why_not("teachers", teacher, task))
        return None
    plan = Planner(study, layout).cache(task, teacher)
    reason = why_cache(plan)
    if reason and store is not None and store.take("caches", cache_identity(plan), folder):
        reason = why_cache(plan)
        log.info("%s: %s", folder, f"not used: {reason}" if reason else "the logits are taken from the store")
    elif not reason:
        log.info("%s: the logits are there already", folder)
    if reason:
        log.info("%s: computing logits (%s)", folder, reason)
    return plan if reason else None


def cache_identity(plan: CachePlan) -> str:
    """What a folder of logits is stored under: all that its caches are computed from, and its teacher's record."""
    teacher = fingerprint.of_file(plan.teacher_folder / TEACHER)
    caches = {place: prints.model_dump() for place, prints in plan.caches.items()}
    return fingerprint.of_json({"caches": caches, "teacher": teacher})


def trials_to_run(
    study: Study, layout: Layout, task: str, student: str, regularizer: str, store: Store | None = None
) -> list[TrialPlan]:
    """The trials of a configuration that have to be run."""
    folder = layout.configuration(task, student, regularizer)
    if not study.applies(study.students[student], task):
        mark_inapplicable(folder, _why_not("students", student, task))
        return []
    return missing_trials(folder, Planner(study, layout).trials(task, student, regularizer), store)


def _why_not(group: str, name: str, task: str) -> str:
    return f"{group}.{name}.tasks does not list {task!r}"
