"""Train a finished trial again to get its model. The model must give the kept logits, bit for bit."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from kdcache.errors import TrialError
from kdcache.logits.opening import read_manifest
from kdcache.system import processes
from kdcache.system.files import remove_folder, sync_folder
from kdcache.trials.layout import LOGITS, MODEL
from kdcache.trials.plan import TrialPlan
from kdcache.trials.result import finished_result
from kdcache.trials.same import RunAll, kept_places, trial_difference
from kdcache.trials.saved_models import why_no_model


def keep_student(plan: TrialPlan) -> None:
    """Train a finished trial again, only to keep its model. Nothing else in the trial's folder is touched.

    Raises:
        TrialError: the model gives other logits. It is then not kept.
    """
    from kdcache.trials.run import run_trial  # imports torch: not before there is work

    if why_no_model(plan) is None:
        return
    work = plan.folder.with_name(f".{plan.folder.name}.again.tmp")
    try:
        model = trained_again(plan, work, lambda plans: run_trial(plans[0]), "its model is not kept")
        if processes.is_main():
            remove_folder(plan.folder / MODEL)
            os.rename(model, plan.folder / MODEL)
            sync_folder(plan.folder)
    finally:
        if processes.is_main():
            shutil.rmtree(work, ignore_errors=True)


def trained_again(plan: TrialPlan, folder: Path, run: RunAll, otherwise: str) -> Path:
    """Train a trial again in another folder, and return its model's folder.

    Args:
        otherwise: says in the error message what happens to a model that gives other logits.

    Raises:
        TrialError: a logit differs. The message names the first row and class, and possible reasons.
    """
    with_train = "train" in (read_manifest(plan.folder / LOGITS).splits if kept_places(plan) else {})
    rerun = replace(plan, folder=folder, keep_train_logits=with_train, keep_model=True)
    if processes.is_main():
        shutil.rmtree(folder, ignore_errors=True)
    run([rerun])
    difference = trial_difference(plan, folder) if processes.is_main() else None
    if difference is not None:
        raise TrialError(
            f"{plan.name}: trained again it is another model: {difference}; {otherwise}, since it is not the one "
            f"that was scored. {_why_different(plan, rerun)}"
        )
    return folder / MODEL


def _why_different(plan: TrialPlan, rerun: TrialPlan) -> str:
    before, now = finished_result(plan.folder), finished_result(rerun.folder)
    facts = [
        f"{name} was {getattr(before, name)}, is {getattr(now, name)}"
        for name in ("device", "precision", "versions")
        if getattr(before, name) != getattr(now, name)
    ]
    return (
        f"What differs: {'; '.join(facts)}"
        if facts
        else "Device and libraries are the same; another processor, or other KDCACHE_WORKERS or KDCACHE_THREADS, can "
        "change the last bits"
    )
