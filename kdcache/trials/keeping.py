"""Which finished teachers, caches and trials stay, and why others have to be made again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kdcache.errors import CacheError, KdcacheError, TrialError
from kdcache.logits import LogitCache
from kdcache.logits.places import BESIDE, VIEWS
from kdcache.system.files import read_json, remove, remove_folder
from kdcache.trials.layout import LIKELIHOODS, LOGITS, MODEL, SEED_FOLDER, TEACHER
from kdcache.trials.plan import CachePlan, TrialPlan
from kdcache.trials.result import finished_result, read_result, write_result
from kdcache.trials.saved_models import teacher_files, why_no_model
from kdcache.trials.store import SIZE, Store
from kdcache.trials.tokens.checking import check_all, check_distributions, check_own, check_trial

log = logging.getLogger(__name__)
CHANGED = "its identity changed: other data, parameters, weights or code"


def why_teach(folder: Path, identity: str) -> str | None:
    """Why a teacher has to be trained; None if the folder holds exactly this teacher, whole."""
    if not (folder / TEACHER).exists():
        return "there is none yet"
    try:
        saved = read_json(folder / TEACHER)
        if saved["identity"] != identity:
            return CHANGED
        if saved["files"] != teacher_files(folder):
            return "its files are not as they were saved"
    except (KdcacheError, KeyError, TypeError) as error:
        return f"it is damaged: {error}"
    return None


def why_cache(plan: CachePlan) -> str | None:
    """Why a teacher's logits have to be computed; None if the folder holds them whole. They are checked."""
    if not plan.folder.exists():
        return "there are none yet"
    unneeded = [place for place in BESIDE if place not in plan.caches and (plan.folder / place).exists()]
    if unneeded:
        return f"{', '.join(unneeded)} is no longer asked for"
    try:
        for place, prints in plan.caches.items():
            if plan.language_modelling:
                check_distributions(plan.folder / place, plan.model.estimate, prints)
            else:
                LogitCache(plan.folder / place, prints).verify("full")
        if read_json(plan.folder / TEACHER) != read_json(plan.teacher_folder / TEACHER):
            return "the teacher was trained again"
    except KdcacheError as error:
        return str(error)
    return None


def missing_trials(
    configuration: Path, plans: Sequence[TrialPlan], store: Store | None = None
) -> list[TrialPlan]:
    """Bring a configuration's folder up to date as far as possible without training. Return the plans left to run.

    A finished trial stays only if its seed is planned, its identity is the planned one and its logits are whole.
    Everything else (other seeds, other identities, interrupted or damaged trials) is removed, so no stale result
    survives. Missing trials are then taken from the store if it has them.

    If a trial stays but lacks the model that `keep` in params.yaml asks for, its plan is returned too.
    """
    by_seed = {plan.seed: plan for plan in plans}
    kept = _clear(configuration, by_seed, store)
    missing = [plan for plan in plans if plan.seed not in kept]
    taken = [plan for plan in missing if store is not None and _take(store, plan)]
    for origin, seeds in (("kept", sorted(kept)), ("taken from the store", [plan.seed for plan in taken])):
        if seeds:
            note = "%s: %s: %d finished trials (seeds %s)"
            log.info(note, configuration, origin, len(seeds), ", ".join(map(str, seeds)))
    to_train = [plan for plan in missing if plan not in taken]
    return [plan for plan in plans if plan in to_train or _lacks_model(plan)]


def _lacks_model(plan: TrialPlan) -> bool:
    """Whether a finished trial lacks a model that is to be kept. A model that is no longer asked for is removed."""
    reason = why_no_model(plan) if plan.keep_model else "no longer asked for"
    if reason is None:
        return False
    if (plan.folder / MODEL).exists():
        log.info("%s: removed (%s)", plan.folder / MODEL, reason)
    remove_folder(plan.folder / MODEL)
    if plan.keep_model:
        log.info("%s: is trained again, only to keep its model (%s)", plan.folder, reason)
    return plan.keep_model


def _clear(configuration: Path, by_seed: Mapping[int, TrialPlan], store: Store | None) -> set[int]:
    """Remove what is not asked for. Return the seeds whose trials stay."""
    configuration.mkdir(parents=True, exist_ok=True)
    kept = set()
    for folder in sorted(configuration.iterdir()):
        match = SEED_FOLDER.fullmatch(folder.name)
        seed = int(match.group(1)) if match else -1
        reason = why_stale(folder, by_seed.get(seed))
        if reason is None:
            kept.add(seed)
            continue
        if store is not None:
            _put_aside(store, folder)
        log.info("%s: removed (%s)", folder, reason)
        shutil.rmtree(folder) if folder.is_dir() and not folder.is_symlink() else remove(folder)
    return kept


def why_stale(folder: Path, plan: TrialPlan | None) -> str | None:
    """Why a folder must be removed; None if it holds the planned trial and that trial is finished."""
    if plan is None:
        return "no longer asked for"
    try:
        result = read_result(folder)
        if result is None:
            return "interrupted before it was finished"
        if result.identity != plan.identity:
            return CHANGED
        if plan.language_modelling:
            return _why_no_likelihoods(folder, plan)
        return _why_no_logits(folder / LOGITS, plan)
    except (TrialError, CacheError) as error:
        return str(error)


def _why_no_logits(folder: Path, plan: TrialPlan) -> str | None:
    cache = LogitCache(folder)
    for kept in (cache, *([LogitCache(folder / VIEWS)] if plan.keep_views else [])):
        check_own(kept, plan.identity)
        kept.verify("full")
    lacking = [split for split in plan.splits if split not in cache.splits]
    return f"has no logits of {', '.join(lacking)}, which Self-KD now asks for" if lacking else None


def _why_no_likelihoods(folder: Path, plan: TrialPlan) -> str | None:
    check_trial(replace(plan, folder=folder))
    return None


def _take(store: Store, plan: TrialPlan) -> bool:
    """Take a trial from the store, and say whether the store had it. It is checked like any other before it stays."""
    if not store.take("trials", plan.identity, plan.folder):
        return False
    reason = why_stale(plan.folder, plan)
    if reason is not None:
        log.warning("%s: what the store has is not used: %s", plan.folder, reason)
        shutil.rmtree(plan.folder)
        return False
    _rename(plan)
    return True


def _rename(plan: TrialPlan) -> None:
    """Give a trial from the store the plan's names: it may have been run for a student or method of another name."""
    result = finished_result(plan.folder)
    if (result.task, result.student, result.regularizer) != (plan.task, plan.student, plan.regularizer):
        write_result(plan.folder, result.model_copy(update=plan.described))


def _put_aside(store: Store, folder: Path) -> None:
    """Put a whole finished trial that is no longer asked for into the store, because it may be asked for again.

    It is checked in the store, too, since the folder is removed next.

    Raises:
        TrialError: it cannot be stored.
    """
    try:
        result = read_result(folder) if folder.is_dir() else None
        if result is None:
            return
        if (folder / LIKELIHOODS).is_dir():
            check_all(folder)
        else:
            logits = LogitCache(folder / LOGITS)
            check_own(logits, result.identity)
            logits.verify("full")
    except KdcacheError:
        return  # damaged: nobody can use it
    try:
        store.put("trials", result.identity, folder, check=True)
    except KdcacheError as error:
        raise TrialError(
            f"{folder}: is no longer asked for, but finished, and is not removed because it cannot be put into the "
            f"store ({error}); free space, or set {SIZE} to more gigabytes; or delete the folder, if nobody needs it"
        ) from error
