"""The report's tables for a paper, in LaTeX (booktabs), Markdown or CSV, with the same words as the page.

A table becomes a `Grid` of cells, and each cell has one or more lines. A format only lays out a grid.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest

from kdcache.errors import ComparisonError
from kdcache.report import across, calibration, comparisons, costs, tables
from kdcache.report.declared import CORRECTIONS, FAMILIES
from kdcache.results.reading import Metrics
from kdcache.statistics import wording
from kdcache.study import Study

# The numbers that fit on a page of a paper; comparisons.csv has all.
NUMBERS = (
    "score",
    "baseline",
    "difference",
    "from",
    "to",
    "corrected p",
    "corrected TOST p",
    "Hedges’ g",
    "detectable",
)


@dataclass(frozen=True)
class Text:
    """A cell: its lines, and whether the first is bold."""

    lines: tuple[str, ...] = ()
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: its caption, the headings, which columns hold numbers (aligned right), and the rows."""

    caption: str
    heads: list[Text]
    numbers: list[bool]
    rows: list[list[Text]]
    groups: tuple[tuple[str, int], ...] = ()  # headings over several columns: name and number of columns


def _text(*lines: str, bold: bool = False) -> Text:
    return Text(lines, bold)


# ---- the tables ----


def main_grids(metrics: Metrics, study: Study) -> list[Grid]:
    """The main table, split between tasks if it is too wide for a page."""
    return [_main(table, study) for table in tables.main_tables(metrics, study)]


def _main(table: tables.MainTable, study: Study) -> Grid:
    return Grid(
        caption=legend(study),
        heads=[Text(), *(_text(column.student) for column in table.columns)],
        numbers=[False] * (1 + len(table.columns)),
        rows=[[_text(row.name), *map(_cell, row.cells)] for row in table.rows],
        groups=(("", 1), *((f"{task} ({metric})", width) for task, metric, width in table.tasks)),
    )


def _cell(cell: tables.Cell | None) -> Text:
    """A cell; bold if the verdict is better, not if the score is merely the largest."""
    if cell is None:
        return Text()
    if not cell.difference:
        return _text(cell.score, cell.words)
    verdict = f"{cell.sign} {cell.words}".strip()
    return _text(cell.score, f"{cell.difference} {cell.interval}", verdict, bold=cell.verdict == "better")


def legend(study: Study) -> str:
    """The legend: what a cell of the main table shows."""
    comparison, seeds = study.comparison, wording.count(len(study.seeds), "seed")
    repeated = ""
    if len(study.looks) > 1:
        seeds, repeated = "the seeds of the look that decided", "repeated "
    return (
        f"Mean ± standard deviation over {seeds} in {study.unit.plural}; difference from {comparison.baseline}, "
        f"paired by seed, with its {repeated}{100 * (1 - comparison.alpha):g}% interval; verdict (correction: "
        f"{CORRECTIONS[comparison.correction]}, over {FAMILIES[comparison.family]})."
    )


def comparison_grids(metrics: Metrics, study: Study) -> list[Grid]:
    """Every comparison with its interval and p-values."""
    headings, rows = comparisons.comparison_lines(metrics.comparisons)
    shown = [headings.index(name) for name in NUMBERS if name in headings]
    heads = ["task", "student", "regularizer", *(headings[place] for place in shown), "verdict"]
    caption = f"Every configuration against {study.comparison.baseline}; scores and differences in {study.unit.plural}."
    cells = [[*row.names, *(row.numbers[place].text for place in shown), row.verdict_words] for row in rows]
    return [_plain(caption, heads, cells, left_aligned={"task", "student", "regularizer", "verdict"})]


def calibration_grids(metrics: Metrics, study: Study) -> list[Grid]:
    """NLL, Brier score and ECE with their change from the baseline."""
    names = calibration.names(metrics)
    heads = ["", "regularizer", *names, "too sure by"]
    rows = [
        [_text(row.group), _text(row.regularizer), *map(_score, row.scores), _text(row.overconfidence)]
        for row in calibration.lines(metrics, study)
    ]
    caption = (
        f"Calibration on the validation rows: mean ± standard deviation, and the change from "
        f"{study.comparison.baseline} (lower is better); too sure by: confidence minus accuracy in points."
    )
    numbers = [False, False, *(False for _ in names), True]
    return [Grid(caption, [_text(head) for head in heads], numbers, rows)]


def _score(score: calibration.ScoreCell) -> Text:
    change = " ".join(part for part in (score.change, score.interval, score.direction) if part)
    return _text(*filter(None, (score.mean, change)), bold=score.direction == "better")


def across_grids(metrics: Metrics, study: Study) -> list[Grid]:
    """Each regularizer over several tasks; empty if every student has one task."""
    heads = ["", "regularizer", "tasks", "difference", "interval", "p, these tasks", "p, other tasks", "wins"]
    heads += ["worse / within / better", "mean rank"]
    rows = [
        [
            *(row.group, row.regularizer, row.tasks, row.difference, row.interval, row.permutation),
            *(row.wilcoxon, row.improvement, row.bayes, row.rank),
        ]
        for row in across.lines(metrics)
    ]
    caption = (
        f"Over tasks, each alike: difference from {study.comparison.baseline} in {study.unit.plural}, its interval "
        "over tasks."
    )
    return [_plain(caption, heads, rows, left_aligned={"", "regularizer"})] if rows else []


def cost_grids(metrics: Metrics, study: Study) -> list[Grid]:
    """What teachers cost once, and what students cost."""
    cost = costs.costs(metrics, study)
    heads = [
        "task",
        "teacher",
        "training",
        "caching",
        "logits read by",
        "paid",
        "without a cache",
        "peak memory",
    ]
    taught = [
        [row.task, row.teacher, row.trained, row.cached, row.readers, row.once, row.online, row.memory]
        for row in cost.teachers
    ]
    columns = ["task", "student", "trials", "each", "in all", "peak memory"]
    trained = [[row.task, row.student, row.trials, row.each, row.total, row.memory] for row in cost.students]
    left_aligned = {"task", "teacher", "student", "logits read by"}
    teachers = [_plain(f"Teachers, once, on {cost.device}.", heads, taught, left_aligned)] if taught else []
    return [*teachers, _plain(f"Students, every trial, on {cost.device}.", columns, trained, left_aligned)]


def _plain(caption: str, heads: list[str], rows: list[list[str]], left_aligned: set[str]) -> Grid:
    """A grid of one-line cells; `left_aligned` has the headings of columns with words, which are aligned left."""
    cells = [[_text(cell) for cell in row] for row in rows]
    return Grid(caption, [_text(head) for head in heads], [head not in left_aligned for head in heads], cells)


TABLES: dict[str, Callable[[Metrics, Study], list[Grid]]] = {
    "main": main_grids,
    "comparisons": comparison_grids,
    "calibration": calibration_grids,
    "across": across_grids,
    "cost": cost_grids,
}


# ---- the formats ----


def markdown(grid: Grid) -> str:
    """A pipe table; the lines of a cell are separated by <br>."""
    columns = [name for name, width in grid.groups for _ in range(width)] or [""] * len(grid.heads)
    heads = [
        _text(*filter(None, (group, *head.lines))) for group, head in zip(columns, grid.heads, strict=True)
    ]
    rules = ["---:" if number else "---" for number in grid.numbers]
    lines = [[_markdown_cell(head) for head in heads], rules]
    lines += [[_markdown_cell(cell) for cell in row] for row in grid.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(cell: Text) -> str:
    lines = [escape_markdown(line) for line in cell.lines]
    return "<br>".join([f"**{lines[0]}**", *lines[1:]] if cell.bold and lines else lines)


def escape_markdown(text: str) -> str:
    """Text with underscores (which Markdown can read as emphasis) and bars (which end a cell) escaped."""
    return text.replace("_", r"\_").replace("|", r"\|")


def comma_separated(grid: Grid) -> str:
    """CSV; the lines of a cell are separated by semicolons, and a heading over several columns is repeated for each."""
    columns = [name for name, width in grid.groups for _ in range(width)] or [""] * len(grid.heads)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = zip(columns, grid.heads, strict=True)
    writer.writerow([" ".join(filter(None, (group, *head.lines))) for group, head in heads])
    writer.writerows(["; ".join(cell.lines) for cell in row] for row in grid.rows)
    return text.getvalue().rstrip("\n")


def latex(grid: Grid) -> str:
    """A table environment for the package booktabs; a cell with several lines takes several rows."""
    rows = [_latex_row(row) for row in grid.rows]
    between = "\n\\addlinespace\n" if any(len(lines) > 1 for lines in rows) else "\n"
    return "\n".join(
        (
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(grid.caption)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in grid.numbers)}}}",
            r"\toprule",
            *_latex_groups(grid.groups),
            *_latex_row(grid.heads),
            r"\midrule",
            between.join("\n".join(lines) for lines in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        )
    )


def _latex_groups(groups: Sequence[tuple[str, int]]) -> list[str]:
    """The headings over several columns, each with a rule under its columns."""
    if not groups:
        return []
    ends = list(accumulate(width for _, width in groups))
    cells = [rf"\multicolumn{{{width}}}{{l}}{{{escape_latex(name)}}}" for name, width in groups]
    rules = [
        rf"\cmidrule(lr){{{end - width + 1}-{end}}}"
        for (name, width), end in zip(groups, ends, strict=True)
        if name
    ]
    return [f"{' & '.join(cells)} \\\\", " ".join(rules)]


def _latex_row(cells: Sequence[Text]) -> list[str]:
    columns = [_latex_cell(cell) for cell in cells]
    return [f"{' & '.join(line)} \\\\" for line in zip_longest(*columns, fillvalue="")] or [r"\\"]


def _latex_cell(cell: Text) -> list[str]:
    lines = [escape_latex(line) for line in cell.lines]
    return [rf"\textbf{{{lines[0]}}}", *lines[1:]] if cell.bold and lines else lines


LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": r"\textbar{}",
        "\N{NO-BREAK SPACE}": "~",
        "\N{MINUS SIGN}": "$-$",
        "±": r"$\pm$",
        "≈": r"$\approx$",
        "∞": r"$\infty$",
        "▲": r"$\uparrow$",
        "▼": r"$\downarrow$",
        "–": "--",
        "’": "'",
        "“": "``",
        "”": "''",
        "α": r"$\alpha$",
        "τ": r"$\tau$",
    }
)


def escape_latex(text: str) -> str:
    """Text escaped for LaTeX, even a bracket or star at its start, which the line break before would take."""
    escaped = text.translate(LATEX)
    return f"{{{escaped[0]}}}{escaped[1:]}" if text[:1] in ("[", "*") else escaped


Layout = Callable[[Grid], str]
FORMATS: dict[str, Layout] = {"latex": latex, "markdown": markdown, "csv": comma_separated}


def paper_table(metrics: Metrics, study: Study, table: str, form: str) -> str:
    """One of `TABLES` in one of `FORMATS`. Several grids are separated by a blank line; Markdown has captions below.

    Raises:
        ComparisonError: the table is empty for this study.
    """
    grids = TABLES[table](metrics, study)
    if not any(grid.rows for grid in grids):
        raise ComparisonError(
            f"the table {table!r} is empty for this study: {EMPTY.get(table, 'no comparisons')}"
        )
    parts = (
        FORMATS[form](grid) + (f"\n\n{escape_markdown(grid.caption)}" if form == "markdown" else "")
        for grid in grids
    )
    return "\n\n".join(parts)


EMPTY = {
    "across": "no student has two tasks or more",
    "calibration": "no trial has a calibration score (a regression has none)",
    "cost": "no trial",
}
