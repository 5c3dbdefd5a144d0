"""The tables of metrics/: each is a frozen dataclass, whose fields are the columns in order.

`writing.py` makes a table from such rows, and `reading.py` reads them back. A field's type says what the column holds,
and in which unit. A number that could not be estimated is None here and blank in the file. A column with a default may
be missing from an older file; the default is then used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Scale:
    """The size of the numbers that a column is computed from; see `writing.without_noise`."""

    size: float


InPoints: TypeAlias = Annotated[float | None, Scale(100.0)]  # scores in points, and their differences
OfOne: TypeAlias = Annotated[
    float | None, Scale(1.0)
]  # fractions, probabilities, losses, effect sizes, ranks
PValue: TypeAlias = float | None  # may be tiny, so it is never taken for rounding noise
Amount: TypeAlias = float | None  # seconds, MiB, or a declared number: not computed from scores
Count: TypeAlias = int | None


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """trials.csv: one trial. Each of its scores, a fraction 0..1, has its own column, named after the metric."""

    task: str
    student: str
    family: str = ""
    init: str
    checkpoint: str
    layers: Count
    teacher: str | None = None
    regularizer: str
    seed: int
    scores: Mapping[str, float]
    device: str = ""
    identity: str = ""


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """cost.csv: what a teacher, a cache or a trial took; blank if it was not run on this machine."""

    kind: str  # teacher, cache, views, unlabelled or trial
    task: str
    model: str
    regularizer: str | None
    seed: Count
    seconds: Amount
    peak_memory_mb: Amount
    device: str | None


@dataclass(frozen=True, kw_only=True)
class CurveRow:
    """curves.csv: a configuration's training loss in an epoch, with its mean and sd over seeds."""

    task: str
    student: str
    init: str
    regularizer: str
    epoch: int
    seeds: int
    loss: OfOne
    sd: OfOne


@dataclass(frozen=True, kw_only=True)
class TeacherRow:
    """teachers.csv: how good a teacher is, and how soft its labels are; `teachers_table` explains the columns."""

    task: str
    teacher: str
    metric: str
    classes: int
    train: InPoints
    validation: InPoints
    majority: InPoints
    entropy: OfOne
    confidence: OfOne
    student: str
    student_score: InPoints
    gap: InPoints


@dataclass(frozen=True, kw_only=True)
class TuningRow:
    """tuning.csv: one tried setting with one seed; see `results.tuning`."""

    task: str
    role: str  # student or teacher
    model: str
    regularizer: str
    setting: int  # from 1, in the order in which they were tried
    values: str
    seed: int
    metric: str
    score: OfOne
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """comparisons.csv: a configuration against the baseline; `statistics.verdicts.compare` explains the columns."""

    task: str
    student: str
    family: str = ""
    init: str
    teacher: str = ""
    regularizer: str
    metric: str
    baseline: str
    seeds: int
    paired: bool = True
    mean: InPoints
    sd: InPoints
    baseline_mean: InPoints
    baseline_sd: InPoints
    difference: InPoints
    ci_low: InPoints
    ci_high: InPoints
    t_p: PValue = None
    t_p_corrected: PValue = None
    welch_p: PValue = None
    permutation_p: PValue = None
    permutation_floor: PValue
    hedges_g: OfOne = None
    margin: float
    tost_p: PValue = None
    tost_p_corrected: PValue = None
    verdict: str
    negligible: bool = False
    detectable: InPoints
    note: str = ""
    sd_difference: InPoints = None
    beyond_p: PValue = None
    family_size: Count = None
    bca_low: InPoints = None
    bca_high: InPoints = None
    cliffs_delta: OfOne = None
    seeds_difference: Count = None
    seeds_equivalence: Count = None
    seeds_to_settle: Count = None
    settled_by: str = ""
    look: Count = None
    outcome: str = ""
    stopped_by: str = ""
    t_q: PValue = None
    tost_q: PValue = None


@dataclass(frozen=True, kw_only=True)
class LookRow:
    """looks.csv: one comparison at one look.

    look: from 1; seeds: the number used, smaller than the look's if trials failed; share: the look's share of alpha;
    t_q, tost_q: the p-values divided by the share; chance: the probability that the last look decides, given this one;
    outcome: a verdict, or `goes on`; ci_low, ci_high: the repeated interval at 1 - alpha, valid at any look at which
    the comparison stops.
    """

    task: str
    student: str
    regularizer: str
    look: int
    seeds: int
    difference: InPoints
    sd: InPoints
    t_p: PValue
    tost_p: PValue
    share: float
    t_q: PValue
    tost_q: PValue
    t_q_corrected: PValue
    tost_q_corrected: PValue
    chance: PValue
    outcome: str
    ci_low: InPoints
    ci_high: InPoints

    @property
    def name(self) -> tuple[str, str, str]:
        return self.task, self.student, self.regularizer


@dataclass(frozen=True, kw_only=True)
class ExampleRow:
    """examples.csv: a configuration against the baseline, row by row; see `statistics.rowwise_table`."""

    task: str
    student: str
    init: str
    teacher: str = ""
    regularizer: str
    metric: str = ""
    baseline: str = ""
    rows: int
    seeds: int
    difference: InPoints = None
    gained: OfOne = None
    lost: OfOne = None
    mcnemar_p_min: PValue = None
    mcnemar_p_max: PValue = None
    mcnemar_below_alpha: Count = None
    rows_p: PValue = None
    rows_p_corrected: PValue = None
    rows_low: InPoints = None
    rows_high: InPoints = None
    sd_rows: InPoints = None
    sd_seeds: InPoints = None
    sd_total: InPoints = None
    total_low: InPoints = None
    total_high: InPoints = None
    note: str


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """calibration.csv: a configuration's calibration against the baseline's, in the score's own unit."""

    task: str
    student: str
    init: str
    teacher: str = ""
    regularizer: str
    metric: str
    baseline: str = ""
    seeds: Count = None
    paired: bool = True
    mean: OfOne = None
    sd: OfOne = None
    baseline_mean: OfOne = None
    baseline_sd: OfOne = None
    difference: OfOne
    ci_low: OfOne
    ci_high: OfOne
    bca_low: OfOne = None
    bca_high: OfOne = None
    t_p: PValue = None
    t_q: PValue = None
    t_p_corrected: PValue = None
    margin: float | None = None
    tost_p: PValue = None
    tost_q: PValue = None
    tost_p_corrected: PValue = None
    direction: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ReliabilityRow:
    """reliability.csv: one bin of a configuration's reliability diagram; see `statistics.reliability`."""

    task: str
    student: str
    init: str
    regularizer: str
    low: OfOne = None
    high: OfOne = None
    rows: int
    confidence: OfOne
    accuracy: OfOne


@dataclass(frozen=True, kw_only=True)
class AcrossRow:
    """across.csv: a method over several tasks; `statistics.across.table` explains the columns."""

    scope: str  # student or init
    group: str  # its name
    init: str
    regularizer: str
    metric: str = ""
    tasks: int
    trials: Count = None
    difference: InPoints = None
    ci_low: InPoints = None
    ci_high: InPoints = None
    wilcoxon_p: PValue = None
    wilcoxon_p_corrected: PValue = None
    wilcoxon_floor: PValue = None
    permutation_p: PValue = None
    permutation_p_corrected: PValue = None
    permutation_floor: PValue = None
    mixed_difference: InPoints = None
    mixed_ci_low: InPoints = None
    mixed_ci_high: InPoints = None
    mixed_p: PValue = None
    improvement: OfOne = None
    improvement_ci_low: OfOne = None
    improvement_ci_high: OfOne = None
    bayes_worse: OfOne = None
    bayes_within: OfOne = None
    bayes_better: OfOne = None
    family_size: Count = None
    ranked_tasks: Count = None
    mean_rank: OfOne = None
    iqm: InPoints = None
    iqm_ci_low: InPoints = None
    iqm_ci_high: InPoints = None
    friedman_p: PValue = None
    critical_difference: OfOne = None
    note: str


@dataclass(frozen=True, kw_only=True)
class InteractionRow:
    """In summary.json: a regularizer's gain from scratch against its gain when pretrained; see `interactions`."""

    scope: str  # pair or pooled
    task: str
    checkpoint: str
    layers: Count
    scratch: str  # the two students
    pretrained: str
    regularizer: str
    metric: str
    unit: str  # what n counts: seeds or pairs
    n: int
    margin: float
    gain_scratch: InPoints = None
    gain_pretrained: InPoints = None
    interaction: InPoints = None
    sd: InPoints = None
    ci_low: InPoints = None
    ci_high: InPoints = None
    p: PValue = None
    p_corrected: PValue = None
    below_p: PValue = None
    below_p_corrected: PValue = None
    family_size: Count = None
    detectable: InPoints = None
    verdict: str = ""
    negligible: bool = False
    look: Count = None
    note: str


@dataclass(frozen=True, kw_only=True)
class TeacherNeededRow:
    """In summary.json: distillation against methods without a teacher; see `statistics.against_teacher_free`."""

    scope: str  # cell or pooled
    task: str
    student: str
    init: str
    teacher: str
    regularizer: str
    against: str
    metric: str
    seeds: int
    paired: bool
    mean: InPoints
    against_mean: InPoints
    difference: InPoints
    ci_low: InPoints
    ci_high: InPoints
    sd_difference: InPoints
    t_p: PValue
    t_p_corrected: PValue = None
    margin: Amount
    tost_p: PValue
    tost_p_corrected: PValue = None
    family_size: Count = None
    verdict: str = ""
    negligible: bool = False
    detectable: InPoints = None
    look: Count = None
    note: str


@dataclass(frozen=True, kw_only=True)
class StorageRow(TeacherNeededRow):
    """In summary.json: KD from a part of a teacher's distributions against all of them; see `statistics.storage`."""

    stored: str
    bytes_per_token: OfOne
    against_bytes: OfOne


SCORES = "scores"  # the field of TrialRow that stands for several columns


def columns(table: type[Any]) -> list[str]:
    """A table's columns, in order, without a trial's scores (their columns depend on the trials)."""
    return [field.name for field in fields(table) if field.name != SCORES]


def fields_before_scores(table: type[Any]) -> int:
    """The number of columns before a trial's scores."""
    return [field.name for field in fields(table)].index(SCORES)


def defaults(table: type[Any]) -> dict[str, Any]:
    """The default of each column that an older file may lack; all other columns are required."""
    return {field.name: field.default for field in fields(table) if field.default is not MISSING}


def scales(table: type[Any]) -> dict[str, float]:
    """The scale of every column whose numbers are computed from scores."""
    hints = get_type_hints(table, include_extras=True)
    marked = {name: get_args(hint)[1:] for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {name: mark.size for name, marks in marked.items() for mark in marks if isinstance(mark, Scale)}


def plain_types(table: type[Any]) -> dict[str, type[Any]]:
    """The type of each column's values (str, int, float or bool), apart from blanks."""
    hints = {name: hint for name, hint in get_type_hints(table).items() if name != SCORES}
    return {name: (get_args(hint) or (hint,))[0] for name, hint in hints.items()}
