"""The report's tables as plain values: every number already in words, a template only lays them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdcache.report import wording
from kdcache.report.cells import cell_key, p_value_4, score, two, where_text, whole, with_rows
from kdcache.results.reading import Metrics
from kdcache.study import Study

COLUMNS_AT_ONCE = 6  # students side by side; more go into another table
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
    key: str = ""  # what to sort it by


@dataclass(frozen=True)
class Column:
    """A student on a task."""

    task: str
    student: str
    init: str
    seeds: str


@dataclass(frozen=True)
class Row:
    """A regularizer, what it is in short, and its cell in every column."""

    name: str
    recipe: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class MainTable:
    """Regularizers by students; `tasks` are the column groups: name, metric and how many columns."""

    tasks: list[tuple[str, str, int]]
    columns: list[Column]
    rows: list[Row]


@dataclass(frozen=True)
class Open:
    """An inconclusive comparison and why it is."""

    where: str
    regularizer: str
    difference: str
    interval: str
    margin: str
    detectable: str
    seeds: str
    settle: str
    why: str


def main_tables(metrics: Metrics, study: Study) -> list[MainTable]:
    """The main table, cut between tasks where it would be wider than a page."""
    students = list(
        dict.fromkeys(zip(metrics.comparisons["task"], metrics.comparisons["student"], strict=True))
    )
    chunks: list[list[tuple[str, str]]] = []
    for task in dict.fromkeys(task for task, _ in students):
        mine = [pair for pair in students if pair[0] == task]
        for start in range(0, len(mine), COLUMNS_AT_ONCE):
            part = mine[start : start + COLUMNS_AT_ONCE]
            if chunks and len(chunks[-1]) + len(part) <= COLUMNS_AT_ONCE:
                chunks[-1] += part
            else:
                chunks.append(part)
    return [_main_table(chunk, metrics.comparisons, study) for chunk in chunks]


def _main_table(students: list[tuple[str, str]], comparisons: pd.DataFrame, study: Study) -> MainTable:
    by_key = {(row.task, row.student, row.regularizer): row for row in with_rows(comparisons)}
    first = {pair: next(row for key, row in by_key.items() if key[:2] == pair) for pair in students}
    columns = [
        Column(task, student, first[task, student].init, _seeds(comparisons, task, student))
        for task, student in students
    ]
    tasks = [
        (task, wording.metric(study.tasks[task].metrics[0]), sum(pair[0] == task for pair in students))
        for task in dict.fromkeys(task for task, _ in students)
    ]
    base: list[Cell | None] = [_baseline_cell(first[pair]) for pair in students]
    rows = [Row(study.comparison.baseline, wording.recipe(study.method(study.comparison.baseline)), base)]
    for name, method in _compared(comparisons, study):
        cells = [_cell(by_key.get((*pair, name))) for pair in students]
        if any(cells):
            rows.append(Row(name, method, cells))
    return MainTable(tasks, columns, rows)


def _seeds(comparisons: pd.DataFrame, task: str, student: str) -> str:
    mine = comparisons[(comparisons["task"] == task) & (comparisons["student"] == student)]["seeds"]
    low, high = int(mine.min()), int(mine.max())
    return wording.count(high, "seed") if low == high else f"{low} to {high} seeds"


def _compared(comparisons: pd.DataFrame, study: Study) -> list[tuple[str, str]]:
    """The compared regularizers in the order of the study, each with its recipe."""
    present = list(dict.fromkeys(comparisons["regularizer"]))
    return [(name, wording.recipe(method)) for name, method in study.methods().items() if name in present]


def _baseline_cell(row: Any) -> Cell:
    score = wording.mean_sd(row.baseline_mean, row.baseline_sd)
    return Cell(score, verdict="baseline", words="baseline", key=cell_key(row.baseline_mean))


def _cell(row: Any | None) -> Cell | None:
    if row is None:
        return None
    return Cell(
        score=wording.mean_sd(row.mean, row.sd),
        difference=wording.signed(row.difference),
        interval=wording.interval(row.ci_low, row.ci_high),
        verdict=row.verdict if row.verdict in CLASS_OF_VERDICT else "inconclusive",
        words=wording.verdict_words(row.verdict, row.negligible),
        sign=wording.SIGNS.get(row.verdict, ""),
        note=getattr(row, "note", ""),
        key=cell_key(row.mean),
    )


def open_questions(comparisons: pd.DataFrame, confidence: float) -> list[Open]:
    """The inconclusive comparisons, each with the reason in words."""
    return [
        Open(
            where=where_text(row.task, row.student),
            regularizer=row.regularizer,
            difference=wording.signed(row.difference),
            interval=wording.interval(row.ci_low, row.ci_high),
            margin=f"± {wording.points(row.margin)}",
            detectable=wording.number(row.detectable, 2),
            seeds=wording.number(row.seeds, 0),
            settle=_settle(row),
            why=_why(row, confidence),
        )
        for row in with_rows(comparisons)
        if row.verdict == "inconclusive"
    ]


def _settle(row: Any) -> str:
    """How many seeds would settle a comparison, and how: "12 (equivalence)", "more than 1000"."""
    by, seeds = getattr(row, "settled_by", ""), getattr(row, "seeds_to_settle", None)
    if wording.missing(seeds):
        return by.removesuffix(" seeds") or wording.NONE
    return f"{wording.number(seeds, 0)} ({by})"


def _why(row: Any, confidence: float) -> str:
    note = getattr(row, "note", "")
    if wording.missing(row.ci_low) or wording.missing(row.ci_high):
        return note or "no interval can be made from these seeds"
    level = f"the {confidence:.0%} interval"
    if row.ci_low > 0 or row.ci_high < 0:
        reason = f"{level} excludes 0 taken alone, but not after the correction"
    elif -row.margin < row.ci_low and row.ci_high < row.margin:
        reason = f"{level} lies within the margin taken alone, but not after the correction"
    else:
        reason = f"{level} holds both 0 and {_beyond(row)} the margin"
    return f"{reason}; {note}" if note else reason


def _beyond(row: Any) -> str:
    above, below = row.ci_high >= row.margin, row.ci_low <= -row.margin
    return (
        "differences beyond both ends of"
        if above and below
        else ("gains beyond" if above else "losses beyond")
    )


KINDS = ("teacher", "cache", "views", "unlabelled", "trial")  # of cost.csv
NAMES = ("task", "student", "regularizer")

# heading: the column of comparisons.csv and how it is written; the interval is written with the difference
NUMBERS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "score": ("mean", score),
    "baseline": ("baseline_mean", score),
    "difference": ("difference", wording.signed),
    "from": ("ci_low", two),
    "to": ("ci_high", two),
    "corrected p": ("t_p_corrected", wording.p_value),
    "corrected TOST p": ("tost_p_corrected", wording.p_value),
    "detectable": ("detectable", two),
    "seeds": ("seeds", whole),
    "seeds to settle": ("seeds_to_settle", whole),
    "paired t p": ("t_p", wording.p_value),
    "Welch p": ("welch_p", wording.p_value),
    "sign-flip p": ("permutation_p", p_value_4),
    "its floor": ("permutation_floor", p_value_4),
    "TOST p": ("tost_p", wording.p_value),
    "Hedges’ g": ("hedges_g", two),
    "Cliff’s delta": ("cliffs_delta", two),
}
