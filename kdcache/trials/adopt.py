"""Prove that a refactoring changed no result, and give finished results the identity of the present code.

A sample of the finished teachers, caches and trials is run again in a temporary folder. All results are stamped with
the new identity only if every loss and every logit of the sample is the same, bit for bit. Only the code may differ:
other data, weights, parameters or library versions are refused.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdcache.errors import TrialError
from kdcache.logits.opening import read_manifest
from kdcache.study import Study
from kdcache.system.locks import exclusive
from kdcache.system.versions import LEARNING, installed
from kdcache.trials.layout import TEACHER, Layout
from kdcache.trials.missing import cache_identity
from kdcache.trials.plan import CachePlan, Planner, TeacherPlan, TrialPlan
from kdcache.trials.result import finished_result, read_result, read_teacher
from kdcache.trials.same import RunAll, check_same
from kdcache.trials.stamp import stamp_cache, stamp_teacher, stamp_trial
from kdcache.trials.store import Store

log = logging.getLogger(__name__)

CODE = ("code", "function")  # the parts of an identity that may differ
P = TypeVar("P", TeacherPlan, TrialPlan)  # plans of trainings


@dataclass(frozen=True)
class Adoption:
    """What `adopt` did: how many trainings it ran again, and how many results got a new identity."""

    checked: int
    teachers: int
    caches: int
    trials: int


@dataclass(frozen=True)
class Finished:
    """The plans of finished results."""

    teachers: Sequence[TeacherPlan] = ()
    caches: Sequence[CachePlan] = ()
    trials: Sequence[TrialPlan] = ()

    @property
    def trainings(self) -> int:
        return len(self.teachers) + len(self.trials)

    def __add__(self, other: Finished) -> Finished:
        return Finished(
            [*self.teachers, *other.teachers],
            [*self.caches, *other.caches],
            [*self.trials, *other.trials],
        )


NOTHING = Finished()


def adopt(
    study: Study,
    layout: Layout,
    run: RunAll,
    sample: int = 8,
    seed: int = 0,
    store: Store | None = None,
    besides: Finished = NOTHING,
) -> Adoption:
    """Stamp a study's finished results with the identity of the present code, if that code computes the same values.

    Args:
        run: runs trials, as `kdcache.engine.run_trials` does.
        sample: the smallest number of trials that are run again. The sample has every task, model family and method.
            A teacher of every task and family is run again too, with its logits.
        seed: decides which trials are drawn.
        store: teachers, caches and trials are put there under their new identities.
        besides: finished results that are not the study's own, such as those of its tuning. No other process may write
            to their folders meanwhile.

    Raises:
        TrialError: something other than the code differs, or a value differs (the first is named). Nothing is stamped.
    """
    with ExitStack() as held:
        for folder in _output_folders(study, layout):
            held.enter_context(exclusive(folder))
        planner = Planner(study, layout)
        of_study = finished_models(planner, study.taught()) + Finished(trials=_finished_trials(planner))
        finished = _by_other_code(of_study + besides)
        drawn = random.Random(seed)
        teachers = _sample(finished.teachers, _teacher_kinds, 0, drawn)
        trials = _sample(finished.trials, _trial_kinds, sample, drawn)
        taught = {(plan.task, plan.teacher) for plan in teachers}
        caches = [plan for plan in finished.caches if (plan.task, plan.teacher) in taught]
        if not teachers:
            caches = list(finished.caches[:1])
        check_same(teachers, caches, trials, run)
        checked = len(teachers) + len(trials)
        _stamp(finished, checked, store)
    return Adoption(checked, len(finished.teachers), len(finished.caches), len(finished.trials))


def _output_folders(study: Study, layout: Layout) -> Iterable[Path]:
    for task, teacher in study.taught():
        yield layout.teacher(task, teacher)
        yield layout.cache(task, teacher)
    for configuration in study.configurations():
        yield layout.configuration(*configuration)


# ---- the finished results ----


def finished_models(planner: Planner, names: Iterable[tuple[str, str]]) -> Finished:
    """Those of these teachers (task, teacher) that are finished, with their logits."""
    layout = planner.layout
    done = [name for name in names if (layout.teacher(*name) / TEACHER).is_file()]
    caches = [planner.cache(*name) for name in done if layout.cache(*name).is_dir()]
    return Finished([planner.teacher(*name) for name in done], caches)


def _finished_trials(planner: Planner) -> list[TrialPlan]:
    return [
        planner.trial(*name, seed)
        for name in planner.study.configurations()
        for seed in planner.study.seeds_of(*name)
        if read_result(planner.layout.trial(*name, seed)) is not None
    ]


def _by_other_code(finished: Finished) -> Finished:
    """The results whose identity differs in the code.

    Raises:
        TrialError: a result differs in anything else.
    """
    return Finished(
        [plan for plan in finished.teachers if _differs_in_code(plan, read_teacher(plan.folder))],
        [plan for plan in finished.caches if _cached_by_other_code(plan)],
        [
            plan
            for plan in finished.trials
            if _differs_in_code(plan, finished_result(plan.folder).model_dump())
        ],
    )


def _differs_in_code(plan: TeacherPlan | TrialPlan, kept: Mapping[str, Any]) -> bool:
    name, folder, planned, parts = plan.name, plan.folder, plan.parts, kept.get("parts")
    if not parts or not isinstance(parts.get("code"), str):
        raise TrialError(
            f"{folder}: {name} was made by kdcache 0.1, which did not say what its identity is made of; run it again"
        )
    different = [key for key in planned if parts.get(key) != planned[key]]
    others = [key for key in different if key not in CODE]
    if others:
        facts = "; ".join(f"{key}: kept {parts.get(key)!s:.80}, now {planned[key]!s:.80}" for key in others)
        raise TrialError(
            f"{folder}: more than the code of {name} differs ({facts}); `dvc repro` runs it again"
        )
    versions = kept.get("versions") or {}
    now = installed({*LEARNING, *versions})  # also peft's version, if a result needed peft
    if different and versions != now:
        raise TrialError(
            f"{folder}: only the code may differ, but {name} was made with {versions}, and {now} are installed"
        )
    return bool(different)


def _cached_by_other_code(plan: CachePlan) -> bool:
    different = False
    for place, prints in plan.caches.items():
        kept = read_manifest(plan.folder / place).fingerprints
        others = {name for name, value in prints.model_dump().items() if getattr(kept, name) != value}
        if others - {"code"}:
            raise TrialError(
                f"{plan.folder / place}: more than the code of these logits differs: {', '.join(sorted(others))}; "
                "`dvc repro` computes them again"
            )
        different = different or bool(others)
    return different


# ---- the sample ----


def _teacher_kinds(plan: TeacherPlan) -> set[tuple[str, str]]:
    family = str(read_teacher(plan.folder).get("family"))
    return {("task", plan.task), ("family", family)}


def _trial_kinds(plan: TrialPlan) -> set[tuple[str, str]]:
    family = finished_result(plan.folder).family
    return {("task", plan.task), ("family", family), ("method", plan.regularizer)}


def _sample(
    plans: Sequence[P], kinds: Callable[[P], set[tuple[str, str]]], least: int, drawn: random.Random
) -> list[P]:
    """Plans in random order until every kind is among them, then more plans up to `least`."""
    order = drawn.sample(list(plans), len(plans))
    seen: set[tuple[str, str]] = set()
    chosen: list[P] = []
    rest: list[P] = []
    for plan in order:
        group = chosen if kinds(plan) - seen else rest
        group.append(plan)
        seen |= kinds(plan)
    return chosen + rest[: max(0, least - len(chosen))]


def _stamp(finished: Finished, checked: int, store: Store | None) -> None:
    """Give each result its new identity, each in one atomic step; after an interruption, run `adopt` again."""
    for teacher in finished.teachers:
        stamp_teacher(teacher, checked, finished.trainings)
        if store is not None:
            store.put_if_possible("teachers", teacher.identity, teacher.folder)
    for cache in finished.caches:
        stamp_cache(cache)
        if store is not None:
            store.put_if_possible("caches", cache_identity(cache), cache.folder)
    for trial in finished.trials:
        stamp_trial(trial, checked, finished.trainings)
        if store is not None:
            store.put_if_possible("trials", trial.identity, trial.folder)
