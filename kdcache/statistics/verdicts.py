"""Every configuration against its baseline: better, worse, equivalent or inconclusive.

`compare` gives one row per task x student x regularizer of the study, whether or not its trials are there:
the grid comes from the study, so that a removed regularizer disappears and a missing one is noticed. Differences are
of the task's first metric, in its unit (`kdcache.study.metrics`: points, which are 100 x a fraction; nats; bits),
matched by seed. They are positive if the configuration is better, which for a loss means less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, TypedDict

import pandas as pd

from kdcache.errors import ComparisonError
from kdcache.results.schema import ComparisonRow, LookRow
from kdcache.results.writing import tabulate
from kdcache.statistics.evidence import (
    Detectable,
    Evidence,
    Points,
    evidence_of,
    mean_sd,
    scored,
)
from kdcache.statistics.families import family_key
from kdcache.statistics.judging import to_settle
from kdcache.statistics.replay import TOLD, Outcome
from kdcache.statistics.settling import StudyReplay, design_of, first_seeds, replay_study
from kdcache.study import Study
from kdcache.study.metrics import POINTS, Unit, unit_of

Cells: TypeAlias = dict[tuple[str, str, str], Points]  # (task, student, regularizer) -> seed -> points
KEYS = ("task", "student", "regularizer", "seed")


def compare(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per configuration of the study (other than baselines), in the layout of comparisons.csv.

    Columns (a blank number could not be estimated, and `note` says why):

    - task, student, family, init, teacher (blank unless its logits are used), regularizer, metric, baseline
    - seeds: how many of the configuration's the comparison uses; paired: whether they are matched. With looks, those
      of the look at which it was judged last (`look`, from 1)
    - mean, sd, baseline_mean, baseline_sd, over exactly those seeds; difference, ci_low, ci_high (1 - alpha;
      with looks the repeated interval, valid at any look at which the comparison stops): mean - baseline_mean, or the
      reverse if less is better, so that a gain is positive
    - t_p: the test the verdict uses: paired t, or Welch where paired is False, or the exact permutation test
      if the scores have no spread; t_p_corrected: over the declared family (with looks
      it corrects t_q, which is t_p divided by the look's share of alpha)
    - welch_p, permutation_p (exact) and the smallest value that it can have, permutation_floor
    - hedges_g: g_av for matched seeds, g_s otherwise
    - margin (in the metric's unit), tost_p, tost_p_corrected, verdict, negligible (significant, yet within the margin)
    - detectable: the true difference that the corrected test finds with 80% power at this spread
    - sd_difference: of the matched differences; beyond_p: of H0: |true difference| <= margin; family_size
    - bca_low, bca_high: BCa bootstrap interval of the mean difference, at 1 - alpha
    - cliffs_delta: P(better) - P(worse) over all pairs of a score and a baseline score
    - of an inconclusive comparison, the fewest seeds with which, at this spread and the family's strictest level,
      with 80% power: seeds_difference: a true difference as observed would be found; seeds_equivalence: it would
      be shown to lie within the margin (blank when it is not within); seeds_to_settle: the smaller of the two;
      settled_by: difference, equivalence, or `more than 1000 seeds` (the numbers are then blank)
    - outcome: the verdict, or why there is none, see `replay.Outcome`; stopped_by: difference,
      equivalence, maximum or hopeless; t_q, tost_q: as in looks.csv

    Args:
        trials: trials.csv: task, student, regularizer, seed and a column of fractions per metric.

    Raises:
        ComparisonError: there are no trials, a column is missing, a trial is listed twice, or a score is outside -1..1.
    """
    points, families = points_table(trials, study), _model_families(trials)
    replayed = replay_study(points, study)
    rows = (
        _row(_compare_cell(outcome, points, study), outcome, families.get(name[1], ""), replayed, study)
        for name, outcome in replayed.outcomes.items()
    )
    order = {name: place for place, name in enumerate(study.configurations())}
    in_order = sorted(rows, key=lambda row: order[row.task, row.student, row.regularizer])
    return tabulate(ComparisonRow, in_order)


def tabulate_looks(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """looks.csv: the result of every look for every comparison that was open then; a fixed design has one look."""
    return tabulate(LookRow, replay_study(points_table(trials, study), study).rows)


def _model_families(trials: pd.DataFrame) -> dict[str, str]:
    """student -> model family (bert, gpt2, ...), as recorded in the trials."""
    if "family" not in trials.columns:
        return {}
    known = trials.dropna(subset=["family"])
    return dict(zip(known["student"], known["family"], strict=True))


def points_table(trials: pd.DataFrame, study: Study) -> Cells:
    """(task, student, regularizer) -> {seed: the task's first metric}; NaN for a failed trial.

    Points are in the metric's unit, turned so that more is better: an nll of 5.1 nats is -5.1 (`Unit.worth`). Only
    trials that the study still asks for are included; see `compare` for the errors.
    """
    check_layout(trials, study)
    table = cells(trials, study, lambda row: _points(row, study.tasks[row["task"]].metrics[0]))
    if not any(table.values()):
        raise ComparisonError("trials.csv has no trial of this study; run `dvc repro` first")
    return table


def cells(trials: pd.DataFrame, study: Study, read: Callable[[Mapping[Hashable, Any]], float]) -> Cells:
    """The result of `read` for each trial of the study's grid, by configuration and seed."""
    table: Cells = {cell: {} for cell in study.configurations()}
    for row in trials.to_dict("records"):
        cell = (row["task"], row["student"], row["regularizer"])
        if cell in table and row["seed"] in study.seeds:
            table[cell][int(row["seed"])] = read(row)
    return table


def check_layout(trials: pd.DataFrame, study: Study) -> None:
    """Refuse a table that lacks a column or lists a trial twice; see `compare`."""
    metrics = {task.metrics[0] for name, task in study.tasks.items() if name in set(trials.get("task", ()))}
    missing = [column for column in (*KEYS, *sorted(metrics)) if column not in trials.columns]
    if missing and len(trials):
        present = ", ".join(map(str, trials.columns))
        raise ComparisonError(f"trials.csv: no column {', '.join(missing)} (there are: {present})")
    if len(trials) and trials.duplicated(list(KEYS)).any():
        first = trials[trials.duplicated(list(KEYS))].iloc[0]
        trial = ", ".join(f"{key} {first[key]}" for key in KEYS)
        raise ComparisonError(f"trials.csv: the trial {trial} is listed twice; keep one")


def _points(row: Mapping[Hashable, Any], metric: str) -> float:
    value = row[metric]
    fraction = math.nan if value is None or pd.isna(value) else float(value)
    unit = unit_of(metric)
    if abs(fraction) > 1 and unit is POINTS:
        trial = ", ".join(f"{key} {row[key]}" for key in KEYS)
        raise ComparisonError(f"trials.csv: {metric} must be a fraction in -1..1, found {fraction} ({trial})")
    return unit.worth(fraction)


@dataclass(frozen=True)
class _Compared:
    """A configuration against the baseline before any correction, and a function for its detectable difference."""

    evidence: Evidence
    detectable: Detectable
    note: str


def _compare_cell(outcome: Outcome, table: Cells, study: Study) -> _Compared:
    """Compare on the seeds of the look at which the comparison was last judged, or else of the one it waits for."""
    task, student, regularizer = outcome.name
    baseline, design, notes = study.comparison.baseline, design_of(study), list[str]()
    look = outcome.last.look if outcome.last else outcome.look
    table = first_seeds(
        {name: table[name] for name in (outcome.name, (task, student, baseline))}, study, look
    )
    points = scored(table[outcome.name], regularizer, notes)
    base = scored(table[task, student, baseline], baseline, notes)
    margin = study.comparison.margin[study.tasks[task].metrics[0]]
    confidence = 1 - design.nominal(look, design.alpha, 2)
    evidence, detectable = evidence_of(points, base, margin, confidence, notes)
    return _Compared(evidence, detectable, "; ".join(notes))


def _row(
    compared: _Compared, outcome: Outcome, family: str, replayed: StudyReplay, study: Study
) -> ComparisonRow:
    """A row of the table.

    Args:
        family: the student's model family.
    """
    (task, student, regularizer), evidence, design = outcome.name, compared.evidence, replayed.design
    comparison, metric, last = study.comparison, study.tasks[task].metrics[0], outcome.last
    size = replayed.family_size(family_key(comparison.family, task, student))
    at, margin = design.strictest(size), comparison.margin[metric]
    decided = outcome.verdict in TOLD
    return ComparisonRow(
        task=task,
        student=student,
        family=family,
        **describe(student, regularizer, study),
        regularizer=regularizer,
        metric=metric,
        baseline=comparison.baseline,
        **as_shown(evidence, unit_of(metric)),
        margin=margin,
        verdict=outcome.verdict if decided else "inconclusive",
        negligible=outcome.negligible,
        detectable=compared.detectable(design.nominal(last.look if last else outcome.look, at, 2)),
        note=compared.note,
        family_size=size,
        **({} if decided else to_settle(evidence, margin, at)),
        outcome=outcome.verdict,
        stopped_by=outcome.stopped_by,
        **(_of_look(last) if last else {}),
    )


def as_shown(evidence: Evidence, unit: Unit) -> dict[str, Any]:
    """The evidence as columns: means are plain scores, differences stay gains."""
    means = {name: getattr(evidence, name) for name in ("mean", "baseline_mean")}
    shown = {name: None if value is None else unit.shown(value) for name, value in means.items()}
    return {**asdict(evidence), **shown}


def _of_look(row: LookRow) -> dict[str, Any]:
    return {
        "look": row.look,
        "t_q": row.t_q,
        "t_p_corrected": row.t_q_corrected,
        "tost_q": row.tost_q,
        "tost_p_corrected": row.tost_q_corrected,
    }


class Described(TypedDict):
    """Columns from the study: the student's init, and the teacher (blank unless its logits are used)."""

    init: str
    teacher: str


def describe(student: str, regularizer: str, study: Study) -> Described:
    params = study.students[student]
    return Described(init=params.init, teacher=study.method(regularizer).teacher_name(params) or "")


def tabulate_scores(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Mean and sd in the metric's unit, and n, of every configuration, the baseline included, over all its seeds.

    Columns: task, student, init, regularizer, metric, n, mean, sd.
    """
    rows = []
    for (task, student, regularizer), points in points_table(trials, study).items():
        values = list(scored(points, regularizer, []).values())
        mean, sd = mean_sd(values)
        metric = study.tasks[task].metrics[0]
        rows.append(
            {
                "task": task,
                "student": student,
                "init": study.students[student].init,
                "regularizer": regularizer,
                "metric": metric,
                "n": len(values),
                "mean": None if mean is None else unit_of(metric).shown(mean),
                "sd": sd,
            }
        )
    return pd.DataFrame(rows)
