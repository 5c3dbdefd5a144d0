"""Every configuration against its baseline: better, worse, equivalent or inconclusive.

`compare` gives one row per task x student x regularizer of the study, whether or not its trials are there:
the grid comes from the study, so that a removed regularizer leaves and a missing one shows. Differences are
of the task's first metric, in points (100 x fraction), matched by seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from kdcache.errors import ComparisonError
from kdcache.params import Study
from kdcache.statistics import tests
from kdcache.statistics.families import correct_by_family, family_key, level

Verdict: TypeAlias = Literal["better", "worse", "equivalent", "inconclusive"]
Points: TypeAlias = dict[int, float]  # seed -> score in points

KEYS = ("task", "student", "regularizer", "seed")
COLUMNS = (
    "task", "student", "family", "init", "teacher", "regularizer", "metric", "baseline", "seeds", "paired",
    "mean", "sd", "baseline_mean", "baseline_sd", "difference", "ci_low", "ci_high",
    "t_p", "t_p_corrected", "welch_p", "permutation_p", "permutation_floor", "hedges_g",
    "margin", "tost_p", "tost_p_corrected", "verdict", "negligible", "detectable", "note",
    "sd_difference", "beyond_p", "family_size",
)  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What the trials say of one comparison before any correction; `None`: not estimable. Units: points."""

    seeds: int
    paired: bool
    mean: float | None = None
    sd: float | None = None
    baseline_mean: float | None = None
    baseline_sd: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    t_p: float | None = None
    welch_p: float | None = None
    permutation_p: float | None = None
    permutation_floor: float | None = None
    hedges_g: float | None = None
    tost_p: float | None = None
    sd_difference: float | None = None
    beyond_p: float | None = None


Detectable: TypeAlias = Callable[[float], float | None]  # level -> points


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

    Args:
        trials: trials.csv: task, student, regularizer, seed and a column of fractions per metric.

    Raises:
        ComparisonError: no trials at all, a missing column, a trial listed twice, a score outside -1..1.
    """
    table = points_table(trials, study)
    pairs = [(cell, *_evidence(cell, table, study)) for cell in study.configurations()
             if cell[2] != study.comparison.baseline]  # fmt: skip
    keys = [family_key(study.comparison.family, task, student) for (task, student, _), *_ in pairs]
    method, sizes = study.comparison.correction, Counter(keys)
    t_corrected = correct_by_family([evidence.t_p for _, evidence, *_ in pairs], keys, method)
    tost_corrected = correct_by_family([evidence.tost_p for _, evidence, *_ in pairs], keys, method)
    rows = [
        _row(cell, evidence, detectable, note, t_p, tost_p, sizes[key], study)
        for (cell, evidence, detectable, note), key, t_p, tost_p in zip(
            pairs, keys, t_corrected, tost_corrected, strict=True)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["family"] = frame["student"].map(_model_families(trials)).fillna("")
    return frame


def _model_families(trials: pd.DataFrame) -> dict[str, str]:
    """student -> model family (bert, gpt2, ...), as the trials recorded it."""
    if "family" not in trials.columns:
        return {}
    known = trials.dropna(subset=["family"])
    return dict(zip(known["student"], known["family"], strict=True))


def points_table(trials: pd.DataFrame, study: Study) -> dict[tuple[str, str, str], Points]:
    """(task, student, regularizer) -> {seed: points of the task's first metric}; NaN for a failed trial.

    Only what the study still asks for; see `compare` for the errors.
    """
    _check_layout(trials, study)
    table: dict[tuple[str, str, str], Points] = {cell: {} for cell in study.configurations()}
    for row in trials.to_dict("records"):
        cell = (row["task"], row["student"], row["regularizer"])
        if cell in table and row["seed"] in study.seeds:
            table[cell][int(row["seed"])] = _points(row, study.tasks[cell[0]].metrics[0])
    if not any(table.values()):
        raise ComparisonError("trials.csv has no trial of this study; run `dvc repro` first")
    return table


def _check_layout(trials: pd.DataFrame, study: Study) -> None:
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
    if abs(fraction) > 1:
        where = ", ".join(f"{key} {row[key]}" for key in KEYS)
        raise ComparisonError(f"trials.csv: {metric} must be a fraction in -1..1, found {fraction} ({where})")
    return 100.0 * fraction


def _evidence(
    cell: tuple[str, str, str], table: dict[tuple[str, str, str], Points], study: Study
) -> tuple[Evidence, Detectable, str]:
    """The evidence of one configuration, how to compute what it could detect, and the note."""
    task, student, regularizer = cell
    notes: list[str] = []
    baseline = study.comparison.baseline
    mine = _scored(table[cell], regularizer, notes)
    base = _scored(table[task, student, baseline], baseline, notes)
    margin = study.comparison.margin[study.tasks[task].metrics[0]]
    evidence, detectable = evidence_of(mine, base, margin, 1 - study.comparison.alpha, notes)
    return evidence, detectable, "; ".join(notes)


def _scored(points: Points, name: str, notes: list[str]) -> Points:
    """The trials that have a score; failed ones (NaN) are named in the notes."""
    failed = sorted(seed for seed, value in points.items() if math.isnan(value))
    if failed:
        notes.append(f"{name} has no score at seed {_listed(failed)} (left out: read with care)")
    return {seed: value for seed, value in sorted(points.items()) if seed not in failed}


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def evidence_of(
    mine: Points, base: Points, margin: float, confidence: float, notes: list[str]
) -> tuple[Evidence, Detectable]:
    """Compare by matched seeds where there are two or more, else by Welch, else not at all.

    `notes` receives every departure from the plain case. A seed that only one side has is left out of a
    matched comparison: a paired test needs both.
    """
    matched = sorted(mine.keys() & base.keys())
    if len(matched) >= 2:
        if len(matched) < max(len(mine), len(base)):
            notes.append(f"paired on {len(matched)} matched seeds of {len(mine)} against {len(base)}")
        return _paired([mine[s] for s in matched], [base[s] for s in matched], margin, confidence, notes)
    if len(mine) >= 2 and len(base) >= 2:
        found = "1 matched seed" if matched else "no matched seeds"
        notes.append(f"{found}: Welch on {len(mine)} against {len(base)}")
        return _unpaired(list(mine.values()), list(base.values()), margin, confidence, notes)
    return _untestable(mine, base, matched, notes)


def _paired(
    x: list[float], y: list[float], margin: float, confidence: float, notes: list[str]
) -> tuple[Evidence, Detectable]:
    d = tests.differences(x, y)
    interval = tests.mean_interval(d, confidence)
    if tests.constant(d):
        notes.append("every seed gives the same difference: no spread, so the exact sign-flip test is used")
    evidence = Evidence(
        seeds=len(x), paired=True, **_means(x, y),
        difference=interval.mean, ci_low=interval.ci_low, ci_high=interval.ci_high, sd_difference=interval.sd,
        t_p=tests.paired_t(d), welch_p=tests.welch_t(x, y),
        permutation_p=tests.sign_flip(d), permutation_floor=tests.sign_flip_floor(len(x)),
        hedges_g=tests.hedges_g_av(x, y), tost_p=tests.tost_paired(d, margin),
        beyond_p=tests.beyond_margin_paired(d, margin),
    )  # fmt: skip
    sd = interval.sd
    return evidence, lambda at: tests.detectable_difference(len(x), sd, at) if sd else None


def _unpaired(
    x: list[float], y: list[float], margin: float, confidence: float, notes: list[str]
) -> tuple[Evidence, Detectable]:
    interval = tests.welch_difference(x, y, confidence)
    if interval.ci_low is None:
        notes.append("neither side has any spread, so the exact permutation test is used")
    p = tests.welch_t(x, y)
    evidence = Evidence(
        seeds=len(x), paired=False, **_means(x, y),
        difference=interval.mean, ci_low=interval.ci_low, ci_high=interval.ci_high, t_p=p, welch_p=p,
        permutation_p=tests.label_permutation(x, y),
        permutation_floor=tests.label_permutation_floor(len(x), len(y)), hedges_g=tests.hedges_g_s(x, y),
        tost_p=tests.tost_welch(x, y, margin), beyond_p=tests.beyond_margin_welch(x, y, margin),
    )  # fmt: skip
    return evidence, lambda at: tests.detectable_welch(x, y, at)


def _untestable(
    mine: Points, base: Points, matched: list[int], notes: list[str]
) -> tuple[Evidence, Detectable]:
    """No test exists: fewer than two seeds on a side. What can be said (the means) is said."""
    if not mine or not base:
        notes.append("no trials yet" if not mine else "the baseline has no trials yet")
    else:
        notes.append(f"{len(mine)} seed against {len(base)}: a test needs two or more")
    x = [mine[s] for s in matched] or list(mine.values())
    y = [base[s] for s in matched] or list(base.values())
    difference = float(np.mean(x) - np.mean(y)) if x and y else None
    evidence = Evidence(seeds=len(x), paired=bool(matched), difference=difference, **_means(x, y))
    return evidence, lambda at: None


def _means(x: list[float], y: list[float]) -> dict[str, float | None]:
    (mean, sd), (baseline_mean, baseline_sd) = mean_sd(x), mean_sd(y)
    return {"mean": mean, "sd": sd, "baseline_mean": baseline_mean, "baseline_sd": baseline_sd}


def mean_sd(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and sample sd (n - 1); `None` where there are too few values."""
    return (
        float(np.mean(values)) if values else None,
        float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


def verdict(
    difference: float | None, t_p: float | None, tost_p: float | None, alpha: float
) -> tuple[Verdict, bool]:
    """The verdict and whether a significant difference is negligible, from corrected p-values."""
    within = tost_p is not None and tost_p <= alpha
    if difference is not None and t_p is not None and t_p <= alpha:
        return ("better" if difference > 0 else "worse"), within
    return ("equivalent" if within else "inconclusive"), False


def _row(
    cell: tuple[str, str, str], evidence: Evidence, detectable: Detectable, note: str,
    t_p: float | None, tost_p: float | None, size: int, study: Study,
) -> dict[str, Any]:  # fmt: skip
    task, student, regularizer = cell
    comparison, metric = study.comparison, study.tasks[task].metrics[0]
    word, negligible = verdict(evidence.difference, t_p, tost_p, comparison.alpha)
    return {
        **asdict(evidence), **describe(student, regularizer, study),
        "task": task, "student": student, "regularizer": regularizer, "metric": metric,
        "baseline": comparison.baseline, "margin": comparison.margin[metric],
        "t_p_corrected": t_p, "tost_p_corrected": tost_p, "verdict": word, "negligible": negligible,
        "detectable": detectable(level(comparison.alpha, size, comparison.correction)),
        "note": note, "family_size": size,
    }  # fmt: skip


def describe(student: str, regularizer: str, study: Study) -> dict[str, str]:
    """init and teacher (blank unless its logits are used) of a configuration."""
    params = study.students[student]
    teacher = params.teacher if study.method(regularizer).soft_labels == "teacher" else None
    return {"init": params.init, "teacher": teacher or ""}


def summary_table(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Mean and sd in points, and n, of every configuration, the baseline included, over all its seeds.

    Columns: task, student, init, regularizer, metric, n, mean, sd.
    """
    rows = []
    for (task, student, regularizer), points in points_table(trials, study).items():
        values = list(_scored(points, regularizer, []).values())
        mean, sd = mean_sd(values)
        rows.append({
            "task": task, "student": student, "init": study.students[student].init,
            "regularizer": regularizer, "metric": study.tasks[task].metrics[0],
            "n": len(values), "mean": mean, "sd": sd,
        })  # fmt: skip
    return pd.DataFrame(rows)
