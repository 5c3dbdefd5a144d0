"""The answer of `kdcache plan`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcache.errors import KdcacheError
from kdcache.planning.estimates import describe
from kdcache.planning.plan import Size, plan_study
from kdcache.study import load_study

ROWS = re.compile(r"(.+)=(\d+),(\d+)(?:,(\d+)(?:,(\d+))?)?")
FORM = "TASK=TRAIN,EVALUATED[,CLASSES[,UNLABELLED]]"


def find_plan(params: Path, data: Path, rows: Sequence[str], calibrate: bool) -> dict[str, Any]:
    """The plan of a study file; its hours come from speeds measured here or from finished runs.

    Args:
        rows: `TASK=TRAIN,EVALUATED[,CLASSES[,UNLABELLED]]` for tasks that are not prepared.
    """
    study = load_study(params)
    plan, speeds = plan_study(study, data, dict(map(_parse_rows, rows))), None
    if calibrate:
        from kdcache.planning.timing import calibrate as time_models  # imports torch

        speeds, notes = time_models(plan, data)
        plan = replace(plan, notes=(*plan.notes, *notes))
    return {"path": str(params), "data": str(data), **describe(plan, speeds)}


def _parse_rows(text: str) -> tuple[str, Size]:
    match = ROWS.fullmatch(text)
    if match is None:
        raise KdcacheError(f"--rows {text}: expected {FORM}")
    task, train, evaluated, *more = match.groups()
    classes, unlabelled = (int(count) if count else None for count in more)
    return task, Size(int(train), int(evaluated), classes, unlabelled)
