"""Every configuration against its baseline row by row, in the layout of metrics/examples.csv."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from kdcache.results.schema import ExampleRow, frame
from kdcache.results.validation import Outputs
from kdcache.statistics import rowwise
from kdcache.statistics.families import correct_by_family, family_key
from kdcache.statistics.verdicts import describe
from kdcache.study import Study

Read: TypeAlias = Callable[[str, str, str], Outputs]  # task, student, regularizer


def compare_examples(study: Study, read: Read, resamples: int = rowwise.RESAMPLES) -> pd.DataFrame:
    """One row per configuration that is not the baseline, on the validation rows, seeds matched.

    Columns (see `examples` for the methods; a blank number is not defined or could not be estimated):

    - task, student, init, teacher, regularizer, metric (the task's first), baseline
    - rows: of the validation set; seeds: matched ones; difference: of the metric, points, mean over seeds
    - gained, lost: rows that only the configuration, only the baseline, has right; mean over seeds
    - mcnemar_p_min, mcnemar_p_max: of the exact test of each seed, uncorrected; mcnemar_below_alpha: how many seeds
      have p <= alpha
    - rows_p: the row-level sign-flip test of correctness over all seeds; rows_p_corrected: over the declared family
    - rows_low, rows_high: bootstrap interval of the difference for these models on other rows, at 1 - alpha
    - sd_rows, sd_seeds, sd_total: standard error of the difference, in points, from the choice of rows, of seeds, and
      both; total_low, total_high: interval for other seeds on other rows
    - note: every departure from the plain case

    gained to rows_p_corrected are about right and wrong, whatever the metric; a regression has none of them.

    Args:
        read: a configuration's outputs; at most two are held at a time.
    """
    rows = list(_rows(study, read, resamples))
    keys = [family_key(study.comparison.family, row["task"], row["student"]) for row in rows]
    corrected = correct_by_family([row["rows_p"] for row in rows], keys, study.comparison.correction)
    for row, p in zip(rows, corrected, strict=True):
        row["rows_p_corrected"] = p
    return frame(ExampleRow, rows)


def _rows(study: Study, read: Read, resamples: int) -> Iterator[dict[str, Any]]:
    """Configuration by configuration; a baseline is read once for its task and student."""
    held, base = None, None
    for task, student, regularizer in study.configurations():
        if regularizer == study.comparison.baseline:
            continue
        if base is None or held != (task, student):
            held, base = (task, student), read(task, student, study.comparison.baseline)
        yield {
            "task": task,
            "student": student,
            **describe(student, regularizer, study),
            "regularizer": regularizer,
            "metric": study.tasks[task].metrics[0],
            "baseline": study.comparison.baseline,
            **_compared(read(task, student, regularizer), base, study, task, resamples),
        }


def _compared(mine: Outputs, base: Outputs, study: Study, task: str, resamples: int) -> dict[str, Any]:
    matched = [seed for seed in mine.seeds if seed in base.seeds]
    facts = {"rows": len(base.labels), "seeds": len(matched), "rows_p": None, "note": ""}
    if not matched:
        return facts | {"note": "no matched seeds: rows cannot be compared pair by pair"}
    a, b = (side.outputs[[side.seeds.index(seed) for seed in matched]] for side in (mine, base))
    alpha, metric = study.comparison.alpha, study.tasks[task].metrics[0]
    found = asdict(rowwise.row_intervals(metric, base.labels, a, b, 1 - alpha, resamples))
    found["rows_low"], found["rows_high"] = found.pop("low"), found.pop("high")
    if len(matched) == 1:
        facts["note"] = "one seed: what other seeds would change is not known"
    elif not found["sd_total"]:
        facts["note"] = "no row and no seed makes a difference: nothing to estimate an error from"
    of_right = {} if study.tasks[task].regression else _right(a == base.labels, b == base.labels, alpha)
    return facts | found | of_right


def _right(a_right: ArrayLike, b_right: ArrayLike, alpha: float) -> dict[str, Any]:
    tests = rowwise.mcnemar(a_right, b_right)
    return {
        "gained": float(tests.gained.mean()),
        "lost": float(tests.lost.mean()),
        "mcnemar_p_min": float(tests.p.min()),
        "mcnemar_p_max": float(tests.p.max()),
        "mcnemar_below_alpha": int(np.sum(tests.p <= alpha)),
        "rows_p": rowwise.row_test(a_right, b_right),
    }
