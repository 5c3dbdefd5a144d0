"""The answer of `kdcache plan`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcache.cli.planning.estimates import cost_of, describe
from kdcache.cli.planning.forecasts import describe_design
from kdcache.cli.planning.plan import plan_study
from kdcache.cli.planning.runs import Size
from kdcache.errors import KdcacheError
from kdcache.study import Study, load_study
from kdcache.system.quoting import shown

ROWS = re.compile(r"(.+)=(\d{1,18}),(\d{1,18})(?:,(\d{1,18})(?:,(\d{1,18}))?)?")
FORM = "TASK=TRAIN,EVALUATED[,CLASSES[,UNLABELLED]]"
LEAST_ROWS = {"TRAIN": 1, "EVALUATED": 1, "CLASSES": 1, "UNLABELLED": 0}
MOST_ROWS = 10**12
# Of an sd and of a true difference: between these, rounding hides no verdict.
SMALLEST_SD, LARGEST = 1e-6, 1e6


def find_plan(
    params: Path,
    data: Path,
    rows: Sequence[str],
    calibrate: bool,
    sd: float | None = None,
    effects: str | None = None,
) -> dict[str, Any]:
    """The plan of a study file. Its hours come from speeds measured here, or from finished runs.

    A study with looks is planned as if every configuration ran all its seeds. `design` says how many trials it will
    probably need.

    Args:
        rows: `TASK=TRAIN,EVALUATED[,CLASSES[,UNLABELLED]]` for tasks that are not prepared.
        sd, effects: assumptions, see `describe_design`. `effects` has numbers separated by commas.
    """
    study, sizes = load_study(params), dict(map(_parse_rows, rows))
    _check_sd(sd)
    design = describe_design(study, data.parent / "metrics/comparisons.csv", sd, _parse_effects(effects))
    plan, speeds = plan_study(_with_all_seeds(study), data, sizes), None
    if calibrate:
        from kdcache.cli.planning.timing import calibrate as time_models  # imports torch

        speeds, notes = time_models(plan, data)
        plan = replace(plan, notes=(*plan.notes, *notes))
    described = describe(plan, speeds)
    for name in ("least", "most"):
        design[name] = cost_of(design[name], described)
    for case in design["forecasts"]:
        case["cost"] = cost_of(case["likely"], described)
    return {"path": str(params), "data": str(data), **described, "design": design}


def _with_all_seeds(study: Study) -> Study:
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for task, student, method in study.configurations():
        counts.setdefault(task, {}).setdefault(student, {})[method] = len(study.seeds)
    return study.with_settled(counts)


def _parse_effects(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        effects = [float(effect) for effect in text.split(",")]
    except ValueError:
        raise KdcacheError(
            f"--effects {shown(text)}: expected numbers with commas, such as 0,0.5,1"
        ) from None
    wrong = [effect for effect in effects if not abs(effect) <= LARGEST]  # so is nan
    if wrong:
        raise KdcacheError(
            f"--effects {shown(text)}: expected numbers from {-LARGEST:,.0f} to {LARGEST:,.0f}, found {wrong[0]:g}"
        )
    return effects


def _check_sd(sd: float | None) -> None:
    if sd is not None and not SMALLEST_SD <= sd <= LARGEST:
        raise KdcacheError(f"--sd: expected a number from {SMALLEST_SD:f} to {LARGEST:,.0f}, found {sd:g}")


def _parse_rows(text: str) -> tuple[str, Size]:
    match = ROWS.fullmatch(text)
    if match is None:
        raise KdcacheError(f"--rows {shown(text)}: expected {FORM}")
    task, *parts = match.groups()
    counts = [int(part) if part else None for part in parts]
    for (name, least), count in zip(LEAST_ROWS.items(), counts, strict=True):
        if count is not None and not least <= count <= MOST_ROWS:
            raise KdcacheError(
                f"--rows {shown(text)}: {name}: expected a number from {least} to {MOST_ROWS:,}, found {count:,}"
            )
    return task, Size(int(parts[0]), int(parts[1]), *counts[2:])
