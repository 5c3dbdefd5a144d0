"""Every result is what the study asks for now, or nothing is compared.

A params.yaml (or a module) that is edited while a run goes on leaves results of the old values, which DVC records under
the new ones. So parameters and identities are held against the study's before any number is made of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdcache.checkpoints.find import find_local
from kdcache.errors import ComparisonError
from kdcache.study import Model, Params, Study
from kdcache.system.files import read_json
from kdcache.trials.identity import NAMES_ONLY
from kdcache.trials.layout import TEACHER, Layout
from kdcache.trials.plan import Planner
from kdcache.trials.result import TrialResult

log = logging.getLogger(__name__)


def check_results(study: Study, layout: Layout, results: Sequence[TrialResult]) -> None:
    """Hold every trial, and the teachers whose logits are learned from, against the study.

    Identities are checked where the checkpoints are on this machine; parameters always.

    Raises:
        ComparisonError: a result was made with other parameters, data, weights or code; names it and both values.
    """
    for result in results:
        _check_params(layout, result, study)
    for task, teacher in study.taught():
        record = layout.cache(task, teacher) / TEACHER
        _compare(f"{record}: the teacher", read_json(record).get("params"), study.teachers[teacher])
    _check_identities(study, layout, results)


def _check_params(layout: Layout, result: TrialResult, study: Study) -> None:
    folder = layout.trial(result.task, result.student, result.regularizer, result.seed)
    _compare(f"{folder}: the student", result.params.get("student"), study.students[result.student])
    _compare(f"{folder}: the method", result.params.get("regularizer"), study.method(result.regularizer))


def _compare(what: str, kept: Mapping[str, Any] | None, asked: Params) -> None:
    if not kept:  # a result that says nothing of its parameters
        return
    ignored = NAMES_ONLY | ({"seed"} if "seed" not in kept else set())
    now = asked.model_dump(mode="json", exclude=ignored)
    for key, value in now.items():
        if key in kept and _plain(kept[key]) != _plain(value):
            raise ComparisonError(
                f"{what} was trained with {key} {kept[key]}, params.yaml says {value}; params.yaml was changed while "
                "it ran, or since: run `dvc repro`"
            )


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _check_identities(study: Study, layout: Layout, results: Iterable[TrialResult]) -> None:
    kept = {(result.task, result.student, result.regularizer, result.seed): result for result in results}
    planner = Planner(study, layout)
    for task, student, regularizer in study.configurations():
        if not _is_here(study.students[student]):
            continue
        for plan in planner.trials(task, student, regularizer):
            identity = kept[task, student, regularizer, plan.seed].identity
            if identity != plan.identity:
                raise ComparisonError(
                    f"{plan.folder}: {plan.name} has the identity {identity}, the study as it is now asks for "
                    f"{plan.identity}; its data, weights, soft labels or code have changed since: run `dvc repro`"
                )


def _is_here(model: Model) -> bool:
    here = find_local(model) is not None
    if not here:
        log.info("%s is not on this machine: its trials' identities are not checked", model.checkpoint)
    return here
