"""The report's tables as plain values: all numbers are already in words, so that templates only lay them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from kdcache.report import declared
from kdcache.report.sections import WithoutCharts
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import ComparisonRow
from kdcache.statistics import wording
from kdcache.statistics.learned import NOTHING_LEARNED
from kdcache.study import Study
from kdcache.study.metrics import unit_of

COLUMNS_AT_ONCE = 6  # students side by side; more are put into another table
CLASS_OF_VERDICT = frozenset(wording.SIGNS)


@dataclass(frozen=True)
class Cell:
    """A configuration: its score, the difference from the baseline, the verdict."""

    score: str
    difference: str = ""
    interval: str = ""
    verdict: str = ""
    words: str = ""
    sign: str = ""
    note: str = ""
    key: str = ""  # the sort key


@dataclass(frozen=True)
class Column:
    """A student on a task."""

    task: str
    student: str
    init: str
    seeds: str


@dataclass(frozen=True)
class Row:
    """A regularizer, its recipe in short, and its cell in every column."""

    name: str
    recipe: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class MainTable:
    """Regularizers by students; `tasks` are the column groups: name, metric and number of columns."""

    tasks: list[tuple[str, str, int]]
    columns: list[Column]
    rows: list[Row]


@dataclass(frozen=True)
class OpenQuestion:
    """An inconclusive comparison, and why it is inconclusive."""

    group: str
    regularizer: str
    difference: str
    interval: str
    margin: str
    detectable: str
    seeds: str
    settle: str
    why: str


@dataclass(frozen=True)
class ResultsSection(WithoutCharts):
    template: ClassVar[str] = "sections/results.html.j2"
    tables: list[MainTable]


@dataclass(frozen=True)
class OpenSection(WithoutCharts):
    """The inconclusive comparisons, and what so few seeds cannot show."""

    template: ClassVar[str] = "sections/open.html.j2"
    rows: list[OpenQuestion]
    limits: str


def make_section(metrics: Metrics, study: Study) -> ResultsSection | None:
    shown = main_tables(metrics, study)
    return ResultsSection(shown) if shown else None


def make_open_section(metrics: Metrics, study: Study) -> OpenSection:
    questions = open_questions(metrics.comparisons, 1 - study.comparison.alpha)
    return OpenSection(questions, declared.limits(metrics))


def main_tables(metrics: Metrics, study: Study) -> list[MainTable]:
    """The main table, split between tasks if it is too wide for a page."""
    pairs = zip(metrics.comparisons["task"], metrics.comparisons["student"], strict=True)
    students = list(dict.fromkeys(pairs))
    chunks: list[list[tuple[str, str]]] = []
    for task in dict.fromkeys(task for task, _ in students):
        of_task = [pair for pair in students if pair[0] == task]
        for start in range(0, len(of_task), COLUMNS_AT_ONCE):
            part = of_task[start : start + COLUMNS_AT_ONCE]
            if chunks and len(chunks[-1]) + len(part) <= COLUMNS_AT_ONCE:
                chunks[-1] += part
            else:
                chunks.append(part)
    return [_main_table(chunk, metrics.comparisons, study) for chunk in chunks]


def _main_table(students: list[tuple[str, str]], comparisons: pd.DataFrame, study: Study) -> MainTable:
    by_key = {(row.task, row.student, row.regularizer): row for row in rows_of(ComparisonRow, comparisons)}
    most = {
        pair: _with_most_seeds(row for key, row in by_key.items() if key[:2] == pair) for pair in students
    }
    columns = [
        Column(task, student, most[task, student].init, _seeds(comparisons, task, student))
        for task, student in students
    ]
    tasks = [
        (task, wording.metric(study.tasks[task].metrics[0]), sum(pair[0] == task for pair in students))
        for task in dict.fromkeys(task for task, _ in students)
    ]
    base: list[Cell | None] = [_baseline_cell(most[pair], study) for pair in students]
    rows = [Row(study.comparison.baseline, wording.recipe_of(study, study.comparison.baseline), base)]
    for name, method in _compared(comparisons, study):
        cells = [_cell(by_key.get((*pair, name)), most[pair].seeds, study) for pair in students]
        if any(cells):
            rows.append(Row(name, method, cells))
    return MainTable(tasks, columns, rows)


def _seeds(comparisons: pd.DataFrame, task: str, student: str) -> str:
    rows = comparisons[(comparisons["task"] == task) & (comparisons["student"] == student)]
    low, high = int(rows["seeds"].min()), int(rows["seeds"].max())
    return wording.count(high, "seed") if low == high else f"{low} to {high} seeds"


def _compared(comparisons: pd.DataFrame, study: Study) -> list[tuple[str, str]]:
    """The compared regularizers in the order of the study, each with its recipe."""
    present = list(dict.fromkeys(comparisons["regularizer"]))
    return [(name, wording.recipe_of(study, name)) for name in study.methods() if name in present]


def _with_most_seeds(rows: Iterable[ComparisonRow]) -> ComparisonRow:
    return max(rows, key=lambda row: row.seeds)  # the first of them


def _baseline_cell(row: ComparisonRow, study: Study) -> Cell:
    """The baseline with the seeds of the comparison that has most of them."""
    score = wording.score(row.baseline_mean, unit_of(row.metric), row.baseline_sd)
    words = "baseline" + _at_seeds(row, study)
    return Cell(score, verdict="baseline", words=words, key=sort_key(row.baseline_mean))


def _at_seeds(row: ComparisonRow, study: Study) -> str:
    """With looks each comparison has seeds of its own: ", at 12 seeds"."""
    return f", at {wording.count(row.seeds, 'seed')}" if len(study.looks) > 1 else ""


def _cell(row: ComparisonRow | None, baseline_seeds: int, study: Study) -> Cell | None:
    """
    Args:
        baseline_seeds: of the baseline's cell. A comparison with fewer says what the baseline scored with those.
    """
    if row is None:
        return None
    unit = unit_of(row.metric)
    words = wording.outcome_words(row.verdict, row.negligible, row.outcome)
    words += _at_seeds(row, study)
    if row.seeds < baseline_seeds and not wording.missing(row.baseline_mean):
        words += f" (baseline {wording.score(row.baseline_mean, unit, None)})"
    return Cell(
        score=wording.score(row.mean, unit, row.sd),
        difference=wording.gain(row.difference, unit),
        interval=wording.gains(row.ci_low, row.ci_high, unit),
        verdict=row.verdict if row.verdict in CLASS_OF_VERDICT else "inconclusive",
        words=words,
        sign=wording.SIGNS.get(row.verdict, ""),
        note=row.note,
        key=sort_key(row.mean),
    )


def open_questions(comparisons: pd.DataFrame, confidence: float) -> list[OpenQuestion]:
    """The inconclusive comparisons, each with the reason in words."""
    return [
        OpenQuestion(
            group=wording.configuration(row.task, row.student),
            regularizer=row.regularizer,
            difference=wording.gain(row.difference, unit_of(row.metric)),
            interval=wording.gains(row.ci_low, row.ci_high, unit_of(row.metric)),
            margin=f"± {wording.amount(row.margin, unit_of(row.metric))}",
            detectable=wording.size(row.detectable, unit_of(row.metric)),
            seeds=wording.number(row.seeds, 0),
            settle=_settle(row),
            why=_why(row, confidence),
        )
        for row in rows_of(ComparisonRow, comparisons)
        if row.verdict == "inconclusive"
    ]


def _settle(row: ComparisonRow) -> str:
    """How many seeds would settle a comparison, and how: "12 (equivalence)", "more than 1000"."""
    if row.seeds_to_settle is None:
        return row.settled_by.removesuffix(" seeds") or wording.NONE
    return f"{row.seeds_to_settle} ({row.settled_by})"


def _why(row: ComparisonRow, confidence: float) -> str:
    if row.outcome == NOTHING_LEARNED:
        return row.note
    if row.ci_low is None or row.ci_high is None:
        return row.note or "no interval can be made from these seeds"
    level, note = f"the {100 * confidence:g}% interval", row.note
    if row.ci_low > 0 or row.ci_high < 0:
        reason = f"{level} excludes 0 taken alone, but not after the correction"
    elif -row.margin < row.ci_low and row.ci_high < row.margin:
        reason = f"{level} lies within the margin taken alone, but not after the correction"
    else:
        above, below = row.ci_high >= row.margin, row.ci_low <= -row.margin
        reason = f"{level} holds both 0 and {_beyond(above, below)} the margin"
    return f"{reason}; {note}" if note else reason


def _beyond(above: bool, below: bool) -> str:
    if above and below:
        return "differences beyond both ends of"
    return "gains beyond" if above else "losses beyond"


def sort_key(value: float | None) -> str:
    """The sort key of a number; empty, and so last, if there is no number."""
    return "" if wording.missing(value) else f"{value:.6g}"


KINDS = ("teacher", "cache", "views", "unlabelled", "trial")  # of cost.csv
NAMES = ("task", "student", "regularizer")

IN_UNIT = (wording.score, wording.gain, wording.size)  # are told a unit; the others below are not
# heading: the column of comparisons.csv and how it is written; the interval is written with the difference
NUMBERS: dict[str, tuple[str, Callable[..., str]]] = {
    "score": ("mean", wording.score),
    "baseline": ("baseline_mean", wording.score),
    "difference": ("difference", wording.gain),
    "from": ("ci_low", wording.size),
    "to": ("ci_high", wording.size),
    "corrected p": ("t_p_corrected", wording.p_value),
    "corrected TOST p": ("tost_p_corrected", wording.p_value),
    "detectable": ("detectable", wording.size),
    "seeds": ("seeds", wording.whole_number),
    "seeds to settle": ("seeds_to_settle", wording.whole_number),
    "paired t p": ("t_p", wording.p_value),
    "Welch p": ("welch_p", wording.p_value),
    "sign-flip p": ("permutation_p", wording.exact_p_value),
    "its floor": ("permutation_floor", wording.exact_p_value),
    "TOST p": ("tost_p", wording.p_value),
    "Hedges’ g": ("hedges_g", wording.two_decimals),
    "Cliff’s delta": ("cliffs_delta", wording.two_decimals),
}
