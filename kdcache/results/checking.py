"""Check that every result is what the study asks for now; otherwise nothing is compared.

If params.yaml (or a module) is edited during a run, DVC records results of the old values under the new ones. So the
prepared tasks, and the results' parameters and identities, are compared with the study's before any number is computed
from them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from kdcache.checkpoints.find import find_local
from kdcache.errors import ComparisonError
from kdcache.logits.opening import open_cache
from kdcache.study import Model, Params, Study, Task
from kdcache.study.models import LEFT_OUT
from kdcache.system.quoting import quoted
from kdcache.tasks.asked import differences
from kdcache.tasks.card import CARD, read_card
from kdcache.trials.identity import NAMES_ONLY
from kdcache.trials.layout import LIKELIHOODS, LOGITS, TEACHER, Layout
from kdcache.trials.plan import Planner
from kdcache.trials.result import TrialResult, read_teacher
from kdcache.trials.tokens.checking import check_own, check_own_likelihoods

log = logging.getLogger(__name__)
Trial: TypeAlias = tuple[str, str, str, int]  # task, student, regularizer, seed


def check_results(study: Study, layout: Layout, results: Sequence[TrialResult]) -> None:
    """Compare every prepared task, every trial, and every teacher whose logits are learned from, with the study.

    Parameters are always checked; identities only if the checkpoints are on this machine.

    Args:
        results: the results of `read_trials`, in its order.

    Raises:
        ComparisonError: a task was prepared, or a result made, with other parameters, data, weights or code; names it
            and both values.
        TaskError: a task's card is damaged.
        CacheError: a trial's logits are not there whole, or are another trial's.
    """
    for name, spec in study.tasks.items():
        _check_task(layout.task(name), name, spec)
    for (task, student, regularizer, seed), result in zip(study.all_trials(), results, strict=True):
        folder = layout.trial(task, student, regularizer, seed)
        _check_names(folder, (task, student, regularizer, seed), result)
        if (folder / LIKELIHOODS).exists():
            check_own_likelihoods(folder, result)
        if (folder / LOGITS).exists():  # few trials of language models have them
            check_own(open_cache(folder / LOGITS), result.identity)
        model, method = study.as_tuned(task, student, regularizer)
        _compare(f"{folder}: the student", result.params.get("student"), model)
        _compare(f"{folder}: the method", result.params.get("regularizer"), method)
    for task, teacher in study.taught():
        record = layout.cache(task, teacher) / TEACHER
        _compare(
            f"{record}: the teacher", read_teacher(record.parent).get("params"), study.teacher(task, teacher)
        )
    _check_identities(study, layout, results)


def _check_task(folder: Path, name: str, task: Task) -> None:
    """Refuse if a task was prepared otherwise than the study asks for, see `kdcache.tasks.asked`.

    Without a card there is nothing to compare; whoever reads the task's rows refuses then.
    """
    if not (folder / CARD).is_file():
        return
    for place, found, asked in differences(read_card(folder), task):
        raise ComparisonError(
            f"{folder / CARD}: was prepared with {place} {quoted(found)}, params.yaml asks for {quoted(asked)}; "
            f"params.yaml was changed while it was prepared, or since: run `dvc repro --force prepare@{name}`, "
            "then `dvc repro`"
        )


def _check_names(folder: Path, asked: Trial, result: TrialResult) -> None:
    kept = (result.task, result.student, result.regularizer, result.seed)
    if kept != asked:
        names = " / ".join(map(str, kept))
        raise ComparisonError(
            f"{folder}: holds the result of another trial, {names}; delete the folder and run `dvc repro`"
        )


def _compare(name: str, kept: Any, asked: Params) -> None:
    """Refuse if parameters differ from the study's.

    Args:
        kept: parameters as a result's JSON has them; an older result may lack some.
    """
    if not isinstance(kept, Mapping | None):
        raise ComparisonError(f"{name} has no parameters but {quoted(kept)}; run `dvc repro`")
    now = {**LEFT_OUT, **asked.model_dump(mode="json", exclude=NAMES_ONLY)}
    for key, value in {**LEFT_OUT, **(kept or {})}.items():
        if key in now and value != now[key]:
            raise ComparisonError(
                f"{name} was trained with {key} {value}, params.yaml says {now[key]}; params.yaml was changed while "
                "it ran, or since: run `dvc repro`"
            )


def _check_identities(study: Study, layout: Layout, results: Sequence[TrialResult]) -> None:
    kept = dict(zip(study.all_trials(), results, strict=True))
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
    is_local = find_local(model) is not None
    if not is_local:
        log.info("%s is not on this machine: its trials' identities are not checked", model.checkpoint)
    return is_local
