"""The answer of `kdcache distance`: how far each kept language model is from its teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from kdcache.cli.printing import cell, show
from kdcache.errors import TrialError
from kdcache.study import Study, load_study
from kdcache.trials.keeping import why_stale
from kdcache.trials.layout import MODEL, Layout
from kdcache.trials.plan import Planner, TrialPlan
from kdcache.trials.saved_models import why_no_model


def find_distances(params: Path, teacher: str | None, split: str) -> dict[str, Any]:
    """The distance of every trial's kept model from a teacher, as one JSON-like object, or why there is none.

    Args:
        teacher: the teacher's name; default: each student's own teacher.
        split: the split whose tokens are used: validation, or another evaluated split.

    Raises:
        KdcacheError: the study has no language modelling or no such teacher, or a cache is damaged.
    """
    study, layout = load_study(params), Layout()
    if teacher is not None and teacher not in study.teachers:
        raise TrialError(f"no teacher {teacher!r} in the study; there are: {', '.join(study.teachers)}")
    chosen = [names for names in study.configurations() if study.tasks[names[0]].language_modelling]
    if not chosen:
        raise TrialError(f"{params}: no task of it is kind: language_modelling")
    planner = Planner(study, layout)
    trials = [
        _described(planner.trial(*names, seed), study, layout, teacher, split)
        for names in chosen
        for seed in study.seeds_of(*names)
    ]
    return {"path": str(params), "split": split, "trials": trials}


def _described(
    plan: TrialPlan, study: Study, layout: Layout, teacher: str | None, split: str
) -> dict[str, Any]:
    own = study.students[plan.student].teachers
    name = teacher or (own[0] if own else None)
    facts = {
        "task": plan.task,
        "student": plan.student,
        "regularizer": plan.regularizer,
        "seed": plan.seed,
        "teacher": name,
    }
    missing = why_stale(plan.folder, plan) or why_no_model(plan)
    if missing:
        advice = "write `keep` beside the student and run the study again"
        return {**facts, "kl": None, "acceptance": None, "reasons": {"trial": f"{missing}; {advice}"}}
    if name is None:
        reason = f"students.{plan.student} has no teacher; name one with --teacher"
        return {**facts, "kl": None, "acceptance": None, "reasons": {"trial": reason}}
    return {**facts, **_measured(plan, layout.cache(plan.task, name), split)}


def _measured(plan: TrialPlan, cache: Path, split: str) -> dict[str, Any]:
    from kdcache.checkpoints.find import find_checkpoint
    from kdcache.modelling.tokens.building import build_causal_model
    from kdcache.modelling.tokens.inputs import DocumentInputs
    from kdcache.tasks.prepared import PreparedTask
    from kdcache.trials.tokens.distance import distance_to_teacher

    start = {
        "checkpoint": str(plan.folder / MODEL),
        "revision": None,
        "init": "pretrained",
        "layers": None,
    }
    checkpoint = find_checkpoint(plan.model.model_copy(update=start))
    inputs = DocumentInputs(PreparedTask(plan.task_folder), checkpoint)
    network = build_causal_model(checkpoint, inputs.card, plan.seed)
    return asdict(distance_to_teacher(network, inputs, cache, split, plan.model.batch_size))


def print_distances(answer: dict[str, Any]) -> None:
    """Print a line for each trial, and below the lines why something is missing."""
    table = Table("task", "student", "method", "seed", "teacher", "KL, nats", "acceptance")
    for trial in answer["trials"]:
        names = (cell(str(trial[key])) for key in ("task", "student", "regularizer", "seed", "teacher"))
        table.add_row(*names, _mean(trial["kl"]), _mean(trial["acceptance"]))
    show(table)
    for reason in dict.fromkeys(_reasons(answer)):
        show(reason)


def _mean(mean: dict[str, float | None] | None) -> str:
    if mean is None:
        return ""
    return f"{mean['value']:.4f}" if mean["error"] is None else f"{mean['value']:.4f} ± {mean['error']:.4f}"


def _reasons(answer: dict[str, Any]) -> Iterator[str]:
    for trial in answer["trials"]:
        for quantity, reason in trial["reasons"].items():
            subject = (
                f"{trial['student']} {trial['regularizer']}" if quantity == "trial" else trial["teacher"]
            )
            yield cell(f"- {subject}: {'' if quantity == 'trial' else f'no {quantity}: '}{reason}")
