"""Every configuration against its baseline, row by row, in the layout of metrics/examples.csv."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from kdcache.results.evaluation import Outputs
from kdcache.results.schema import ExampleRow
from kdcache.results.writing import tabulate
from kdcache.statistics import rowwise
from kdcache.statistics.families import correct_by_family, family_key
from kdcache.statistics.verdicts import describe
from kdcache.study import Study
from kdcache.study.metrics import LOSSES

ReadOutputs: TypeAlias = Callable[[str, str, str], Outputs]  # task, student, regularizer


def compare_examples(study: Study, read: ReadOutputs, resamples: int = rowwise.RESAMPLES) -> pd.DataFrame:
    """One row per configuration (other than baselines), on the validation rows, with matched seeds.

    Columns (`rowwise` has the methods; a blank number is not defined or could not be estimated):

    - task, student, init, teacher, regularizer, metric (the task's first), baseline
    - rows: of the validation set (documents of language modelling); seeds: matched ones; difference: of the metric, in
      its unit and positive where better, mean over seeds
    - gained, lost: rows that only the configuration, only the baseline, has right; mean over seeds
    - mcnemar_p_min, mcnemar_p_max: of the exact test of each seed, uncorrected; mcnemar_below_alpha: how many seeds
      have p <= alpha
    - rows_p: the row-level sign-flip test of correctness over all seeds; rows_p_corrected: over the declared family
    - rows_low, rows_high: bootstrap interval of the difference for these models on other rows, at 1 - alpha
    - sd_rows, sd_seeds, sd_total: standard error of the difference, from the choice of rows, of seeds, and
      both; total_low, total_high: interval for other seeds on other rows
    - note: every departure from the plain case

    The columns from gained to rows_p_corrected are about right and wrong answers, whatever the metric. They are blank
    for a regression, and for a task that is judged by a loss.

    Args:
        read: gives a configuration's outputs; at most two are in memory.
    """
    rows = list(_rows(study, read, resamples))
    keys = [family_key(study.comparison.family, row.task, row.student) for row in rows]
    corrected = correct_by_family([row.rows_p for row in rows], keys, study.comparison.correction)
    return tabulate(
        ExampleRow, (replace(row, rows_p_corrected=p) for row, p in zip(rows, corrected, strict=True))
    )


def _rows(study: Study, read: ReadOutputs, resamples: int) -> Iterator[ExampleRow]:
    """Configuration by configuration; a baseline is read once for its task and student."""
    held, base = None, None
    for task, student, regularizer in study.configurations():
        if regularizer == study.comparison.baseline:
            continue
        if base is None or held != (task, student):
            held, base = (task, student), read(task, student, study.comparison.baseline)
        yield ExampleRow(
            task=task,
            student=student,
            **describe(student, regularizer, study),
            regularizer=regularizer,
            metric=study.tasks[task].metrics[0],
            baseline=study.comparison.baseline,
            rows=len(base.labels),
            **_compare_outputs(read(task, student, regularizer), base, study, task, resamples),
        )


def _compare_outputs(
    outputs: Outputs, base: Outputs, study: Study, task: str, resamples: int
) -> dict[str, Any]:
    """The columns of a row that come from the models' outputs."""
    matched = [seed for seed in outputs.seeds if seed in base.seeds]
    if not matched:
        note = "no matched seeds: rows cannot be compared pair by pair"
        return {"seeds": 0, "note": note}
    a, b = (side.outputs[[side.seeds.index(seed) for seed in matched]] for side in (outputs, base))
    alpha, metric = study.comparison.alpha, study.tasks[task].metrics[0]
    intervals = asdict(rowwise.row_intervals(metric, base.labels, a, b, 1 - alpha, resamples))
    intervals["rows_low"], intervals["rows_high"] = intervals.pop("low"), intervals.pop("high")
    is_right = None
    if not study.tasks[task].regression and metric not in LOSSES:
        is_right = a == base.labels, b == base.labels
    return {
        "seeds": len(matched),
        "note": _note(len(matched), intervals["sd_total"]),
        **intervals,
        **({} if is_right is None else _count_right(*is_right, alpha)),
    }


def _note(seeds: int, sd_total: float | None) -> str:
    """Every departure from the plain case."""
    if seeds == 1:
        return "one seed: what other seeds would change is not known"
    return "" if sd_total else "no row and no seed makes a difference: nothing to estimate an error from"


def _count_right(a_right: ArrayLike, b_right: ArrayLike, alpha: float) -> dict[str, Any]:
    tests = rowwise.mcnemar(a_right, b_right)
    return {
        "gained": float(tests.gained.mean()),
        "lost": float(tests.lost.mean()),
        "mcnemar_p_min": float(tests.p.min()),
        "mcnemar_p_max": float(tests.p.max()),
        "mcnemar_below_alpha": int(np.sum(tests.p <= alpha)),
        "rows_p": rowwise.row_test(a_right, b_right),
    }
