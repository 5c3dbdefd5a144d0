"""Gather a study's results from disk into tables: one row per trial, and what everything cost.

The grid is enumerated from the study's params, never from the folders that exist: results that a study no longer asks
for are in no table, and a missing result is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdcache.errors import KdcacheError
from kdcache.logits import Cost, LogitCache
from kdcache.logits.opening import open_cache
from kdcache.results.schema import CostRow, CurveRow, TrialRow
from kdcache.results.writing import tabulate
from kdcache.study import Study
from kdcache.trials.identity import caches_beside
from kdcache.trials.layout import trial_folder
from kdcache.trials.result import TrialCost, TrialResult, read_cost, read_result, read_teacher

FIGURES = ("seconds", "peak_memory_mb", "device")


class ResultsError(KdcacheError):
    """Results that the study asks for are missing."""


def read_trials(study: Study, trials: Path) -> list[TrialResult]:
    """Every trial of the study's grid, in the order of params.yaml.

    Args:
        trials: the folder that holds `<task>/<student>/<regularizer>/seed-<s>/`.

    Raises:
        ResultsError: trials are missing (the first few are named), or a student's trials began with different weights.
    """
    results, missing = [], []
    for task, student, regularizer, seed in study.all_trials():
        folder = trial_folder(trials / task / student / regularizer, seed)
        result = read_result(folder)
        if result is None:
            missing.append(str(folder))
        else:
            results.append(result)
    if missing:
        listed = "\n".join(f"  {folder}" for folder in missing[:10])
        run = "kdcache settle" if study.comparison.looks else "dvc repro"
        raise ResultsError(f"{len(missing)} trials are missing (run `{run}`), the first are:\n{listed}")
    _check_starts(results)
    return results


def _check_starts(results: list[TrialResult]) -> None:
    """Refuse trials of a student that began with different models: a hub branch may move during a study."""
    starts: dict[tuple[str, str], dict[str | None, TrialResult]] = {}
    for result in results:
        starts.setdefault((result.task, result.student), {}).setdefault(result.start, result)
    for (task, student), kinds in starts.items():
        if len(kinds) > 1:
            listed = "; ".join(
                f"{kind.regularizer} seed {kind.seed}: {kind.commit or 'a folder'}" for kind in kinds.values()
            )
            raise ResultsError(
                f"students.{student}: its trials on {task} did not begin with the same weights and tokenizer "
                f"({kinds[next(iter(kinds))].checkpoint} at {listed}); pin `revision` to one commit and run `dvc repro`"
            )


def trials_table(
    study: Study, results: Iterable[TrialResult], scores: Callable[[TrialResult], Mapping[str, float]]
) -> pd.DataFrame:
    """metrics/trials.csv: one row per trial, each metric (a fraction, nats, bits) a column, then the identity.

    Args:
        results: the results of `read_trials`.
        scores: gives a trial's scores by metric; see `evaluation.Evaluation`.
    """
    table = tabulate(TrialRow, (_trial_row(result, study, scores(result)) for result in results))
    return table.astype({"layers": "Int64"})


def _trial_row(result: TrialResult, study: Study, scores: Mapping[str, float]) -> TrialRow:
    student = study.students[result.student]
    return TrialRow(
        task=result.task,
        student=result.student,
        family=result.family,
        init=result.init,
        # Names come from the study, since a trial stays valid if they change: a moved checkpoint, a renamed teacher.
        checkpoint=student.checkpoint,
        layers=result.layers,
        teacher=study.method(result.regularizer).teacher_name(student),
        regularizer=result.regularizer,
        seed=result.seed,
        scores=scores,
        device=result.device,
        identity=result.identity,
    )


def folder_of(root: Path, result: TrialResult) -> Path:
    """A trial's folder."""
    return trial_folder(root / "trials" / result.task / result.student / result.regularizer, result.seed)


def cost_table(study: Study, root: Path, results: Iterable[TrialResult]) -> pd.DataFrame:
    """metrics/cost.csv: one row per teacher (paid once), logit cache and trial: seconds, MiB, device.

    A teacher's cache has the kind `cache`; the caches inside it, of augmented views and of unlabelled rows, have the
    kinds `views` and `unlabelled`. A run's cost lies beside its result but is not kept by DVC, so on another machine
    the numbers are blank.

    Args:
        root: the folder that holds `teachers/`, `logits/` and `trials/`.
        results: the results of `read_trials`.
    """
    rows = [*_teacher_costs(study, root), *(_trial_cost(root, result) for result in results)]
    table = tabulate(CostRow, rows)
    return table.astype({"seed": "Int64", "seconds": float, "peak_memory_mb": float})


def _teacher_costs(study: Study, root: Path) -> Iterator[CostRow]:
    for task, teacher in study.taught():
        folder = root / "logits" / task / teacher
        taught = read_cost(root / "teachers" / task / teacher)
        yield _once("teacher", task, teacher, _figures(taught, read_teacher(folder)))
        yield _once("cache", task, teacher, _figures(open_cache(folder).cost))
        for part in caches_beside(study.tasks[task]):
            yield _once(part, task, teacher, _figures(LogitCache(folder / part).cost))


def _once(kind: str, task: str, teacher: str, figures: dict[str, Any]) -> CostRow:
    return CostRow(kind=kind, task=task, model=teacher, regularizer=None, seed=None, **figures)


def _trial_cost(root: Path, result: TrialResult) -> CostRow:
    return CostRow(
        kind="trial",
        task=result.task,
        model=result.student,
        regularizer=result.regularizer,
        seed=result.seed,
        **_figures(read_cost(folder_of(root, result)), result.model_dump(include=set(FIGURES))),
    )


def _figures(cost: Cost | TrialCost | None, record: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Seconds, peak memory and device: from cost.json, or (kdcache 0.1) from the record itself."""
    known = cost.model_dump() if cost is not None else record or {}
    return {name: known.get(name) for name in FIGURES}


def curves_table(results: Iterable[TrialResult]) -> pd.DataFrame:
    """metrics/curves.csv: one row per configuration and epoch, with the mean and sd over seeds of the training loss.

    `seeds` is the number of seeds that have the epoch. The loss is the one that the regularizer trains on, soft labels
    included. So its level cannot be compared between regularizers, but its course can.

    Args:
        results: the results of `read_trials`.
    """
    losses: dict[tuple[str, str, str, str, int], list[float]] = {}
    for result in results:
        for epoch, loss in enumerate(result.losses, start=1):
            key = (result.task, result.student, result.init, result.regularizer, epoch)
            losses.setdefault(key, []).append(loss)
    return tabulate(CurveRow, (_curve_row(*key, of_seeds) for key, of_seeds in losses.items()))


def _curve_row(
    task: str, student: str, init: str, regularizer: str, epoch: int, losses: list[float]
) -> CurveRow:
    known = [loss for loss in losses if not math.isnan(loss)]
    return CurveRow(
        task=task,
        student=student,
        init=init,
        regularizer=regularizer,
        epoch=epoch,
        seeds=len(known),
        loss=float(np.mean(known)) if known else None,
        sd=float(np.std(known, ddof=1)) if len(known) > 1 else None,
    )
