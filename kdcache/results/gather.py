"""Gather a study's results from disk into tables: one row per trial, and what everything cost.

The grid is enumerated from the study's params, never by looking at which folders exist: what a study no longer asks
for is in no table, and what is missing is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kdcache.errors import KdcacheError
from kdcache.logits import Cost, LogitCache
from kdcache.results.schema import CostRow, TrialRow, columns, frame
from kdcache.study import Study
from kdcache.system.files import read_json
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.identity import caches_beside
from kdcache.trials.layout import TEACHER, trial_folder
from kdcache.trials.result import TrialCost, TrialResult, read_cost, read_result
from kdcache.trials.scores import trial_scores

FIGURES = ("seconds", "peak_memory_mb", "device")
SCORES = "scores"
CURVES = ["task", "student", "init", "regularizer", "epoch"]


class ResultsError(KdcacheError):
    """Results that the study asks for are missing."""


def read_trials(study: Study, trials: Path) -> list[TrialResult]:
    """Every trial of the study's grid, in the order of params.yaml.

    Args:
        trials: the folder that holds `<task>/<student>/<regularizer>/seed-<s>/`.

    Raises:
        ResultsError: trials are missing (the first few are named), or a student began with different weights.
    """
    found, missing = [], []
    for task, student, regularizer in study.configurations():
        for seed in study.seeds:
            folder = trial_folder(trials / task / student / regularizer, seed)
            result = read_result(folder)
            if result is None:
                missing.append(str(folder))
            else:
                found.append(result)
    if missing:
        listed = "\n".join(f"  {folder}" for folder in missing[:10])
        raise ResultsError(f"{len(missing)} trials are missing (run `dvc repro`), the first are:\n{listed}")
    _check_starts(found)
    return found


def _check_starts(results: list[TrialResult]) -> None:
    """Only trials that began with the same model can be compared: a branch of the hub moves, perhaps half-way."""
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
    """metrics/trials.csv: one row per trial, each metric a fraction 0..1 in its own column, then the identity.

    Args:
        results: those of `read_trials`.
        scores: a trial's, by metric; see `Scores`.
    """
    rows = [_trial_row(result, study) | {SCORES: scores(result)} for result in results]
    metrics = list(dict.fromkeys(metric for row in rows for metric in row[SCORES]))
    names = columns(TrialRow)
    place = names.index("seed") + 1
    order = [*names[:place], *metrics, *names[place:]]
    table = pd.DataFrame([{**row, **row[SCORES]} for row in rows], columns=order)
    table["layers"] = table["layers"].astype("Int64")
    return table


def _trial_row(result: TrialResult, study: Study) -> dict[str, Any]:
    fields, student = result.model_dump(include=set(columns(TrialRow))), study.students[result.student]
    # Names that a trial is kept under when they change: a moved checkpoint, a teacher of another name.
    teacher = study.method(result.regularizer).teacher_name(student)
    return fields | {"checkpoint": student.checkpoint, "teacher": teacher}


class Scores:
    """The scores of a study's trials, computed from the logits that they keep.

    Args:
        root: the folder that holds `tasks/` and `trials/`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tasks: dict[str, PreparedTask] = {}

    def __call__(self, result: TrialResult) -> dict[str, float]:
        """A trial's scores by metric.

        Raises:
            ResultsError: result.json (of kdcache 0.1) has other scores than its logits give.
            CacheError: the logits are missing, damaged, or of other rows than the task's.
        """
        if result.task not in self._tasks:
            self._tasks[result.task] = PreparedTask(self._root / "tasks" / result.task)
        folder = folder_of(self._root, result)
        scores = trial_scores(folder, self._tasks[result.task])
        for metric, value in (result.metrics or {}).items():
            if not math.isclose(value, scores.get(metric, math.nan), rel_tol=1e-6, abs_tol=1e-9):
                raise ResultsError(
                    f"{folder}: result.json says {metric} {value}, the logits beside it give {scores.get(metric)}; one "
                    "of them was edited: delete the folder and run `dvc repro`"
                )
        return scores


def folder_of(root: Path, result: TrialResult) -> Path:
    """A trial's folder."""
    return trial_folder(root / "trials" / result.task / result.student / result.regularizer, result.seed)


def cost_table(study: Study, root: Path, results: Iterable[TrialResult]) -> pd.DataFrame:
    """metrics/cost.csv: one row per teacher (paid once), logit cache and trial: seconds, MiB, device.

    A cache is of kind `cache`; those inside it of augmented views and of unlabelled rows are `views` and `unlabelled`.
    What a run took lies beside its result and does not travel with it: elsewhere the numbers are blank.

    Args:
        root: the folder that holds `teachers/`, `logits/` and `trials/`.
        results: those of `read_trials`.
    """
    rows = [*_teacher_costs(study, root), *(_trial_cost(root, result) for result in results)]
    return frame(CostRow, rows).astype({"seed": "Int64", "seconds": float, "peak_memory_mb": float})


def _teacher_costs(study: Study, root: Path) -> Iterator[dict[str, Any]]:
    for task, teacher in study.taught():
        folder = root / "logits" / task / teacher
        common = {"task": task, "model": teacher}
        taught = read_cost(root / "teachers" / task / teacher)
        yield {"kind": "teacher", **common, **_figures(taught, read_json(folder / TEACHER))}
        yield {"kind": "cache", **common, **_figures(LogitCache(folder).cost)}
        for part in caches_beside(study.tasks[task]):
            yield {"kind": part, **common, **_figures(LogitCache(folder / part).cost)}


def _trial_cost(root: Path, result: TrialResult) -> dict[str, Any]:
    names = {
        "task": result.task,
        "model": result.student,
        "regularizer": result.regularizer,
        "seed": result.seed,
    }
    return {"kind": "trial", **names, **_figures(read_cost(folder_of(root, result)), result.model_dump())}


def _figures(cost: Cost | TrialCost | None, record: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Seconds, peak memory and device: of cost.json, or (of kdcache 0.1) of the record itself."""
    found = cost.model_dump() if cost is not None else record or {}
    return {name: found.get(name) for name in FIGURES}


def curves_table(results: Iterable[TrialResult]) -> pd.DataFrame:
    """metrics/curves.csv: one row per configuration and epoch, the mean training loss over its seeds and their sd.

    `seeds` is how many have that epoch. The loss is what the regularizer trains on, soft labels and all: its level
    says nothing between regularizers, its course does.

    Args:
        results: those of `read_trials`.
    """
    rows = [
        [result.task, result.student, result.init, result.regularizer, epoch, loss]
        for result in results
        for epoch, loss in enumerate(result.losses, start=1)
    ]
    losses = pd.DataFrame(rows, columns=[*CURVES, "loss"]).groupby(CURVES, sort=False)["loss"]
    return losses.agg(seeds="count", loss="mean", sd="std").reset_index()
