"""Hand out a finished trial's trained student: exactly the model that was scored, or an error."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kdcache.errors import KdcacheError, TrialError
from kdcache.study import Study
from kdcache.system.files import copy_folder, sync_folder
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.again import trained_again
from kdcache.trials.keeping import why_stale
from kdcache.trials.layout import MODEL, Layout
from kdcache.trials.plan import Planner, TrialPlan
from kdcache.trials.same import RunAll
from kdcache.trials.saved_models import why_no_model
from kdcache.trials.scores import trial_scores


@dataclass(frozen=True)
class HandedOut:
    """The trial whose model `hand_out` gave, its scores (fractions 0..1), and whether it was trained again for that."""

    task: str
    student: str
    regularizer: str
    seed: int
    identity: str
    scores: dict[str, float]
    trained_again: bool


def hand_out(
    study: Study,
    layout: Layout,
    task: str,
    student: str,
    method: str,
    seed: int | None,
    out: Path,
    run: RunAll,
    onnx: bool = False,
) -> HandedOut:
    """Write the trained model of a finished trial to a folder: a copy of the kept model, or the model trained again.

    Args:
        method: the regularizer's or distiller's name.
        seed: default: the configuration's first seed.
        out: a new or empty folder, or a link to an empty one. In the end it has the whole model, or is as it was.
        run: runs trials, as `kdcache.engine.run_trials` does.
        onnx: also write the model as ONNX.

    Raises:
        TrialError: the study has no such trial; the trial is not finished, or not as the study now says; it was
            trained again and a logit differs; or ONNX is asked for, but the model cannot be exported or its ONNX gives
            other logits.
        KdcacheError: `out` has files, or cannot be written.
    """
    _check_empty(out)
    plan = _planned(study, layout, task, student, method, seed)
    export = _exporter(plan) if onnx else None
    place = Path(os.path.realpath(out))  # a folder takes the place of a folder, not of a link to one
    work = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        kept = why_no_model(plan) is None
        model = _copied(plan, work) if kept else trained_again(plan, work, run, "nothing is written")
        if export is not None:
            export(model)
        os.rename(model, place)
        sync_folder(place.parent)
    except OSError as error:
        raise KdcacheError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    scores = trial_scores(plan.folder, PreparedTask(plan.task_folder))
    return HandedOut(task, student, method, plan.seed, plan.identity, scores, trained_again=not kept)


def _check_empty(out: Path) -> None:
    if out.is_symlink() and not out.exists():
        raise KdcacheError(
            f"{out}: is a link to a folder that is not there; make that folder, or name another one"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise KdcacheError(
            f"{out}: is there already and not an empty folder; name another one, nothing is written over"
        )


def _planned(
    study: Study, layout: Layout, task: str, student: str, method: str, seed: int | None
) -> TrialPlan:
    """The plan of a trial that must be finished, whole and as the study says.

    Raises:
        TrialError: the study asks for no such trial, or the trial is not finished, whole and as the study says.
    """
    _check_known(study, task, student, method)
    seeds = study.seeds_of(task, student, method)
    if seed is not None and seed not in seeds:
        raise TrialError(
            f"no seed {seed} of {task} / {student} / {method}; there are: {', '.join(map(str, seeds))}"
        )
    folder = layout.trial(task, student, method, seeds[0] if seed is None else seed)
    stage = f"{'train' if method in study.regularizers else 'distill'}@{task}-{student}-{method}"
    advice = f"run its stage (`kdcache repro {stage}`), or fetch what it gave (`dvc pull {stage}`)"
    if not folder.exists():
        raise TrialError(f"{folder}: the trial is not there; {advice}")
    plan = Planner(study, layout).trial(task, student, method, seeds[0] if seed is None else seed)
    reason = why_stale(plan.folder, plan)
    if reason is not None:
        raise TrialError(f"{plan.folder}: not a trial to take a student from: {reason}; {advice}")
    return plan


def _check_known(study: Study, task: str, student: str, method: str) -> None:
    groups = (
        ("task", task, study.tasks),
        ("student", student, study.students),
        ("method", method, study.methods()),
    )
    for kind, name, known in groups:
        if name not in known:
            raise TrialError(f"no {kind} {name!r} in the study; there are: {', '.join(known)}")
    if not study.applies(study.students[student], task):
        raise TrialError(f"students.{student}.tasks does not list {task!r}: there are no such trials")


def _exporter(plan: TrialPlan) -> Callable[[Path], None]:
    """The function that adds ONNX to a model's folder. Whatever rules ONNX out is raised now, before any training."""
    from kdcache.trials.onnx import add_onnx, check_exporter  # imports torch

    check_exporter(plan.language_modelling)
    return partial(add_onnx, task_folder=plan.task_folder)


def _copied(plan: TrialPlan, folder: Path) -> Path:
    """Copy a trial's kept model to another folder."""
    copy_folder(plan.folder / MODEL, folder / MODEL)
    reason = why_no_model(replace(plan, folder=folder))
    if reason is not None:
        raise TrialError(f"{plan.folder / MODEL}: was changed while it was copied ({reason}); run again")
    return folder / MODEL
