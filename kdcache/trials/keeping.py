"""Which finished teachers, caches and trials stay, and why the others have to be made again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcache.errors import CacheError, KdcacheError, TrialError
from kdcache.hashing import fingerprint
from kdcache.logits import Fingerprints, LogitCache
from kdcache.study import Teacher
from kdcache.system.files import read_json, remove, write_json
from kdcache.trials.layout import BESIDE, INAPPLICABLE, LOGITS, SEED_FOLDER, TEACHER, VIEWS
from kdcache.trials.result import read_result

log = logging.getLogger(__name__)
CHANGED = "its identity changed: other data, parameters, weights or code"


def trained_teacher(teacher: Teacher, folder: Path) -> Teacher:
    """The teacher as it is after training: a checkpoint of its own.

    Raises:
        TrialError: the folder holds no finished teacher.
    """
    if not (folder / TEACHER).is_file():
        raise TrialError(
            f"{folder}: no {TEACHER}, so there is no finished teacher; run stage teach (`dvc repro` does)"
        )
    start = {"checkpoint": str(folder), "revision": None, "init": "pretrained", "layers": None}
    return teacher.model_copy(update=start)


def teacher_files(folder: Path) -> str:
    """Fingerprint of a saved teacher's files, teacher.json apart."""
    names = [path.name for path in folder.iterdir() if path.name != TEACHER and not path.name.startswith(".")]
    return fingerprint.of_files(folder, names)


def why_teach(folder: Path, identity: str) -> str | None:
    """Why a teacher has to be trained, or None when the folder holds that very teacher, whole."""
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


def why_cache(folder: Path, wanted: Mapping[str, Fingerprints], teacher: Path) -> str | None:
    """Why a teacher's logits have to be computed, or None when the folder holds them, whole and checked.

    Args:
        wanted: the caches that it has to hold, see `teacher_caches`.
        teacher: the folder of the finished teacher.
    """
    if not folder.exists():
        return "there are none yet"
    left = [part for part in BESIDE if part not in wanted and (folder / part).exists()]
    if left:
        return f"{', '.join(left)} is no longer asked for"
    try:
        for part, prints in wanted.items():
            LogitCache(folder / part, prints).verify("full")
        if read_json(folder / TEACHER) != read_json(teacher / TEACHER):
            return "the teacher was trained again"
    except KdcacheError as error:
        return str(error)
    return None


def mark_inapplicable(folder: Path, reason: str) -> None:
    """Leave a note in an output folder that the study excludes (`tasks:` of a model), and nothing else."""
    if folder.exists():
        shutil.rmtree(folder)
    log.info("%s: not applicable: %s", folder, reason)
    write_json(folder / INAPPLICABLE, {"not_applicable": reason})


def reconcile(
    root: Path, wanted: Mapping[int, str], splits: Sequence[str] = ("validation",), views: bool = False
) -> list[int]:
    """Delete what is no longer asked for from a configuration's folder, and return the seeds that are missing.

    A finished trial stays exactly when its seed is wanted, its identity is the wanted one and its logits are whole.
    Everything else (other seeds, other identities, interrupted or damaged trials) is deleted, so no stale result
    survives.

    Args:
        wanted: identity of each wanted seed.
        splits: those whose logits each trial must have.
        views: whether it must have the logits of augmented views too.
    """
    root.mkdir(parents=True, exist_ok=True)
    kept = set()
    for folder in sorted(root.iterdir()):
        match = SEED_FOLDER.fullmatch(folder.name)
        seed = int(match.group(1)) if match else None
        reason = _why_stale(folder, wanted.get(seed) if seed is not None else None, splits, views)
        if reason is None and seed is not None:
            kept.add(seed)
        else:
            log.info("%s: deleted (%s)", folder, reason)
            shutil.rmtree(folder) if folder.is_dir() else remove(folder)
    if kept:
        log.info("%s: kept %d finished trials (seeds %s)", root, len(kept), ", ".join(map(str, sorted(kept))))
    return [seed for seed in wanted if seed not in kept]


def _why_stale(folder: Path, wanted: str | None, splits: Sequence[str], views: bool) -> str | None:
    """Why a folder must go, or None when it holds the finished trial that is wanted."""
    if wanted is None:
        return "no longer asked for"
    try:
        result = read_result(folder)
        if result is None:
            return "interrupted before it was finished"
        if result.identity != wanted:
            return CHANGED
        return _why_no_logits(folder / LOGITS, splits, views)
    except (TrialError, CacheError) as error:
        return str(error)


def _why_no_logits(folder: Path, splits: Sequence[str], views: bool) -> str | None:
    cache = LogitCache(folder)
    cache.verify("full")
    if views:
        LogitCache(folder / VIEWS).verify("full")
    lacking = [split for split in splits if split not in cache.splits]
    return f"has no logits of {', '.join(lacking)}, which Self-KD now asks for" if lacking else None
