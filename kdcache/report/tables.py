"""The report's tables as plain values: every number already in words, a template only lays them out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from kdcache.params import Study
from kdcache.report import wording
from kdcache.report.claims import pooled
from kdcache.report.inputs import Metrics, flags

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
class TeacherCost:
    """What a teacher cost once, and what it would have cost without the cache."""

    task: str
    teacher: str
    trained: str
    cached: str
    readers: str
    once: str
    per_student: str
    online: str
    passes: str
    break_even: str
    memory: str
    device: str


@dataclass(frozen=True)
class StudentCost:
    """What a student's trials cost on a task."""

    task: str
    student: str
    trials: str
    each: str
    total: str
    memory: str
    device: str


@dataclass(frozen=True)
class Cost:
    """Both cost tables and the sums for a sentence, in seconds."""

    teachers: list[TeacherCost] = field(default_factory=list)
    students: list[StudentCost] = field(default_factory=list)
    teacher_seconds: float = 0.0
    trial_seconds: float = 0.0
    readers: int = 0
    online: float | None = None  # seconds of teachers, had they run in every epoch of every reader
    device: str = ""


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


@dataclass(frozen=True)
class Value:
    """A number in words, and what to sort it by (empty: none, sorted last)."""

    text: str
    key: str = ""


@dataclass(frozen=True)
class Comparison:
    """All numbers of one comparison, p-values included; `words` is what a search looks in."""

    names: list[str]
    numbers: list[Value]
    verdict: str
    verdict_words: str
    init: str
    words: str


@dataclass(frozen=True)
class Interaction:
    """How much more a regularizer gains from scratch than pretrained, for a pair of students or over all."""

    where: str
    regularizer: str
    scratch: str
    pretrained: str
    difference: str
    interval: str
    p: str
    n: str
    verdict: str
    note: str


def _where(task: object, student: object) -> str:
    return f"{task}: {student}"


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
    by_key = {(row.task, row.student, row.regularizer): row for row in _rows(comparisons)}
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


def _rows(table: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, `negligible` a Python boolean in each."""
    yield from table.assign(negligible=flags(table, "negligible")).itertuples(index=False)


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
    return Cell(score, verdict="baseline", words="baseline", key=_key(row.baseline_mean))


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
        key=_key(row.mean),
    )


def open_questions(comparisons: pd.DataFrame, confidence: float) -> list[Open]:
    """The inconclusive comparisons, each with the reason in words."""
    return [
        Open(
            where=_where(row.task, row.student),
            regularizer=row.regularizer,
            difference=wording.signed(row.difference),
            interval=wording.interval(row.ci_low, row.ci_high),
            margin=f"± {wording.points(row.margin)}",
            detectable=wording.number(row.detectable, 2),
            seeds=wording.number(row.seeds, 0),
            settle=_settle(row),
            why=_why(row, confidence),
        )
        for row in _rows(comparisons)
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


def costs(metrics: Metrics, study: Study) -> Cost:
    """What teachers, caches and trials cost; teachers first."""
    cost = metrics.cost
    by_kind = {kind: cost[cost["kind"] == kind] for kind in KINDS}
    trials, once = by_kind["trial"], cost[cost["kind"] != "trial"]
    names = once[["task", "model"]].drop_duplicates()
    pairs = list(names.itertuples(index=False, name=None))
    online = sum(_online(task, teacher, by_kind, study) for task, teacher in pairs)
    readers = [index for task, teacher in pairs for index in _readers(task, teacher, trials, study).index]
    return Cost(
        teachers=[_teacher_cost(task, teacher, by_kind, study) for task, teacher in pairs],
        students=[_student_cost(task, student, mine) for (task, student), mine in _by_student(trials)],
        teacher_seconds=float(once["seconds"].sum()),
        trial_seconds=float(trials["seconds"].sum()),
        readers=len(set(readers)),  # a trial taught by an ensemble reads the logits of several
        online=None if wording.missing(online) else online,
        device=_devices(cost),
    )


def _by_student(trials: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for key, mine in trials.groupby(["task", "model"], sort=False):
        yield (str(key[0]), str(key[1])), mine


def _readers(task: str, teacher: str, trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The trials that trained on this teacher's cached logits."""
    pairs = [
        (student, method)
        for student, params in study.students.items()
        for method, how in study.methods().items()
        if teacher in how.teachers_of(params)
    ]
    mine = pd.MultiIndex.from_frame(trials[["model", "regularizer"]]).isin(pairs)
    return trials[(trials["task"] == task) & mine]


def _teacher_cost(task: str, teacher: str, by_kind: dict[str, pd.DataFrame], study: Study) -> TeacherCost:
    trained = _of(by_kind["teacher"], task, teacher)
    # views: the same rows again, augmented; unlabelled: further ones
    cached = pd.concat([_of(by_kind[kind], task, teacher) for kind in ("cache", "views", "unlabelled")])
    readers = _readers(task, teacher, by_kind["trial"], study)
    students, passes = readers["model"].nunique(), _passes(readers, study)
    once = trained["seconds"].sum() + cached["seconds"].sum()
    both = pd.concat([trained, cached])
    return TeacherCost(
        task=task,
        teacher=teacher,
        trained=wording.seconds(_total(trained)),
        cached=wording.seconds(_total(cached)),
        readers=f"{wording.count(len(readers), 'trial')} of {wording.count(students, 'student')}",
        once=wording.seconds(once),
        per_student=wording.seconds(once * students),
        online=wording.seconds(_online(task, teacher, by_kind, study)),
        passes=wording.count(passes, "pass", "passes"),
        break_even=_break_even(_total(cached), _passed(task, teacher, by_kind, study), students),
        memory=wording.megabytes(both["peak_memory_mb"].max()),
        device=_devices(both),
    )


def _online(task: str, teacher: str, by_kind: dict[str, pd.DataFrame], study: Study) -> float:
    """Seconds, had the teacher run in every epoch of every trial that reads its logits."""
    return _total(_of(by_kind["teacher"], task, teacher)) + _passed(task, teacher, by_kind, study)


def _passed(task: str, teacher: str, by_kind: dict[str, pd.DataFrame], study: Study) -> float:
    """Seconds of the teacher in every epoch of those trials, on unlabelled rows too where their method uses them."""
    readers, augment = _readers(task, teacher, by_kind["trial"], study), study.tasks[task].augment
    users = [name for name, method in study.methods().items() if method.unlabelled == "use"]
    plain, more = (_of(by_kind[kind], task, teacher) for kind in ("cache", "unlabelled"))
    one_view = float(more["seconds"].sum()) / (augment.views if augment else 1)
    passes = _passes(readers[readers["regularizer"].isin(users)], study)
    return _total(plain) * _passes(readers, study) + one_view * passes


def _passes(readers: pd.DataFrame, study: Study) -> int:
    """How often these trials go through the logits of the training rows."""
    return sum(study.students[student].epochs for student in readers["model"])


def _break_even(filled: float, passed: float, students: int) -> str:
    """From which student on the cache costs less than the teacher in every epoch.

    Args:
        filled: seconds that filling the cache took; passed: that the teacher would take in all epochs of all students.
    """
    return f"student {math.floor(filled * students / passed) + 1}" if passed > 0 else wording.NONE


def _of(table: pd.DataFrame, task: str, model: str) -> pd.DataFrame:
    return table[(table["task"] == task) & (table["model"] == model)]


def _total(table: pd.DataFrame) -> float:
    return float(table["seconds"].sum(min_count=1))


def _devices(table: pd.DataFrame) -> str:
    return wording.listing(sorted({device for device in table["device"] if device}))


def _student_cost(task: str, student: str, mine: pd.DataFrame) -> StudentCost:
    return StudentCost(
        task=task,
        student=student,
        trials=f"{len(mine):,}",
        each=wording.seconds(mine["seconds"].mean()),
        total=wording.seconds(_total(mine)),
        memory=wording.megabytes(mine["peak_memory_mb"].max()),
        device=_devices(mine),
    )


def interaction(metrics: Metrics) -> list[Interaction]:
    """The rows of summary.json's interaction; a pool of fewer than two pairs adds nothing and is left out."""
    rows = metrics.summary.get("interaction", [])
    return [_interaction(row, metrics) for row in rows if row["scope"] == "pair" or row["n"] > 1]


def _interaction(row: dict[str, Any], metrics: Metrics) -> Interaction:
    pair = f"{_where(row['task'], row['scratch'])} against {row['pretrained']}"
    all_of_them = f"{pooled(row['n'], metrics)}, each pair’s mean as one value"
    return Interaction(
        where=pair if row["scope"] == "pair" else all_of_them,
        regularizer="mean of all" if row["regularizer"] == "all" else row["regularizer"],
        scratch=wording.signed(row["gain_scratch"]),
        pretrained=wording.signed(row["gain_pretrained"]),
        difference=wording.signed(row["interaction"]),
        interval=wording.interval(row["ci_low"], row["ci_high"]),
        p=wording.p_value(row["p_corrected"]),
        n=f"{row['n']} {row['unit']}",
        verdict=row["verdict"],
        note=row["note"],
    )


def _p4(value: float | None) -> str:
    """Counts over counts: shown in full."""
    return wording.number(value, 4)


def _score(value: float | None) -> str:
    return wording.number(value, 1)


def _two(value: float | None) -> str:
    return wording.number(value, 2)


def _whole(value: float | None) -> str:
    return wording.number(value, 0)


NAMES = ("task", "student", "regularizer")
# heading: the column of comparisons.csv and how it is written; the interval is written with the difference
NUMBERS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "score": ("mean", _score),
    "baseline": ("baseline_mean", _score),
    "difference": ("difference", wording.signed),
    "from": ("ci_low", _two),
    "to": ("ci_high", _two),
    "corrected p": ("t_p_corrected", wording.p_value),
    "corrected TOST p": ("tost_p_corrected", wording.p_value),
    "detectable": ("detectable", _two),
    "seeds": ("seeds", _whole),
    "seeds to settle": ("seeds_to_settle", _whole),
    "paired t p": ("t_p", wording.p_value),
    "Welch p": ("welch_p", wording.p_value),
    "sign-flip p": ("permutation_p", _p4),
    "its floor": ("permutation_floor", _p4),
    "TOST p": ("tost_p", wording.p_value),
    "Hedges’ g": ("hedges_g", _two),
    "Cliff’s delta": ("cliffs_delta", _two),
}


def all_comparisons(comparisons: pd.DataFrame) -> tuple[list[str], list[Comparison]]:
    """Number headings and rows of the table of everything; columns that comparisons.csv lacks are left out."""
    shown = {title: how for title, how in NUMBERS.items() if how[0] in comparisons}
    return list(shown), [_comparison(row, list(shown.values())) for row in _rows(comparisons)]


def _comparison(row: Any, shown: list[tuple[str, Callable[[float | None], str]]]) -> Comparison:
    names = [str(getattr(row, name)) for name in NAMES]
    verdict = row.verdict if row.verdict in CLASS_OF_VERDICT else "inconclusive"
    words = wording.verdict_words(row.verdict, row.negligible)
    values = [Value(write(getattr(row, column)), _key(getattr(row, column))) for column, write in shown]
    searched = " ".join([*names, row.init, words]).lower()
    return Comparison(names, values, verdict, words, row.init, searched)


def _key(value: float | None) -> str:
    return "" if value is None or wording.missing(value) else f"{value:.6g}"
