"""The tables of metrics/: a frozen dataclass each, whose fields are the columns in their order.

Whoever makes a table gives its rows to `frame`; `reading.py` names what it needs of it by the same classes. A number
that could not be estimated is None, and blank in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class TrialRow:
    """trials.csv: a trial. Between `seed` and `device` there is a column for each metric, a fraction 0..1."""

    task: str
    student: str
    family: str
    init: str
    checkpoint: str
    layers: int | None
    teacher: str | None
    regularizer: str
    seed: int
    device: str
    identity: str


@dataclass(frozen=True)
class CostRow:
    """cost.csv: what a teacher, a cache or a trial took; blank where that is not known here."""

    kind: str
    task: str
    model: str
    regularizer: str | None
    seed: int | None
    seconds: float | None
    peak_memory_mb: float | None
    device: str | None


@dataclass(frozen=True)
class CurveRow:
    """curves.csv: the training loss of a configuration in an epoch, its mean over seeds."""

    task: str
    student: str
    init: str
    regularizer: str
    epoch: int
    seeds: int
    loss: float
    sd: float | None


@dataclass(frozen=True)
class ComparisonRow:
    """comparisons.csv: a configuration against the baseline; see `statistics.verdicts.compare`."""

    task: str
    student: str
    family: str
    init: str
    teacher: str | None
    regularizer: str
    metric: str
    baseline: str
    seeds: int | None
    paired: bool | None
    mean: float | None
    sd: float | None
    baseline_mean: float | None
    baseline_sd: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    t_p: float | None
    t_p_corrected: float | None
    welch_p: float | None
    permutation_p: float | None
    permutation_floor: float | None
    hedges_g: float | None
    margin: float | None
    tost_p: float | None
    tost_p_corrected: float | None
    verdict: str
    negligible: bool | None
    detectable: float | None
    note: str
    sd_difference: float | None
    beyond_p: float | None
    family_size: int | None
    bca_low: float | None
    bca_high: float | None
    cliffs_delta: float | None
    seeds_difference: int | None
    seeds_equivalence: int | None
    seeds_to_settle: int | None
    settled_by: str | None


@dataclass(frozen=True)
class ExampleRow:
    """examples.csv: a configuration against the baseline row by row; see `statistics.rowwise_table`."""

    task: str
    student: str
    init: str
    teacher: str | None
    regularizer: str
    metric: str
    baseline: str
    rows: int | None
    seeds: int | None
    difference: float | None
    gained: float | None
    lost: float | None
    mcnemar_p_min: float | None
    mcnemar_p_max: float | None
    mcnemar_below_alpha: int | None
    rows_p: float | None
    rows_p_corrected: float | None
    rows_low: float | None
    rows_high: float | None
    sd_rows: float | None
    sd_seeds: float | None
    sd_total: float | None
    total_low: float | None
    total_high: float | None
    note: str


@dataclass(frozen=True)
class CalibrationRow:
    """calibration.csv: a configuration's calibration against the baseline's; see `statistics.calibration`."""

    task: str
    student: str
    init: str
    teacher: str | None
    regularizer: str
    metric: str
    baseline: str
    seeds: int | None
    paired: bool | None
    mean: float | None
    sd: float | None
    baseline_mean: float | None
    baseline_sd: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    bca_low: float | None
    bca_high: float | None
    t_p: float | None
    t_p_corrected: float | None
    direction: str
    note: str


@dataclass(frozen=True)
class ReliabilityRow:
    """reliability.csv: a bin of a configuration's reliability diagram; see `statistics.reliability`."""

    task: str
    student: str
    init: str
    regularizer: str
    low: float | None
    high: float | None
    rows: int | None
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class AcrossRow:
    """across.csv: a method over several tasks; see `statistics.across.table`."""

    scope: str
    group: str
    init: str
    regularizer: str
    metric: str
    tasks: int | None
    trials: int | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    wilcoxon_p: float | None
    wilcoxon_p_corrected: float | None
    wilcoxon_floor: float | None
    permutation_p: float | None
    permutation_p_corrected: float | None
    permutation_floor: float | None
    mixed_difference: float | None
    mixed_ci_low: float | None
    mixed_ci_high: float | None
    mixed_p: float | None
    improvement: float | None
    improvement_ci_low: float | None
    improvement_ci_high: float | None
    bayes_worse: float | None
    bayes_within: float | None
    bayes_better: float | None
    family_size: int | None
    ranked_tasks: int | None
    mean_rank: float | None
    iqm: float | None
    iqm_ci_low: float | None
    iqm_ci_high: float | None
    friedman_p: float | None
    critical_difference: float | None
    note: str


@dataclass(frozen=True)
class InteractionRow:
    """In summary.json: a method's gain from scratch against its gain when pre-trained."""

    scope: str
    task: str
    checkpoint: str | None
    layers: int | None
    scratch: float | None
    pretrained: float | None
    regularizer: str
    metric: str
    unit: str | None
    n: int | None
    gain_scratch: float | None
    gain_pretrained: float | None
    interaction: float | None
    sd: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    p_corrected: float | None
    family_size: int | None
    detectable: float | None
    verdict: str
    note: str


@dataclass(frozen=True)
class TeacherNeededRow:
    """In summary.json: distillation against the methods that need no teacher."""

    scope: str
    task: str
    student: str
    init: str
    teacher: str | None
    regularizer: str
    against: str
    metric: str
    seeds: int | None
    paired: bool | None
    mean: float | None
    against_mean: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    sd_difference: float | None
    t_p: float | None
    t_p_corrected: float | None
    margin: float | None
    tost_p: float | None
    tost_p_corrected: float | None
    family_size: int | None
    verdict: str
    negligible: bool | None
    detectable: float | None
    note: str


def columns(table: type[Any]) -> list[str]:
    """A table's columns, in order."""
    return [field.name for field in fields(table)]


def frame(table: type[Any], rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A table from its rows, which may know more than the table shows; what one does not say is blank."""
    names = columns(table)
    return pd.DataFrame([{name: row.get(name) for name in names} for row in rows], columns=names)
