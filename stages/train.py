"""DVC stages `train` and `distill`: a configuration's missing trials, all its seeds in one process."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache import engine
from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.study import Study, load_study
from kdcache.system import processes
from kdcache.system.locks import exclusive
from kdcache.tasks.card import TaskCard, read_card
from kdcache.trials.identity import identity_from, training_basis
from kdcache.trials.keeping import mark_inapplicable, reconcile
from kdcache.trials.layout import (
    LOGITS,
    cache_folder,
    configuration_folder,
    learned_from,
    task_folder,
    trial_folder,
)
from kdcache.trials.plan import TrialPlan
from stages import find, stage_errors


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.train", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--regularizer", required=True)
    parser.add_argument("--workers", type=_above_0, help="trials at once (default: KDCACHE_WORKERS)")
    parser.add_argument("--engine", choices=engine.ENGINES, help="default: KDCACHE_ENGINE")
    args = parser.parse_args(arguments)
    study = load_study()
    find("task", args.task, study.tasks)
    find("student", args.student, study.students)
    find("regularizer or distiller", args.regularizer, study.methods())
    configuration = (args.task, args.student, args.regularizer)
    with exclusive(configuration_folder(*configuration)):
        plans = processes.from_main(lambda: _missing(study, *configuration))
        engine.run_trials(plans, workers=args.workers, engine=args.engine)


def _above_0(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"a whole number above 0, found {text!r}")
    return int(text)


def _missing(study: Study, task: str, student: str, regularizer: str) -> list[TrialPlan]:
    """The trials to run; what the study no longer asks for is deleted."""
    folder = configuration_folder(task, student, regularizer)
    if not study.applies(study.students[student], task):
        mark_inapplicable(folder, f"students.{student}.tasks does not list {task!r}")
        return []
    card = read_card(task_folder(task))
    basis = training_basis(card, study.students[student], study.method(regularizer).function)
    plans = {seed: _plan(study, card, basis, (task, student, regularizer), seed) for seed in study.seeds}
    wanted = {seed: plan.identity for seed, plan in plans.items()}
    plan = plans[study.seeds[0]]
    return [plans[seed] for seed in reconcile(folder, wanted, plan.splits, plan.keep_views)]


def _plan(
    study: Study, card: TaskCard, basis: Mapping[str, Any], configuration: tuple[str, str, str], seed: int
) -> TrialPlan:
    """One seed's trial; `basis` is what the identities of all seeds have in common."""
    task, student, regularizer = configuration
    model, method = study.students[student], study.method(regularizer)
    soft_labels = _soft_labels(study, task, student, regularizer, seed)
    identities = map(_identity, learned_from(soft_labels, method))
    return TrialPlan(
        folder=trial_folder(configuration_folder(*configuration), seed),
        identity=identity_from(basis, method, seed, *identities),
        task=task,
        task_folder=task_folder(task),
        student=student,
        model=model,
        regularizer=regularizer,
        method=method,
        seed=seed,
        soft_labels=soft_labels,
        keep_train_logits=regularizer == study.comparison.baseline,
        evaluated=card.evaluated,
        keep_views=regularizer == study.comparison.baseline and card.augment is not None,
    )


def _identity(soft_labels: Path) -> str:
    try:
        return LogitCache(soft_labels).identity
    except CacheError as error:
        raise CacheError(
            f"the logits to learn from are not there: {error} (`dvc repro` runs the stages that make them)"
        ) from None


def _soft_labels(study: Study, task: str, student: str, regularizer: str, seed: int) -> tuple[Path, ...]:
    """The logit caches a distiller learns from: its teachers', or the baseline trial's of the same seed (Self-KD)."""
    method = study.method(regularizer)
    if method.soft_labels == "self":
        baseline = configuration_folder(task, student, study.comparison.baseline)
        return (trial_folder(baseline, seed) / LOGITS,)
    teachers = method.teachers_of(study.students[student])
    return tuple(cache_folder(task, teacher) for teacher in teachers)


if __name__ == "__main__":
    main()
