"""Give finished results the identity of the present code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from kdcache.logits.opening import read_manifest
from kdcache.logits.restamp import restamped
from kdcache.system.files import copy_folder, read_json, write_atomically, write_json
from kdcache.trials import code
from kdcache.trials.identity import Parts
from kdcache.trials.layout import CARD, COST, LIKELIHOODS, LOGITS, MODEL, STUDENT, TEACHER
from kdcache.trials.plan import CachePlan, TeacherPlan, TrialPlan
from kdcache.trials.result import Adopted, finished_result, read_teacher, write_result
from kdcache.trials.same import kept_places
from kdcache.trials.saved_models import model_files, why_no_model


def stamp_teacher(plan: TeacherPlan, checked: int, population: int) -> None:
    """Give a finished teacher its planned identity; the weights stay as they are.

    Args:
        checked, population: how many trainings were run again and compared, out of how many.
    """
    kept = read_teacher(plan.folder)
    adopted = _adopted(kept["parts"], plan.parts, checked, population).model_dump(by_alias=True)
    new = {"identity": plan.identity, "parts": plan.parts, "adopted": adopted}
    write_json(plan.folder / TEACHER, {**kept, **new})


def stamp_cache(plan: CachePlan) -> None:
    """Give a teacher's logits their planned fingerprints."""
    _swap(plan.folder, partial(_write_cache, plan))


def stamp_trial(plan: TrialPlan, checked: int, population: int) -> None:
    """Give a finished trial its planned identity."""
    _swap(plan.folder, partial(_write_trial, plan, checked, population))


def _adopted(before: Parts, after: Parts, checked: int, population: int) -> Adopted:
    values = {"from": before["code"], "to": after["code"], "checked": checked, "of": population}
    return Adopted.model_validate(values)


def _write_cache(plan: CachePlan, new: Path) -> None:
    for place, prints in plan.caches.items():
        restamped(plan.folder / place, new / place, prints)
    shutil.copy2(plan.teacher_folder / TEACHER, new / TEACHER)


def _write_trial(plan: TrialPlan, checked: int, population: int, new: Path) -> None:
    result = finished_result(plan.folder)
    if plan.language_modelling:
        copy_folder(plan.folder / LIKELIHOODS, new / LIKELIHOODS)
    for place in kept_places(plan):
        kept = read_manifest(plan.folder / LOGITS / place).fingerprints
        changes = {"weights": plan.identity, "code": code.of_inference(plan.language_modelling)}
        restamped(plan.folder / LOGITS / place, new / LOGITS / place, kept.model_copy(update=changes))
    if (plan.folder / COST).is_file():
        shutil.copy2(plan.folder / COST, new / COST)
    if why_no_model(replace(plan, identity=result.identity)) is None:
        _write_model(plan, result.identity, new / MODEL)
    adopted = _adopted(result.parts or {}, plan.parts, checked, population)
    changed = {"identity": plan.identity, "parts": plan.parts, "adopted": adopted}
    write_result(new, result.model_copy(update=changed))


def _write_model(plan: TrialPlan, before: str, new: Path) -> None:
    """Copy a kept model. Its card and record name the trial's identity, so these two are written anew."""
    copy_folder(plan.folder / MODEL, new)
    card = (new / CARD).read_text(encoding="utf-8").replace(before, plan.identity)
    write_atomically(new / CARD, card.encode())
    record = {**read_json(new / STUDENT), "identity": plan.identity, "files": model_files(new, STUDENT)}
    write_json(new / STUDENT, record)


def _swap(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a new folder beside the old one, then replace the old one by it."""
    new, old = folder.with_name(f".{folder.name}.new.tmp"), folder.with_name(f".{folder.name}.old.tmp")
    for folder_left in (new, old):
        shutil.rmtree(folder_left, ignore_errors=True)
    new.mkdir()
    write(new)
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)
