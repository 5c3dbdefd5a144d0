"""Saved models (teachers and kept students): whether their files are as they were saved."""

from __future__ import annotations

from glob import escape
from pathlib import Path

from kdcache.errors import KdcacheError
from kdcache.hashing import fingerprint
from kdcache.system.files import read_json
from kdcache.trials.layout import COST, MODEL, STUDENT, TEACHER
from kdcache.trials.plan import TrialPlan


def teacher_files(folder: Path) -> str:
    """Fingerprint of a saved teacher's files, without teacher.json and cost.json."""
    return model_files(folder, TEACHER)


def model_files(folder: Path, record: str) -> str:
    """Fingerprint of a saved model's files, including those in its subfolders, without its record and cost.json."""
    own = [
        path for path in folder.iterdir() if path.name not in (record, COST) and not path.name.startswith(".")
    ]
    inside = [inner for path in own for inner in (path, *path.rglob("*"))]
    return fingerprint.of_files(folder, [escape(path.relative_to(folder).as_posix()) for path in inside])


def why_no_model(plan: TrialPlan) -> str | None:
    """Why a finished trial's trained model is not available; None if the folder holds exactly this model, whole."""
    folder = plan.folder / MODEL
    if not folder.exists():
        return "it was not kept"
    try:
        record = read_json(folder / STUDENT)
        if record["identity"] != plan.identity:
            return "it is another trial's"
        return (
            None
            if record["files"] == model_files(folder, STUDENT)
            else "its files are not as they were saved"
        )
    except (KdcacheError, KeyError, TypeError, OSError) as error:
        return f"it is damaged: {error}"
