"""The section with the table of every comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from kdcache.report.charts import INITS
from kdcache.report.sections import WithoutCharts
from kdcache.report.tables import CLASS_OF_VERDICT, IN_UNIT, NAMES, NUMBERS, sort_key
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import ComparisonRow
from kdcache.statistics import wording
from kdcache.study.metrics import unit_of


@dataclass(frozen=True)
class SortableNumber:
    """A number in words, and its sort key (empty for no number: sorted last)."""

    text: str
    key: str = ""


@dataclass(frozen=True)
class ComparisonLine:
    """All numbers of one comparison, p-values included; the page's search looks in `words`."""

    names: list[str]
    numbers: list[SortableNumber]
    verdict: str
    verdict_words: str
    init: str
    words: str


@dataclass(frozen=True)
class ComparisonsSection(WithoutCharts):
    """All comparisons, and the verdicts and inits by which they can be filtered."""

    template: ClassVar[str] = "sections/comparisons.html.j2"
    headings: list[str]
    rows: list[ComparisonLine]
    verdicts: list[str]
    inits: list[str]


def make_section(metrics: Metrics) -> ComparisonsSection | None:
    headings, lines = comparison_lines(metrics.comparisons)
    verdicts = list(dict.fromkeys(line.verdict for line in lines))
    inits = [init for init in INITS if any(line.init == init for line in lines)]
    return ComparisonsSection(headings, lines, verdicts, inits) if lines else None


def comparison_lines(comparisons: pd.DataFrame) -> tuple[list[str], list[ComparisonLine]]:
    """The headings of numbers and the rows of the table; comparisons without any number are left out."""
    shown = {title: how for title, how in NUMBERS.items() if comparisons[how[0]].notna().any()}
    rows = rows_of(ComparisonRow, comparisons)
    return list(shown), [_comparison(row, list(shown.values())) for row in rows]


def _comparison(row: ComparisonRow, shown: list[tuple[str, Callable[..., str]]]) -> ComparisonLine:
    names = [str(getattr(row, name)) for name in NAMES]
    verdict = row.verdict if row.verdict in CLASS_OF_VERDICT else "inconclusive"
    words = wording.outcome_words(row.verdict, row.negligible, row.outcome)
    values = [
        SortableNumber(_written(getattr(row, column), write, row.metric), sort_key(getattr(row, column)))
        for column, write in shown
    ]
    searched = " ".join([*names, row.init, words]).lower()
    return ComparisonLine(names, values, verdict, words, row.init, searched)


def _written(value: float | None, write: Callable[..., str], metric: str) -> str:
    return write(value, unit_of(metric)) if write in IN_UNIT else write(value)
