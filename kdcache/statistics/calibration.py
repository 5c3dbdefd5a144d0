"""Does a regularizer change how well probabilities are calibrated? In the layout of metrics/calibration.csv.

Distillation and label smoothing push confidence in opposite directions, at equal accuracy. The scores are those of
trials.csv and **lower is better** in all of them: nll in nats, brier 0 to 2, ece 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import pandas as pd

from kdcache.errors import ComparisonError
from kdcache.results.schema import CalibrationRow
from kdcache.results.writing import tabulate
from kdcache.statistics.boundaries import Sides
from kdcache.statistics.evidence import Evidence, evidence_of, scored
from kdcache.statistics.families import correct_by_family, family_key
from kdcache.statistics.judging import verdict
from kdcache.statistics.looks import Design
from kdcache.statistics.settling import design_of, first_seeds
from kdcache.statistics.verdicts import KEYS, Cells, cells, check_layout, describe
from kdcache.study import Study, Task

METRICS = ("nll", "brier", "ece")
SHARED = {field.name for field in fields(CalibrationRow)} & {field.name for field in fields(Evidence)}


def compare_calibration(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per configuration that is not the baseline and calibration score; not for a regression.

    The columns mean the same as in `verdicts.compare`, but in the scores' own units instead of points. t_q, tost_q:
    with looks, the p-value divided by the share of alpha of the look that the configuration is at: the last look that
    it has all seeds of, without later seeds; before the first look they are blank. So the looks may have stopped for
    any reason. t_p_corrected, tost_p_corrected: over the declared family, separately for each score.
    direction: `better` (lower) or `worse` if t_p_corrected <= alpha; else `equivalent` if a margin is declared for the
    score and tost_p_corrected <= alpha; else `unclear`. A score without a column in trials.csv has no rows.

    Raises:
        ComparisonError: see `verdicts.compare`; or a score is infinite.
    """
    check_layout(trials, study)
    rows = [row for metric in METRICS if metric in trials.columns for row in _rows(trials, study, metric)]
    keys = [(row.metric, *family_key(study.comparison.family, row.task, row.student)) for row in rows]
    how = keys, study.comparison.correction
    of_difference = correct_by_family([row.t_q for row in rows], *how)
    of_equivalence = correct_by_family([row.tost_q for row in rows], *how)
    corrected = zip(rows, of_difference, of_equivalence, strict=True)
    rows = [_directed(*row, study.comparison.alpha) for row in corrected]
    order = {cell: place for place, cell in enumerate(study.configurations())}
    rows.sort(key=lambda row: order[row.task, row.student, row.regularizer])
    return tabulate(CalibrationRow, rows)


def _directed(row: CalibrationRow, t_p: float | None, tost_p: float | None, alpha: float) -> CalibrationRow:
    """The row with its corrected p-values, and the direction that they allow to say."""
    change = None if row.difference is None else -row.difference  # less is better
    word, _ = verdict(change, t_p, tost_p, alpha)
    direction = "unclear" if word == "inconclusive" else word
    return replace(row, t_p_corrected=t_p, tost_p_corrected=tost_p, direction=direction)


def _rows(trials: pd.DataFrame, study: Study, metric: str) -> Iterator[CalibrationRow]:
    def read(row: Mapping[Hashable, Any]) -> float:
        value = math.nan if pd.isna(row[metric]) else float(row[metric])
        if math.isinf(value):
            trial = ", ".join(f"{key} {row[key]}" for key in KEYS)
            raise ComparisonError(f"trials.csv: {metric} must be finite, found {value} ({trial})")
        return value

    table, baseline = cells(trials, study, read), study.comparison.baseline
    for task, student, regularizer in table:
        if regularizer != baseline and _has(study.tasks[task], metric):
            yield CalibrationRow(
                task=task,
                student=student,
                **describe(student, regularizer, study),
                regularizer=regularizer,
                metric=metric,
                baseline=baseline,
                direction="",
                **_compare_cell(table, (task, student, regularizer), study, metric),
            )


def _has(task: Task, metric: str) -> bool:
    """Whether a task's trials have this score: a language model has no Brier score."""
    return not (task.regression or (task.language_modelling and metric == "brier"))


def _compare_cell(table: Cells, cell: tuple[str, str, str], study: Study, metric: str) -> dict[str, Any]:
    """The comparison at the last look that the configuration has all seeds of; before the first look, without q."""
    notes: list[str] = []
    task, student, regularizer = cell
    of_baseline, design = (task, student, study.comparison.baseline), design_of(study)
    seeds = len(study.seeds_of(*cell))  # none of the looks' numbers, if the looks were changed since
    look = max(1, sum(n <= seeds for n in design.looks))
    table = first_seeds({name: table[name] for name in (cell, of_baseline)}, study, look)
    scores = scored(table[cell], regularizer, notes)
    base = scored(table[of_baseline], of_baseline[2], notes)
    margin = next((size for name, size in study.comparison.margin.items() if name == metric), None)
    confidence = 1 - design.nominal(look, design.alpha, 2)
    evidence, _ = evidence_of(scores, base, margin, confidence, notes)
    needed = design.looks[look - 1]
    complete = evidence.paired and evidence.seeds == needed
    shared = {name: getattr(evidence, name) for name in SHARED}
    t_p, tost_p = (evidence.t_p, evidence.tost_p) if seeds >= needed else (None, None)
    qs = {
        "t_q": _sequential(design, look, t_p, 2, complete),
        "tost_q": _sequential(design, look, tost_p, 1, complete),
    }
    return {**shared, **qs, "margin": margin, "note": "; ".join(notes)}


def _sequential(design: Design, look: int, p: float | None, sides: Sides, exact: bool) -> float | None:
    return None if p is None else float(design.sequential(look, p, sides, exact))
