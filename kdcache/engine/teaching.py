"""Make a teacher, or its logits, if they are missing. This takes its share of the machine's places."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

from kdcache.engine import slots, worker_count
from kdcache.engine.resources import share_cores
from kdcache.study import Study, Teacher
from kdcache.system import processes
from kdcache.trials.layout import Layout
from kdcache.trials.missing import cache_identity, cache_to_write, teacher_to_train
from kdcache.trials.plan import TeacherPlan
from kdcache.trials.store import Store

log = logging.getLogger(__name__)


def make_teacher(
    study: Study, layout: Layout, task: str, name: str, store: Store | None
) -> TeacherPlan | None:
    """Fine-tune a teacher on a prepared task, unless it is there or in the store. Return the plan if it was trained."""
    plan = processes.from_main(lambda: teacher_to_train(study, layout, task, name, store))
    if plan is None:
        return None
    from kdcache.trials.teach import teach  # imports torch: not before there is work

    share_cores()
    with _hold_places(plan.model):
        result = teach(plan)
    if store is not None and processes.is_main():
        store.put_if_possible("teachers", plan.identity, plan.folder)
    log.info("%s: validation %s", plan.folder, result["metrics"])
    return plan


def make_cache(study: Study, layout: Layout, task: str, name: str, store: Store | None) -> None:
    """Compute a fine-tuned teacher's logits, unless they are there or in the store."""
    plan = processes.from_main(lambda: cache_to_write(study, layout, task, name, store))
    if plan is None:
        return
    from kdcache.trials.cache import cache_logits  # imports torch: not before there is work

    share_cores()
    with _hold_places(plan.model):
        cache_logits(plan)
    if store is not None and processes.is_main():
        store.put_if_possible("caches", cache_identity(plan), plan.folder)


def _hold_places(teacher: Teacher) -> AbstractContextManager[None]:
    """Hold a place for each thread of the teacher. With a GPU, hold all places: it may need the GPU's whole memory."""
    import torch

    if torch.cuda.is_available():
        return slots.hold_all()
    return slots.hold_some(teacher.threads, worker_count())
