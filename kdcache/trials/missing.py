"""What a stage still has to make: nothing if its output is there already, or in the store.

Each function brings a stage's output folder up to date as far as possible without computing. It returns the plans of
what is left to do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kdcache.errors import TrialError
from kdcache.hashing import fingerprint
from kdcache.study import Study, load_study
from kdcache.system.names import TUNED
from kdcache.trials.keeping import missing_trials, why_cache, why_teach
from kdcache.trials.layout import TEACHER, Layout
from kdcache.trials.plan import CachePlan, Planner, TeacherPlan, TrialPlan
from kdcache.trials.store import Store

log = logging.getLogger(__name__)


def teacher_to_train(
    study: Study, layout: Layout, task: str, teacher: str, store: Store | None = None
) -> TeacherPlan | None:
    """The teacher's plan if it has to be trained, else None.

    Raises:
        TrialError: teachers are tuned, and nothing has been chosen for this one yet.
    """
    if not study.is_teacher_chosen(task, teacher):
        raise _not_tuned(f"teacher {teacher} on {task}")
    folder = layout.teacher(task, teacher)
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
    """The plan of the teacher's logits if they have to be computed, else None."""
    folder = layout.cache(task, teacher)
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
    """The identity of a folder of logits in the store.

    It is a hash of everything that the caches are computed from, of what is kept, and of the teacher's record.
    """
    teacher = fingerprint.of_file(plan.teacher_folder / TEACHER)
    caches = {place: prints.model_dump() for place, prints in plan.caches.items()}
    stored = {"estimate": plan.model.estimate.model_dump()} if plan.language_modelling else {}
    return fingerprint.of_json({"caches": caches, "teacher": teacher, **stored})


def trials_to_run(
    study: Study, layout: Layout, task: str, student: str, regularizer: str, store: Store | None = None
) -> list[TrialPlan]:
    """The trials of a configuration that have to be run, or run again for a model that is to be kept.

    Raises:
        TrialError: the study is tuned, and no setting has been chosen for the configuration yet.
    """
    if not study.is_chosen(task, student, regularizer):
        raise _not_tuned(f"{task} / {student} / {regularizer}")
    folder = layout.configuration(task, student, regularizer)
    return missing_trials(folder, Planner(study, layout).trials(task, student, regularizer), store)


def _not_tuned(name: str) -> TrialError:
    return TrialError(
        f"{TUNED}: has no values for {name} as params.yaml is now; run stage tune (`dvc repro` does)"
    )


def check_still_asked_for(plans: Sequence[TrialPlan | TeacherPlan], layout: Layout) -> None:
    """Refuse if params.yaml, the data or the code changed while a stage ran: DVC would record the new state for it.

    Args:
        plans: the plans that the stage has run.

    Raises:
        TrialError: a plan would have another identity now, or `keep` now says something else about its model. The
            results are kept, under the identity that they were run with.
    """
    planner = Planner(load_study(), layout)
    for plan in plans:
        now = _planned_now(planner, plan)
        if now is None or now.identity != plan.identity or _keeps_model(now) != _keeps_model(plan):
            raise TrialError(
                f"{plan.folder}: params.yaml, the data or the code of {plan.name} was changed while it ran; what was "
                "trained is what was asked for when it began: run again"
            )


def _planned_now(planner: Planner, plan: TrialPlan | TeacherPlan) -> TrialPlan | TeacherPlan | None:
    if isinstance(plan, TeacherPlan):
        known = plan.task in planner.study.tasks and plan.teacher in planner.study.teachers
        return planner.teacher(plan.task, plan.teacher) if known else None
    configuration = plan.task, plan.student, plan.regularizer
    if configuration not in planner.study.configurations():
        return None
    asked_for = plan.seed in planner.study.seeds_of(*configuration)
    return planner.trial(*configuration, plan.seed) if asked_for else None


def _keeps_model(plan: TrialPlan | TeacherPlan) -> bool:
    """Whether the plan keeps a model; a teacher always does."""
    return isinstance(plan, TeacherPlan) or plan.keep_model
