"""Every configuration against its baseline: better, worse, equivalent or inconclusive.

`compare` gives one row per task x student x regularizer of the study, whether or not its trials are there:
the grid comes from the study, so that a removed regularizer leaves and a missing one shows. Differences are
of the task's first metric, in points (100 x fraction), matched by seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict
from typing import Any, Literal, TypeAlias

import pandas as pd

from kdcache.errors import ComparisonError
from kdcache.results.schema import ComparisonRow, frame
from kdcache.statistics import power
from kdcache.statistics.evidence import (
    LOWER_IS_BETTER,
    Detectable,
    Evidence,
    Points,
    evidence_of,
    gain,
    mean_sd,
    scored,
)
from kdcache.statistics.families import correct_by_family, family_key, level
from kdcache.study import Study

Cells: TypeAlias = dict[tuple[str, str, str], Points]  # by task, student and regularizer
Verdict: TypeAlias = Literal["better", "worse", "equivalent", "inconclusive"]

KEYS = ("task", "student", "regularizer", "seed")
NO_SEEDS: dict[str, Any] = {
    "seeds_difference": None,
    "seeds_equivalence": None,
    "seeds_to_settle": None,
    "settled_by": "",
}


def compare(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per configuration of the study that is not the baseline, in the layout of comparisons.csv.

    Columns (a blank number could not be estimated, and `note` says why):

    - task, student, family, init, teacher (blank unless its logits are used), regularizer, metric, baseline
    - seeds: how many of the configuration's the comparison uses; paired: whether they are matched
    - mean, sd, baseline_mean, baseline_sd, over exactly those seeds; difference, ci_low, ci_high (1 - alpha)
    - t_p: the test the verdict uses: paired t, or Welch where paired is False, or the exact permutation test
      where the scores have no spread; t_p_corrected: over the declared family
    - welch_p, permutation_p (exact) and the smallest value that it can have, permutation_floor
    - hedges_g: g_av for matched seeds, g_s otherwise
    - margin (points), tost_p, tost_p_corrected, verdict, negligible (significant, yet within the margin)
    - detectable: the true difference that the corrected test finds with 80% power at this spread
    - sd_difference: of the matched differences; beyond_p: H0 |true difference| <= margin; family_size
    - bca_low, bca_high: BCa bootstrap interval of the mean difference, at 1 - alpha
    - cliffs_delta: P(higher) - P(lower) over all pairs of a score and a baseline score
    - of an inconclusive comparison, the fewest seeds with which, at this spread and the family's strictest level,
      with 80% power: seeds_difference: a true difference as observed would be found; seeds_equivalence: it would
      be shown to lie within the margin (blank when it is not within); seeds_to_settle: the smaller of the two;
      settled_by: difference, equivalence, or `more than 1000 seeds` (the numbers are then blank)

    Args:
        trials: trials.csv: task, student, regularizer, seed and a column of fractions per metric.

    Raises:
        ComparisonError: no trials at all, a missing column, a trial listed twice, a score outside -1..1.
    """
    points = points_table(trials, study)
    pairs = [
        (cell, *_evidence(cell, points, study))
        for cell in study.configurations()
        if cell[2] != study.comparison.baseline
    ]
    keys = [family_key(study.comparison.family, task, student) for (task, student, _), *_ in pairs]
    method, sizes = study.comparison.correction, Counter(keys)
    t_corrected = correct_by_family([evidence.t_p for _, evidence, *_ in pairs], keys, method)
    tost_corrected = correct_by_family([evidence.tost_p for _, evidence, *_ in pairs], keys, method)
    rows = [
        _row(cell, evidence, detectable, note, t_p, tost_p, sizes[key], study)
        for (cell, evidence, detectable, note), key, t_p, tost_p in zip(
            pairs, keys, t_corrected, tost_corrected, strict=True
        )
    ]
    table = frame(ComparisonRow, rows)
    table["family"] = table["student"].map(_model_families(trials)).fillna("")
    return table


def _model_families(trials: pd.DataFrame) -> dict[str, str]:
    """student -> model family (bert, gpt2, ...), as the trials recorded it."""
    if "family" not in trials.columns:
        return {}
    known = trials.dropna(subset=["family"])
    return dict(zip(known["student"], known["family"], strict=True))


def points_table(trials: pd.DataFrame, study: Study) -> Cells:
    """(task, student, regularizer) -> {seed: points of the task's first metric}; NaN for a failed trial.

    Only what the study still asks for; see `compare` for the errors.
    """
    check_layout(trials, study)
    table = cells(trials, study, lambda row: _points(row, study.tasks[row["task"]].metrics[0]))
    if not any(table.values()):
        raise ComparisonError("trials.csv has no trial of this study; run `dvc repro` first")
    return table


def cells(trials: pd.DataFrame, study: Study, read: Callable[[Mapping[Hashable, Any]], float]) -> Cells:
    """What `read` makes of each trial of the study's grid, by configuration and seed."""
    table: Cells = {cell: {} for cell in study.configurations()}
    for row in trials.to_dict("records"):
        cell = (row["task"], row["student"], row["regularizer"])
        if cell in table and row["seed"] in study.seeds:
            table[cell][int(row["seed"])] = read(row)
    return table


def check_layout(trials: pd.DataFrame, study: Study) -> None:
    """Refuse a table that lacks a column or has a trial twice; see `compare`."""
    metrics = {task.metrics[0] for name, task in study.tasks.items() if name in set(trials.get("task", ()))}
    missing = [column for column in (*KEYS, *sorted(metrics)) if column not in trials.columns]
    if missing and len(trials):
        found = ", ".join(map(str, trials.columns))
        raise ComparisonError(f"trials.csv: no column {', '.join(missing)} (there are: {found})")
    if len(trials) and trials.duplicated(list(KEYS)).any():
        first = trials[trials.duplicated(list(KEYS))].iloc[0]
        where = ", ".join(f"{key} {first[key]}" for key in KEYS)
        raise ComparisonError(f"trials.csv: the trial {where} is listed twice; keep one")


def _points(row: Mapping[Hashable, Any], metric: str) -> float:
    value = row[metric]
    fraction = math.nan if value is None or pd.isna(value) else float(value)
    if abs(fraction) > 1 and metric not in LOWER_IS_BETTER:
        where = ", ".join(f"{key} {row[key]}" for key in KEYS)
        raise ComparisonError(f"trials.csv: {metric} must be a fraction in -1..1, found {fraction} ({where})")
    return 100.0 * fraction


def _evidence(cell: tuple[str, str, str], table: Cells, study: Study) -> tuple[Evidence, Detectable, str]:
    """The evidence of one configuration, how to compute what it could detect, and the note."""
    task, student, regularizer = cell
    notes: list[str] = []
    baseline = study.comparison.baseline
    mine = scored(table[cell], regularizer, notes)
    base = scored(table[task, student, baseline], baseline, notes)
    margin = study.comparison.margin[study.tasks[task].metrics[0]]
    evidence, detectable = evidence_of(mine, base, margin, 1 - study.comparison.alpha, notes)
    return evidence, detectable, "; ".join(notes)


def verdict(
    difference: float | None, t_p: float | None, tost_p: float | None, alpha: float
) -> tuple[Verdict, bool]:
    """The verdict and whether a significant difference is negligible, from corrected p-values.

    `difference` is a gain: positive is better (see `evidence.gain`).
    """
    within = tost_p is not None and tost_p <= alpha
    if difference is not None and t_p is not None and t_p <= alpha:
        return ("better" if difference > 0 else "worse"), within
    return ("equivalent" if within else "inconclusive"), False


def to_settle(evidence: Evidence, margin: float, at: float) -> dict[str, Any]:
    """How many seeds would settle a comparison either way, at the level `at`; the last columns of `compare`."""
    spread = evidence.spread
    if spread is None or evidence.difference is None:
        return NO_SEEDS
    found = {
        "difference": power.seeds_to_find(evidence.difference, spread, at),
        "equivalence": power.seeds_to_equate(evidence.difference, spread, margin, at),
    }
    known = {way: seeds for way, seeds in found.items() if seeds is not None}
    by = min(known, key=lambda way: known[way], default=f"more than {power.MOST_SEEDS} seeds")
    return {
        "seeds_difference": found["difference"],
        "seeds_equivalence": found["equivalence"],
        "seeds_to_settle": known.get(by),
        "settled_by": by,
    }


def _row(
    cell: tuple[str, str, str],
    evidence: Evidence,
    detectable: Detectable,
    note: str,
    t_p: float | None,
    tost_p: float | None,
    size: int,
    study: Study,
) -> dict[str, Any]:
    task, student, regularizer = cell
    comparison, metric = study.comparison, study.tasks[task].metrics[0]
    at = level(comparison.alpha, size, comparison.correction)
    change = None if evidence.difference is None else gain(metric, evidence.difference)
    word, negligible = verdict(change, t_p, tost_p, comparison.alpha)
    settling = to_settle(evidence, comparison.margin[metric], at) if word == "inconclusive" else NO_SEEDS
    return {
        **asdict(evidence),
        **settling,
        **describe(student, regularizer, study),
        "task": task,
        "student": student,
        "regularizer": regularizer,
        "metric": metric,
        "baseline": comparison.baseline,
        "margin": comparison.margin[metric],
        "t_p_corrected": t_p,
        "tost_p_corrected": tost_p,
        "verdict": word,
        "negligible": negligible,
        "detectable": detectable(at),
        "note": note,
        "family_size": size,
    }


def describe(student: str, regularizer: str, study: Study) -> dict[str, str]:
    """init and teacher (blank unless its logits are used) of a configuration."""
    params = study.students[student]
    return {"init": params.init, "teacher": study.method(regularizer).teacher_name(params) or ""}


def summary_table(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Mean and sd in points, and n, of every configuration, the baseline included, over all its seeds.

    Columns: task, student, init, regularizer, metric, n, mean, sd.
    """
    rows = []
    for (task, student, regularizer), points in points_table(trials, study).items():
        values = list(scored(points, regularizer, []).values())
        mean, sd = mean_sd(values)
        rows.append(
            {
                "task": task,
                "student": student,
                "init": study.students[student].init,
                "regularizer": regularizer,
                "metric": study.tasks[task].metrics[0],
                "n": len(values),
                "mean": mean,
                "sd": sd,
            }
        )
    return pd.DataFrame(rows)
